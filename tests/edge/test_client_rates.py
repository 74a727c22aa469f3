"""What a client may send in a minute, in requests and in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.held_upstream import held_upstream, limited, refusal, request_for
from tests.support.raw_client import post, raw_client, request_head

if TYPE_CHECKING:
    from tests.support.raw_client import Answer

pytestmark = pytest.mark.anyio


def retry_after_s(answer: Answer) -> int:
    return int(answer.header(b"retry-after"))


class TestRequests:
    async def test_more_than_the_allowance_is_refused_and_never_sent(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, requests_per_minute=2) as proxy:
            upstream.answer_all()
            async with raw_client(proxy.url) as client:
                answers = [await client.ask(request_for(name)) for name in ("a1", "a2", "a3")]
                assert [answer.status for answer in answers] == [200, 200, 429]
                assert refusal(answers[2]) == (429, "rate_limited")
                assert 25 <= retry_after_s(answers[2]) <= 30
                assert (await client.ask(request_head("GET", "/livez"))).status == 200
            assert upstream.asked == ["a1", "a2"]

    async def test_each_key_has_its_own(self) -> None:
        async with held_upstream() as upstream:
            async with limited(upstream.url, keys=("one", "two"), requests_per_minute=1) as proxy:
                upstream.answer_all()
                async with raw_client(proxy.url) as client:
                    asked = [("one", 200), ("one", 429), ("two", 200), ("two", 429)]
                    for number, (key, status) in enumerate(asked):
                        assert (await client.ask(request_for(f"a{number}", key=key))).status == status


class TestTokens:
    async def test_what_the_upstream_states_is_charged_when_it_has_answered(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, tokens_per_minute=600) as proxy:
            upstream.answer("a1", b'{"usage":{"prompt_tokens":900,"completion_tokens":100,"total_tokens":1000}}')
            async with raw_client(proxy.url) as client:
                assert (await client.ask(request_for("a1"))).status == 200
                answer = await client.ask(request_for("a2"))
                assert refusal(answer) == (429, "rate_limited")
                assert 30 <= retry_after_s(answer) <= 41
                assert b"600 tokens a minute" in answer.body
            assert upstream.asked == ["a1"]

    async def test_where_it_states_nothing_the_bytes_are_counted(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, tokens_per_minute=1000) as proxy:
            upstream.answer_all()
            async with raw_client(proxy.url) as client:
                assert (await client.ask(request_for("a1", padding_bytes=3000))).status == 200
                assert (await client.ask(request_for("a2", padding_bytes=3000))).status == 200
                assert (await client.ask(request_for("a3", padding_bytes=3000))).status == 429

    async def test_errors_and_bodies_that_are_no_prompt_cost_nothing(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, tokens_per_minute=10) as proxy:
            upstream.answer("refused", status=400)
            async with raw_client(proxy.url) as client:
                assert (await client.ask(request_for("refused", padding_bytes=2000))).status == 400
                upstream.answer("upload")
                upload = b'{"model":"upload"}' + bytes(2000)
                assert (await client.ask(post("/v1/files", upload))).status == 200
                upstream.answer("a")
                assert (await client.ask(request_for("a"))).status == 200

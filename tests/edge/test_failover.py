"""One request, several upstreams: connections tried again, rules of `[[fallback]]`, upstreams that are left alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from tests.support.account_stage import with_keys
from tests.support.backends import (
    CHAT,
    DONE,
    FIRST,
    GOOD,
    JSON,
    LONG_BYTES,
    STREAM,
    Early,
    backend,
    chat,
    chat_body,
    error,
    fallback,
    proxy_before,
    settings_before,
)
from tests.support.leaks import turns
from tests.support.raw_client import Answer, End, post, raw_client, request_head
from tests.support.scripted_upstream import answer, close, send, wait_for

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.anyio

BUSY = error(503)
LIMITED = error(429, "limit_requests")
ATTEMPTS = b"x-qproxy-attempts"
ALL_CAUSES = ("connect", "quota", "429", "503", "account", "context")
READY = request_head("GET", "/readyz")
SOON_S = 0.05
TO_SECOND = fallback("first:*", "second:*")


def is_good(got: Answer) -> bool:
    return (got.status, got.end) == (200, End.WHOLE) and b'"error"' not in got.body


class TestFromModelToModel:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("padding", [0, LONG_BYTES], ids=["stored", "passed on"])
    async def test_the_name_changes_and_nothing_else(self, tmp_path: Path, padding: int, stream: bool) -> None:
        async with backend(LIMITED, STREAM if stream else GOOD) as only:
            async with proxy_before(tmp_path, fallback("big", "the-small-one"), only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big", stream=stream, padding_bytes=padding))
        assert is_good(got)
        assert got.header(ATTEMPTS) == b"2"
        assert only.bodies[0] == chat_body("big", stream=stream, padding_bytes=padding)
        assert only.bodies[1] == chat_body("the-small-one", stream=stream, padding_bytes=padding)

    async def test_a_model_that_comes_at_the_end_of_a_long_body(self, tmp_path: Path) -> None:
        body = b'{"x": "%b", "model": "%b"}'
        async with backend(LIMITED, GOOD) as only:
            async with proxy_before(tmp_path, fallback("big", "small"), only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    assert is_good(await client.ask(post(CHAT, body % (b"x" * LONG_BYTES, b"big"))))
        assert [each[LONG_BYTES:] for each in only.bodies] == [
            (body % (b"x" * LONG_BYTES, name))[LONG_BYTES:] for name in (b"big", b"small")
        ]

    async def test_a_model_that_was_filled_in(self, tmp_path: Path) -> None:
        async with backend(LIMITED, GOOD) as only:
            toml = 'default_model = "big"\n' + fallback("big", "small")
            async with proxy_before(tmp_path, toml, only=only) as proxy, raw_client(proxy.url) as client:
                assert is_good(await client.ask(post(CHAT, b'{"messages": []}')))
        assert only.models == ["big", "small"]

    async def test_a_model_under_another_name(self, tmp_path: Path) -> None:
        """The rule is for the name that the upstream knows."""
        async with backend(LIMITED, GOOD) as only:
            toml = fallback("big", "small") + '[models]\nfast = "big"\n'
            async with proxy_before(tmp_path, toml, only=only) as proxy, raw_client(proxy.url) as client:
                assert is_good(await client.ask(chat("fast")))
        assert only.models == ["big", "small"]

    async def test_other_models_have_no_rule(self, tmp_path: Path) -> None:
        async with backend(LIMITED, GOOD) as only:
            async with proxy_before(tmp_path, fallback("big", "small"), only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("other"))
        assert (got.status, got.error_code, got.header(ATTEMPTS)) == (429, "limit_requests", b"")
        assert only.models == ["other"]


class TestFromUpstreamToUpstream:
    @pytest.mark.parametrize("target", ["second:*", "second:other"])
    @pytest.mark.parametrize("padding", [0, LONG_BYTES], ids=["stored", "passed on"])
    async def test_the_whole_body_goes_there(self, tmp_path: Path, padding: int, target: str) -> None:
        name = "big" if target.endswith("*") else "other"
        async with backend(BUSY) as first, backend(GOOD) as second:
            toml = fallback("first:*", target)
            async with proxy_before(tmp_path, toml, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("first:big", padding_bytes=padding))
        assert is_good(got)
        assert first.bodies == [chat_body("big", padding_bytes=padding)]
        assert second.bodies == [chat_body(name, padding_bytes=padding)]

    @pytest.mark.parametrize("reply", [BUSY, LIMITED, error(401)])
    async def test_an_answer_that_comes_before_the_body_is_there(self, tmp_path: Path, reply: bytes) -> None:
        """The rest of it is read, and the other upstream gets all of it."""
        request = chat("big", padding_bytes=4 * LONG_BYTES)
        async with backend(Early(reply)) as first, backend(GOOD) as second:
            async with proxy_before(tmp_path, TO_SECOND, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(request[:LONG_BYTES])
                    await turns()
                    await client.send(request[LONG_BYTES:])
                    got = await client.answer()
        assert is_good(got)
        (body,) = second.bodies
        assert hashlib.sha256(body).digest() == hashlib.sha256(chat_body("big", padding_bytes=4 * LONG_BYTES)).digest()

    async def test_a_long_body_that_found_nobody(self, tmp_path: Path) -> None:
        async with backend(is_open=False) as first, backend(STREAM) as second:
            async with proxy_before(tmp_path, TO_SECOND, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big", stream=True, padding_bytes=LONG_BYTES))
        assert is_good(got)
        assert (bytes(got.body), got.header(ATTEMPTS)) == (FIRST + DONE, b"2")
        assert second.bodies == [chat_body("big", stream=True, padding_bytes=LONG_BYTES)]

    async def test_a_body_that_is_not_kept_goes_nowhere_else(self, tmp_path: Path) -> None:
        async with backend(BUSY) as first, backend(GOOD) as second:
            async with proxy_before(tmp_path, TO_SECOND, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(request_head("POST", "/v1/files", b"Content-Length: 4") + b"file")
        assert (got.status, len(second.bodies)) == (503, 0)

    async def test_a_client_that_stops_in_the_middle_of_its_body(self, tmp_path: Path) -> None:
        request = chat("big", padding_bytes=LONG_BYTES)
        clocks = {"body_s": SOON_S}
        async with backend(Early(BUSY)) as first, backend(GOOD) as second:
            async with proxy_before(tmp_path, TO_SECOND, timeouts=clocks, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(request[:-1000])
                    got = await client.answer()
        assert (got.status, got.error_code) == (408, "body_timeout")
        assert second.bodies == []


REASONS: dict[str, list[bytes]] = {
    "429": [LIMITED],
    "quota": [error(403, "insufficient_quota"), error(400, "Arrearage")],
    "503": [BUSY, error(500, "ModelServingError")],
    "account": [error(401, "invalid_api_key")],
    "context": [error(400, "context_length_exceeded")],
}
NO_REASON = [
    error(400, "InvalidParameter"),
    error(404, "model_not_found"),
    error(413),
    error(500, "InternalError"),
    answer(502, [(b"content-type", b"text/html")], b"<p>Bad gateway"),
    error(504),
]


class TestCauses:
    @pytest.mark.parametrize("cause", REASONS)
    async def test_each_leads_where_it_is_named_and_nowhere_else(self, tmp_path: Path, cause: str) -> None:
        others = [each for each in ALL_CAUSES if each != cause]
        for reply in REASONS[cause]:
            for on, is_led in (([cause], True), (others, False)):
                async with backend(reply) as first, backend(GOOD) as second:
                    rule = fallback("first:*", "second:*", *on)
                    async with proxy_before(tmp_path, rule, first=first, second=second) as proxy:
                        async with raw_client(proxy.url) as client:
                            got = await client.ask(chat("big"))
                assert is_good(got) is is_led
                assert (len(first.bodies), len(second.bodies)) == (1, int(is_led))
                if not is_led:
                    assert got.head.startswith(reply.split(b" Scripted")[0])
                    assert reply.endswith(bytes(got.body))

    async def test_a_429_for_a_used_up_quota_is_both(self, tmp_path: Path) -> None:
        for cause in ("quota", "429"):
            async with backend(error(429, "insufficient_quota")) as first, backend(GOOD) as second:
                rule = fallback("first:*", "second:*", cause)
                async with proxy_before(tmp_path, rule, first=first, second=second) as proxy:
                    async with raw_client(proxy.url) as client:
                        assert is_good(await client.ask(chat("big")))

    async def test_nobody_there(self, tmp_path: Path) -> None:
        for on, is_led in ((["connect"], True), (["503", "429", "quota", "account", "context"], False)):
            async with backend(is_open=False) as first, backend(GOOD) as second:
                rule = fallback("first:*", "second:*", *on)
                async with proxy_before(tmp_path, rule, first=first, second=second) as proxy:
                    async with raw_client(proxy.url) as client:
                        got = await client.ask(chat("big"))
            assert is_good(got) is is_led
            assert got.header(ATTEMPTS) == (b"2" if is_led else b"3"), "where there is somewhere to go nobody waits"
            assert is_led or got.error_code == "upstream_connect_failed"

    @pytest.mark.parametrize("reply", NO_REASON)
    async def test_what_may_have_cost_work_or_is_the_requests_own_fault(self, tmp_path: Path, reply: bytes) -> None:
        async with backend(reply) as first, backend(GOOD) as second:
            rule = fallback("*", "second:*", *ALL_CAUSES)
            async with proxy_before(tmp_path, rule, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big"))
        assert got.status == int(reply.split(b" ")[1])
        assert (len(first.bodies), second.bodies) == (1, [])

    async def test_all_accounts_are_out(self, tmp_path: Path) -> None:
        async with backend(LIMITED) as first, backend(GOOD) as second:
            toml = fallback("first:*", "second:*", "429")
            settings = with_keys(settings_before(tmp_path, toml, first=first.url, second=second.url), "sk-1", "sk-2")
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                for _ in range(2):
                    assert is_good(await client.ask(chat("big")))
        assert (len(first.bodies), len(second.bodies)) == (2, 2), "the second time nobody was asked in vain"

    async def test_no_place_at_the_upstream(self, tmp_path: Path) -> None:
        held = anyio.Event()
        async with backend([wait_for(held), send(GOOD)]) as first, backend(GOOD) as second:
            settings = settings_before(tmp_path, TO_SECOND, first=first.url, second=second.url)
            limited = settings.upstreams["first"]
            limited = replace(limited, upstream=replace(limited.upstream, max_exchanges=1))
            settings = replace(
                settings,
                upstreams={**settings.upstreams, "first": limited},
                timeouts=replace(settings.timeouts, queue_wait_s=SOON_S),
            )
            async with app.running(settings) as proxy, raw_client(proxy.url) as one, raw_client(proxy.url) as other:
                await one.send(chat("big"))
                await first.asked()
                assert is_good(await other.ask(chat("big")))
                held.set()
                assert is_good(await one.answer())
        assert (len(first.bodies), len(second.bodies)) == (1, 1)


class TestChains:
    async def test_of_two(self, tmp_path: Path) -> None:
        rules = fallback("first:*", "second:*") + fallback("second:*", "third:small")
        async with backend(is_open=False) as first, backend(BUSY) as second, backend(STREAM) as third:
            async with proxy_before(tmp_path, rules, first=first, second=second, third=third) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big", stream=True))
        assert is_good(got)
        assert (bytes(got.body), got.header(ATTEMPTS)) == (FIRST + DONE, b"3")
        assert (second.models, third.models) == (["big"], ["small"])

    async def test_two_ways_from_one_place(self, tmp_path: Path) -> None:
        rules = fallback("first:*", "second:*") + fallback("first:*", "third:*")
        async with backend(BUSY) as first, backend(LIMITED) as second, backend(GOOD) as third:
            async with proxy_before(tmp_path, rules, first=first, second=second, third=third) as proxy:
                async with raw_client(proxy.url) as client:
                    assert is_good(await client.ask(chat("big")))

    async def test_a_ring_is_gone_round_once(self, tmp_path: Path) -> None:
        rules = fallback("first:*", "second:*") + fallback("second:*", "first:*")
        async with backend(BUSY) as first, backend(LIMITED) as second:
            async with proxy_before(tmp_path, rules, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big"))
        assert (got.status, got.error_code, got.header(ATTEMPTS)) == (429, "limit_requests", b"2")
        assert (len(first.bodies), len(second.bodies)) == (1, 1)

    @pytest.mark.parametrize(
        ("last", "status", "code"),
        [
            (error(429, "last_word"), 429, "last_word"),
            (None, 502, "upstream_connect_failed"),
            (b"", 502, "upstream_closed"),
        ],
    )
    async def test_all_fail_and_the_last_error_is_told(
        self, tmp_path: Path, last: bytes | None, status: int, code: str
    ) -> None:
        rules = fallback("first:*", "second:*") + fallback("second:*", "third:*")
        reply = [close()] if last == b"" else last or GOOD
        async with backend(BUSY) as first, backend(BUSY) as second, backend(reply, is_open=last is not None) as third:
            async with proxy_before(tmp_path, rules, first=first, second=second, third=third) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big"))
                    assert (got.status, got.error_code, got.end) == (status, code, End.WHOLE)
                    assert (await client.ask(READY)).status == 200, "the connection lives"

    async def test_a_success_leaves_no_trace_of_what_was_before(self, tmp_path: Path) -> None:
        limited = error(429, "limit_requests", (b"retry-after", b"9"), (b"x-request-id", b"of-the-first"))
        async with backend(limited) as first, backend(GOOD) as second:
            async with proxy_before(tmp_path, TO_SECOND, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big"))
        assert (got.header(b"retry-after"), bytes(got.body)) == (b"", GOOD.partition(b"\r\n\r\n")[2])
        assert got.header(b"x-request-id").startswith(b"qp-")


class TestWhoNamesItsPlace:
    @pytest.mark.parametrize("how", ["path", "header"])
    async def test_a_named_upstream_is_the_one_that_answers(self, tmp_path: Path, how: str) -> None:
        request = chat("big")
        if how == "path":
            request = request.replace(b"POST /v1/", b"POST /u/first/v1/")
        else:
            request = request.replace(b"Host:", b"X-Qproxy-Upstream: first\r\nHost:")
        async with backend(BUSY) as first, backend(GOOD) as second:
            async with proxy_before(tmp_path, TO_SECOND, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(request)
        assert (got.status, second.bodies) == (503, [])

    async def test_another_model_there_is_as_good(self, tmp_path: Path) -> None:
        rules = TO_SECOND + fallback("big", "small")
        async with backend(BUSY, GOOD) as first, backend(GOOD) as second:
            async with proxy_before(tmp_path, rules, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    request = chat("big").replace(b"Host:", b"X-Qproxy-Upstream: first\r\nHost:")
                    assert is_good(await client.ask(request))
        assert (first.models, second.bodies) == (["big", "small"], [])

    async def test_a_named_account_too(self, tmp_path: Path) -> None:
        async with backend(LIMITED) as first, backend(GOOD) as second:
            settings = settings_before(tmp_path, TO_SECOND, first=first.url, second=second.url)
            async with app.running(with_keys(settings, "sk-1", "sk-2")) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big").replace(b"Host:", b"X-Qwen-Account: key-2\r\nHost:"))
        assert (got.status, got.error_code, second.bodies) == (429, "limit_requests", [])


class TestHowOftenItWasTried:
    async def test_once_is_not_mentioned(self, tmp_path: Path) -> None:
        async with backend(GOOD, STREAM, error(400)) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                for stream in (False, True, False):
                    assert (await client.ask(chat("big", stream=stream))).header(ATTEMPTS) == b""

    async def test_the_next_answer_on_the_connection_is_another_one(self, tmp_path: Path) -> None:
        async with backend(LIMITED, GOOD, GOOD) as only:
            async with proxy_before(tmp_path, fallback("big", "small"), only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    found = [(await client.ask(chat(model))).header(ATTEMPTS) for model in ("big", "small")]
        assert found == [b"2", b""]

    async def test_the_upstreams_own_id_stays(self, tmp_path: Path) -> None:
        good = answer(200, [JSON, (b"x-request-id", b"theirs")], b"{}")
        async with backend(LIMITED, good) as only:
            async with proxy_before(tmp_path, fallback("big", "small"), only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big"))
        assert (got.header(b"x-request-id"), got.header(ATTEMPTS)) == (b"theirs", b"2")

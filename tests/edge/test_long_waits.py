"""How long an answer may take: to its first byte, which is learned, and in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy.core.patience import RequestKind
from tests.support.backends import (
    FIRST,
    GOOD,
    JSON,
    LONG_BYTES,
    STREAM,
    backend,
    chat,
    error,
    proxy_before,
)
from tests.support.leaks import nothing_left
from tests.support.raw_client import End, raw_client, request_head
from tests.support.scripted_upstream import chunk, head, send, stream_head, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.scripted_upstream import Connection

pytestmark = pytest.mark.anyio

SOON_S = 0.05
TOTAL = {"total_s": 8 * SOON_S, "peek_s": 0.0}
TOTAL_OF_BEGUN = {**TOTAL, "total_s": 1.5}
"""Answers that have to begin before it get more time for that."""


class TestATimeoutSaysWhatHelps:
    @pytest.mark.parametrize(
        ("stream", "padding", "said"),
        [
            (True, 0, ["0.05 s", "timeouts.first_byte_stream_s", "first_byte_per_100k_tokens_s", "less context"]),
            (False, 0, ["0.05 s", "timeouts.first_byte_plain_s", '"stream": true']),
            (True, 4_000_000, ["about 1,000,000 tokens", "timeouts.first_byte_stream_s"]),
        ],
    )
    async def test_what_was_waited_for(self, tmp_path: Path, stream: bool, padding: int, said: Iterable[str]) -> None:
        clocks = {
            "first_byte_stream_s": SOON_S,
            "first_byte_plain_s": SOON_S,
            "first_byte_per_100k_tokens_s": 1e-9,
        }
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=stream, padding_bytes=padding))
        assert (got.status, got.error_code, got.header(b"x-should-retry")) == (504, "first_byte_timeout", b"false")
        message = orjson.loads(got.body)["error"]["message"]
        assert [part for part in said if part not in message] == []
        assert ('"stream": true' in message) is not stream


class TestPatience:
    @pytest.mark.parametrize("padding", [0, LONG_BYTES], ids=["stored", "passed on"])
    async def test_good_answers_teach_it(self, tmp_path: Path, padding: int) -> None:
        async def think(_: Connection) -> None:
            await anyio.sleep(SOON_S)

        async with backend([think, send(error(400))], [think, send(GOOD)], [think, send(STREAM)]) as only:
            async with proxy_before(tmp_path, timeouts={"first_byte_per_100k_tokens_s": 1e-9}, only=only) as proxy:
                learned = proxy.app.upstreams._patience._slowness
                async with raw_client(proxy.url) as client:
                    await client.ask(chat("big", padding_bytes=padding))
                    assert not learned
                    await client.ask(chat("big", padding_bytes=padding))
                    assert set(learned) == {("only", "big", True)}
                    await client.ask(chat("big", stream=True, padding_bytes=padding))
                    assert set(learned) == {("only", "big", True), ("only", "big", False)}

    @pytest.mark.parametrize("is_known_as_slow", [True, False])
    async def test_a_slow_upstream_is_given_the_time_it_needs(self, tmp_path: Path, is_known_as_slow: bool) -> None:
        clocks = {"first_byte_plain_s": SOON_S, "first_byte_per_100k_tokens_s": 1e-9}
        ready = anyio.Event()
        async with backend([wait_for(ready), send(GOOD)]) as only:
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                if is_known_as_slow:
                    kind = RequestKind("only", "big", is_plain=True)
                    proxy.app.upstreams._patience.learn(kind, 100, 60.0)
                await client.send(chat("big"))
                if is_known_as_slow:
                    await anyio.sleep(4 * SOON_S)
                    ready.set()
                assert (await client.answer()).status == (200 if is_known_as_slow else 504)


class TestTotalTime:
    async def test_before_the_answer_it_is_an_error(self, tmp_path: Path) -> None:
        async with nothing_left(), backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts=TOTAL, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big"))
                assert (got.status, got.error_code, got.end) == (504, "total_timeout", End.WHOLE)
                assert (got.header(b"x-should-retry"), got.header(b"connection")) == (b"false", b"")
                assert (await client.ask(request_head("GET", "/livez"))).status == 200, "the connection lives"

    async def test_in_a_stream_it_is_an_event(self, tmp_path: Path) -> None:
        async with nothing_left(), backend([send(stream_head() + chunk(FIRST)), wait_for(anyio.Event())]) as only:
            clocks = TOTAL_OF_BEGUN
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
                assert (got.status, got.end) == (200, End.FIN)
                assert orjson.loads(got.body.removeprefix(FIRST)[6:])["error"]["code"] == "total_timeout"
                await only.left.wait()

    async def test_in_a_plain_body_it_is_a_cut(self, tmp_path: Path) -> None:
        begun = head(200, [JSON, (b"content-length", b"100")]) + b'{"object"'
        async with backend([send(begun), wait_for(anyio.Event())]) as only:
            clocks = TOTAL_OF_BEGUN
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big"))
        assert (got.status, got.end, bytes(got.body)) == (200, End.FIN, b'{"object"')

    async def test_in_a_stream_that_was_kept_alive(self, tmp_path: Path) -> None:
        clocks = {**TOTAL_OF_BEGUN, "keepalive_after_s": SOON_S}
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert (got.status, got.end) == (200, End.FIN)
        assert orjson.loads(got.body.rpartition(b"data: ")[2])["error"]["code"] == "total_timeout"

    async def test_a_slow_upload_counts(self, tmp_path: Path) -> None:
        async with backend(GOOD) as only:
            async with proxy_before(tmp_path, timeouts=TOTAL, only=only) as proxy, raw_client(proxy.url) as client:
                await client.send(chat("big", padding_bytes=LONG_BYTES)[:-1])
                got = await client.answer()
        assert (got.status, got.error_code, got.header(b"connection")) == (504, "total_timeout", b"close")
        assert only.bodies == []

    async def test_whoever_is_in_time_is_not_disturbed(self, tmp_path: Path) -> None:
        clocks = {"total_s": 60.0}
        async with nothing_left(), backend(GOOD, STREAM, error(400)) as only:
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                statuses = [(await client.ask(chat("big", stream=stream))).status for stream in (False, True, False)]
        assert statuses == [200, 200, 400]

    async def test_a_client_that_leaves_first(self, tmp_path: Path) -> None:
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts={"total_s": 60.0}, only=only) as proxy:
                async with nothing_left():
                    async with raw_client(proxy.url) as client:
                        await client.send(chat("big"))
                        await only.asked()
                    await only.left.wait()

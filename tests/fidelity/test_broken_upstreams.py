"""An upstream that breaks off: an error while one can still be given, afterwards an end that nobody takes for clean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from tests.support.live import settings_for
from tests.support.raw_client import Answer, End, chunks, post, raw_client
from tests.support.response_player import Player, playing
from tests.support.scripted_upstream import (
    answer,
    chunk,
    close,
    event,
    expect_head,
    expect_request,
    head,
    reset,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fidelity.conftest import Configure
    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio
STREAM = b'{"model":"m","stream":true}'
CHAT = post("/v1/chat/completions", STREAM)
OLD_CHAT = post("/v1/chat/completions", STREAM, version=b"1.0")
TYPE = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")
FIRST = event('{"text":"通义"}'.encode())
CRLF = b'data: {"text":1}\r\n\r\n'
FINISH = event(b'{"choices":[{"finish_reason":"stop"}]}')
DONE = event(b"[DONE]")
LAST = chunk(b"")


@pytest.fixture(scope="module")
async def player(anyio_backend: object) -> AsyncIterator[Player]:
    async with playing(peek_s=60.0) as running_player:  # however slow the upstream is to break off
        yield running_player


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "upstream_closed"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Ty", "upstream_closed"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "upstream_protocol_error"),
    "http/0.9": (b"<html>hello</html>\r\n\r\n", "upstream_protocol_error"),
    "http/2": (b"HTTP/2 200\r\n\r\n", "upstream_protocol_error"),
    "status 99": (b"HTTP/1.1 099 OK\r\n\r\n", "upstream_protocol_error"),
    "status 600": (b"HTTP/1.1 600 OK\r\n\r\n", "upstream_protocol_error"),
    "an unasked upgrade": (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", "upstream_protocol_error"),
    "a redirect": (head(307, [(b"Location", b"http://127.0.0.1:9/")]), "upstream_protocol_error"),
    "a web page": (answer(200, [(b"content-type", b"text/html")], b"<p>"), "upstream_protocol_error"),
    "two lengths": (head(200, [(b"content-length", b"2"), (b"content-length", b"3")]), "upstream_protocol_error"),
    "a folded line": (head(200, [JSON, (b"x", b"1\r\n 2")]), "upstream_protocol_error"),
    "a control byte": (head(200, [JSON, (b"x", b"1\x002")]), "upstream_protocol_error"),
    "a bare line feed": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\r\n\r\n", "upstream_protocol_error"),
    "a head of 70 KiB": (head(200, [(b"x", b"y" * 70_000)]), "upstream_protocol_error"),
    "300 fields": (head(200, [(b"x", b"y")] * 300), "upstream_protocol_error"),
    "17 interim answers": (b"HTTP/1.1 103 Early\r\n\r\n" * 17 + answer(200), "upstream_protocol_error"),
    "a bad first chunk": (stream_head() + b"zz\r\n", "upstream_protocol_error"),
    "a head and nothing behind it": (stream_head(), "upstream_closed"),
    "an empty stream": (stream_head() + LAST, "upstream_protocol_error"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_before_the_commit_it_is_an_error_of_ours(player: Player, case: str) -> None:
    wire, code = UNUSABLE[case]
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, [wire], closes=True)
        assert (got.status, got.error_code, got.end) == (502, code, End.WHOLE)
        assert got.header(b"x-should-retry") == b"true"
        again = await player.exchange(client, CHAT, [answer(200, [JSON], b"{}")])
        assert (again.status, bytes(again.body)) == (200, b"{}")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_error_page_becomes_an_envelope_with_its_status(player: Player, status: int) -> None:
    async with raw_client(player.url) as client:
        page = answer(status, [(b"content-type", b"text/html")], b"<h1>Bad Gateway</h1>")
        got = await player.exchange(client, CHAT, [page])
        assert (got.status, got.error_code) == (status, "upstream_error")
        assert b"Bad Gateway" not in got.body


def in_band_code(got: Answer, sent: bytes) -> object:
    """The code of the error event behind what the upstream sent; None where there is no such event."""
    assert got.body.startswith(sent)
    rest = bytes(got.body[len(sent) :])
    if not rest:
        return None
    assert rest.startswith(b"data: ")
    assert rest.endswith(b"}\n\n")
    return orjson.loads(rest[6:])["error"]["code"]


BROKEN_STREAMS: dict[str, tuple[list[bytes], bytes, str | None]] = {
    "cut between events": ([stream_head(), chunk(FIRST)], FIRST, "upstream_closed"),
    "cut between events of CR LF": ([stream_head(), chunk(CRLF)], CRLF, "upstream_closed"),
    "cut in a size line": ([stream_head(), chunk(FIRST), b"1"], FIRST, "upstream_closed"),
    "cut before a chunk's end": ([stream_head(), chunk(FIRST)[:-2]], FIRST, "upstream_closed"),
    "cut before the last chunk's end": ([stream_head(), chunk(FIRST), LAST[:-2]], FIRST, "upstream_closed"),
    "cut inside an event": ([stream_head(), chunk(FIRST + b"data: {")], FIRST + b"data: {", None),
    "cut inside a character": ([stream_head(), chunk(FIRST + b"\xe9\x80")], FIRST + b"\xe9\x80", None),
    "cut between the two line feeds": ([stream_head(), chunk(FIRST[:-1])], FIRST[:-1], None),
    "a bad size line": ([stream_head(), chunk(FIRST), b"-1\r\n"], FIRST, "upstream_closed"),
    "a chunk longer than its size": ([stream_head(), chunk(FIRST)[:-2], b"XX"], FIRST, "upstream_closed"),
    "a bad size line in the same read": ([stream_head(), chunk(FIRST) + b"-1\r\n"], FIRST, "upstream_closed"),
    "a clean end without an end": ([stream_head(), chunk(FIRST), LAST], FIRST, "stream_truncated"),
    "a clean end in one write": ([stream_head() + chunk(FIRST) + LAST], FIRST, "stream_truncated"),
    "a finish reason inside a text": (
        [stream_head(), chunk(event(rb'{"content":"\"finish_reason\":\"stop\""}')), LAST],
        event(rb'{"content":"\"finish_reason\":\"stop\""}'),
        "stream_truncated",
    ),
    "shorter than its length": ([head(200, [TYPE, (b"content-length", b"999")]) + FIRST], FIRST, "upstream_closed"),
    "closed without an end": ([head(200, [TYPE]) + FIRST], FIRST, "stream_truncated"),
}


@pytest.mark.parametrize("case", BROKEN_STREAMS)
async def test_a_stream_that_breaks_ends_without_its_end(player: Player, case: str) -> None:
    wire, sent, code = BROKEN_STREAMS[case]
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, wire, closes=True)
        assert (got.status, got.end, in_band_code(got, sent)) == (200, End.FIN, code)
        assert b"[DONE]" not in got.body
        assert 0 not in got.sizes


@pytest.mark.parametrize(
    "case",
    BROKEN_STREAMS,
)
async def test_to_an_old_client_only_a_reset_says_that_it_broke(player: Player, case: str) -> None:
    wire, sent, code = BROKEN_STREAMS[case]
    async with raw_client(player.url) as client:
        got = await player.exchange(client, OLD_CHAT, wire, closes=True)
        by_length = bool(got.header(b"content-length"))
        assert (got.end, in_band_code(got, sent)) == (End.FIN if by_length else End.RESET, code)


@pytest.mark.parametrize(
    "events", [[FIRST, FINISH], [FIRST, DONE], [FIRST, FINISH[:-1], b"\n"], [FIRST, DONE[:9], DONE[9:]]]
)
async def test_a_finish_reason_or_a_done_is_a_whole_stream(player: Player, events: list[bytes]) -> None:
    """Nothing is invented: real servers end without `[DONE]`."""
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, [stream_head(), *chunks(events)])
        assert (bytes(got.body), got.end) == (b"".join(events), End.WHOLE)


CHUNKED_JSON = head(200, [JSON, (b"transfer-encoding", b"chunked")])
BROKEN_BODIES: dict[str, list[bytes]] = {
    "shorter than its length": [head(200, [JSON, (b"content-length", b"9")]), b'{"a"'],
    "cut chunks": [CHUNKED_JSON, chunk(b'{"a"')],
    "a bad size line": [CHUNKED_JSON, chunk(b'{"a"'), b"0x1\r\n"],
    "a bad size line in the same read": [CHUNKED_JSON, chunk(b'{"a"') + b"0x1\r\n"],
}


@pytest.mark.parametrize("case", BROKEN_BODIES)
async def test_nothing_is_put_into_a_plain_body_that_breaks(player: Player, case: str) -> None:
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, BROKEN_BODIES[case], closes=True)
        assert (bytes(got.body), got.end) == (b'{"a"', End.FIN)


@pytest.mark.parametrize("request_bytes", [CHAT, OLD_CHAT], ids=["1.1", "1.0"])
async def test_a_reset_in_the_middle_is_told(request_bytes: bytes) -> None:
    seen = anyio.Event()
    script = [expect_request(), send(stream_head() + chunk(FIRST)), wait_for(seen), reset()]
    async with (
        scripted_upstream(script) as upstream,
        app.running(settings_for(upstream.url)) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(request_bytes)
        got = await client.begin()
        await client.until(got, FIRST)
        seen.set()
        while got.end is End.OPEN:
            await client.more(got)
        assert in_band_code(got, FIRST) == "upstream_closed"
        assert got.end is (End.FIN if request_bytes is CHAT else End.RESET)


async def test_what_comes_behind_the_length_is_dropped_with_its_connection() -> None:
    first = [expect_request(), send(answer(200, [JSON], b"{}") + b"HTTP/1.1 200 OK\r\n\r\nsmuggled")]
    second = [expect_request(), send(answer(200, [JSON], b"[]"))]
    async with (
        scripted_upstream(first, second) as upstream,
        app.running(settings_for(upstream.url)) as proxy,
        raw_client(proxy.url) as client,
    ):
        assert [bytes((await client.ask(CHAT)).body) for _ in range(2)] == [b"{}", b"[]"]
        assert len(upstream.connections) == 2


async def test_an_answer_before_the_upload_is_complete_passes() -> None:
    script = [expect_head(), send(answer(413, [JSON], b'{"error":{"code":"too long"}}')), close()]
    async with (
        scripted_upstream(script) as upstream,
        app.running(settings_for(upstream.url)) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(post("/v1/files", b"x" * 5000)[:-1000])
        got = await client.answer()
        assert (got.status, got.header(b"connection"), got.error_code) == (413, b"close", "too long")
        await client.send(b"x" * 1000)
        client.wire.half_close()
        assert await client.closed() == b""


FIRST_BYTE = "[timeouts]\nfirst_byte_stream_s = 0.05\nfirst_byte_plain_s = 0.05\n"
IDLE = "[timeouts]\nstream_idle_s = 0.05\n"


@pytest.mark.parametrize("body", [STREAM, b'{"model":"m","stream":false}'])
async def test_an_upstream_that_never_answers(configure: Configure, body: bytes) -> None:
    never = anyio.Event()
    async with scripted_upstream([expect_request(), wait_for(never)]) as upstream:
        settings = configure(FIRST_BYTE, upstream=upstream.url)
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            got = await client.ask(post("/v1/chat/completions", body))
            assert (got.status, got.error_code, got.end) == (504, "first_byte_timeout", End.WHOLE)
            assert (got.header(b"x-should-retry"), got.header(b"connection")) == (b"false", b"")
            await (await upstream.connected()).peer_left.wait()


SILENT: dict[str, tuple[list[Step], bytes, str | None]] = {
    "between events": ([send(stream_head() + chunk(FIRST))], FIRST, "stream_idle_timeout"),
    "inside an event": ([send(stream_head() + chunk(FIRST[:9]))], FIRST[:9], None),
    "inside plain text": ([send(head(200, [JSON, (b"content-length", b"9")]) + b"{")], b"{", None),
}


@pytest.mark.parametrize("case", SILENT)
async def test_an_upstream_that_falls_silent(configure: Configure, case: str) -> None:
    steps, sent, code = SILENT[case]
    never = anyio.Event()
    async with scripted_upstream([expect_request(), *steps, wait_for(never)]) as upstream:
        settings = configure(IDLE, upstream=upstream.url)
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            got = await client.ask(CHAT)
            assert (got.status, got.end, in_band_code(got, sent)) == (200, End.FIN, code)
            await (await upstream.connected()).peer_left.wait()

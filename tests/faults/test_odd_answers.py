"""Answers of an upstream that are whole but odd: empty, packed, huge, of a wrong kind, or an error in the midst."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from tests.hostile.conftest import DONE, FIRST_EVENT, recording
from tests.support.live import settings_for
from tests.support.raw_client import Answer, End, chunks, cut_at, post, raw_client, request_head
from tests.support.scripted_upstream import (
    Connection,
    answer,
    chunk,
    close,
    event,
    expect_request,
    head,
    reset,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
STREAM = post(CHAT, b'{"model":"m","stream":true}')
PLAIN = post(CHAT, b'{"model":"m"}')
STREAM_TYPE = (b"content-type", b"text/event-stream")
JSON_TYPE = (b"content-type", b"application/json")
FINISH = event(b'{"choices":[{"finish_reason":"stop"}]}')
MIB = 1 << 20
NEVER_S = 60.0
"""No head goes down before its time because an upstream was slow to say the rest."""


async def answered(wire: bytes, request: bytes = STREAM, *, closes: bool = False) -> Answer:
    """What becomes of an answer with these bytes."""
    script = [expect_request(), send(wire), *([close()] if closes else [])]
    async with scripted_upstream(script) as upstream, app.running(settings_for(upstream.url, peek_s=NEVER_S)) as proxy:
        async with raw_client(proxy.url) as client:
            return await client.ask(request)


def is_whole_and_good(got: Answer) -> bool:
    """What an SDK takes for success."""
    return got.status == 200 and got.end is End.WHOLE and b'"error"' not in got.body


COMMENTS = b": wait\n\nretry: 5\n\n"
JSON_CHUNKS = head(200, [JSON_TYPE, (b"transfer-encoding", b"chunked")])
SILENT: dict[str, tuple[bytes, str]] = {
    "a stream of no chunks": (stream_head() + chunk(b""), "upstream_protocol_error"),
    "a stream of no length": (answer(200, [STREAM_TYPE]), "upstream_protocol_error"),
    "a stream that is closed": (head(200, [STREAM_TYPE]), "upstream_protocol_error"),
    "comments and an end": (stream_head() + chunk(COMMENTS) + chunk(b""), "upstream_protocol_error"),
    "comments and no end": (stream_head() + chunk(COMMENTS), "upstream_closed"),
    "comments and no HTTP": (stream_head() + chunk(COMMENTS) + b"zz\r\n", "upstream_protocol_error"),
    "an event without data": (stream_head() + chunk(b"event: ping\nid: 1\n\n") + chunk(b""), "upstream_protocol_error"),
    "JSON of no length": (answer(200, [JSON_TYPE]), "upstream_protocol_error"),
    "JSON of no chunks": (JSON_CHUNKS + chunk(b""), "upstream_protocol_error"),
    "JSON that is closed": (head(200, [JSON_TYPE]), "upstream_protocol_error"),
    "JSON that breaks off": (head(200, [JSON_TYPE, (b"content-length", b"9")]), "upstream_closed"),
    "nothing of no kind": (head(200), "upstream_protocol_error"),
    "nothing of no kind and length": (answer(200), "upstream_protocol_error"),
    "no text": (answer(200, [(b"content-type", b"text/plain")]), "upstream_protocol_error"),
}


@pytest.mark.parametrize("case", SILENT)
async def test_an_answer_that_says_nothing_is_an_error(case: str) -> None:
    """U08, U30: nothing has gone down yet, so nobody need take it for a success."""
    wire, code = SILENT[case]
    script = [expect_request(), send(wire), close()]
    good = [expect_request(), send(answer(200, [JSON_TYPE], b"{}"))]
    async with (
        scripted_upstream(script, good) as upstream,
        app.running(settings_for(upstream.url, peek_s=NEVER_S)) as proxy,
    ):
        async with raw_client(proxy.url) as client:
            got = await client.ask(STREAM)
            assert (got.status, got.error_code, got.end) == (502, code, End.WHOLE)
            assert got.header(b"x-should-retry") == b"true"
            assert bytes((await client.ask(PLAIN)).body) == b"{}"


@pytest.mark.parametrize("wire", [stream_head() + chunk(b""), answer(200, [JSON_TYPE]), answer(200, [STREAM_TYPE])])
async def test_a_connection_on_which_nothing_was_said_is_not_kept(wire: bytes) -> None:
    """U30."""
    good = [expect_request(), send(answer(200, [JSON_TYPE], b"{}"))]
    silent = [expect_request(), send(wire), expect_request(), send(answer(418, [JSON_TYPE], b"{}"))]
    async with scripted_upstream(silent, good) as upstream:
        async with app.running(settings_for(upstream.url, peek_s=NEVER_S)) as proxy, raw_client(proxy.url) as client:
            assert [(await client.ask(PLAIN)).status for _ in range(2)] == [502, 200]
            assert len(upstream.connections) == 2


@pytest.mark.parametrize("peek_s", [0.0, 0.05])
async def test_one_that_says_nothing_for_too_long_is_told_in_the_stream(peek_s: float) -> None:
    """U28: its head is not held for ever."""
    late = anyio.Event()
    script = [expect_request(), send(stream_head() + chunk(COMMENTS)), wait_for(late), send(chunk(b""))]
    async with scripted_upstream(script) as upstream:
        settings = settings_for(upstream.url)
        settings = replace(settings, timeouts=replace(settings.timeouts, peek_s=peek_s))
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            await client.send(STREAM)
            got = await client.begin()
            late.set()
            while got.end is End.OPEN:
                await client.more(got)
            assert (got.status, got.end) == (200, End.FIN)
            assert b"stream_truncated" in got.body


async def test_elsewhere_an_empty_answer_may_be_right() -> None:
    """What is only passed on is not judged."""
    got = await answered(answer(200), request_head("DELETE", "/v1/files/f"))
    assert (got.status, bytes(got.body), got.end) == (200, b"", End.WHOLE)


@pytest.mark.parametrize("payload", [b"", FIRST_EVENT, FIRST_EVENT * 3])
async def test_a_stream_with_a_length_and_without_an_end_is_no_success(payload: bytes) -> None:
    """U28, U30: what was announced has come, and it is not the whole answer all the same."""
    assert not is_whole_and_good(await answered(answer(200, [STREAM_TYPE], payload)))


async def test_a_packed_stream_that_nobody_asked_for_passes() -> None:
    """U31: its events cannot be seen, so its framing alone says whether it is whole."""
    packed = gzip.compress(FIRST_EVENT + FINISH + DONE)
    got = await answered(stream_head((b"content-encoding", b"gzip")) + b"".join(chunks([packed])))
    assert (got.end, bytes(got.body)) == (End.WHOLE, packed)


async def test_a_web_page_is_no_success_and_is_not_shown() -> None:
    """U30."""
    for request in (STREAM, PLAIN):
        got = await answered(answer(200, [(b"content-type", b"Text/HTML; charset=utf-8")], b"<p>Log in"), request)
        assert (got.status, got.error_code, got.end) == (502, "upstream_protocol_error", End.WHOLE)
        assert b"<p>" not in got.body


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_leads_nowhere(status: int) -> None:
    """U33: nobody gets the key because an upstream says so."""
    async with recording() as elsewhere:
        moved = head(status, [(b"location", elsewhere.url.encode() + b"/chat/completions"), (b"content-length", b"0")])
        got = await answered(moved)
        assert (got.status, got.error_code) == (502, "upstream_protocol_error")
        assert got.header(b"location") == b""
        assert elsewhere.url.encode() not in got.body
        assert elsewhere.scripted is not None
        assert elsewhere.scripted.connections == []


@pytest.mark.parametrize("how", [close, reset])
async def test_a_head_and_nothing_behind_it(how: Callable[[], Step]) -> None:
    """U08: whether the head had gone down or not, it is no success."""
    seen = anyio.Event()
    script = [expect_request(), send(stream_head()), wait_for(seen), how()]
    async with scripted_upstream(script) as upstream, app.running(settings_for(upstream.url)) as proxy:
        async with raw_client(proxy.url) as client:
            await client.send(STREAM)
            await upstream.connected()
            seen.set()
            got = await client.answer()
            assert not is_whole_and_good(got)
            assert orjson.loads(bytes(got.body).removeprefix(b"data: "))["error"]["code"] == "upstream_closed"


async def test_an_error_in_the_middle_of_a_stream_passes_as_it_is() -> None:
    """U27: it is the upstream's own word, and an end as good as any."""
    seen = anyio.Event()
    error = event(b'{"error":{"message":"no","code":"internal_error"}}')
    script = [
        expect_request(),
        send(stream_head() + chunk(FIRST_EVENT)),
        wait_for(seen),
        send(chunk(error) + chunk(b"")),
    ]
    async with scripted_upstream(script) as upstream, app.running(settings_for(upstream.url)) as proxy:
        async with raw_client(proxy.url) as client:
            await client.send(STREAM)
            got = await client.begin()
            await client.until(got, FIRST_EVENT)
            seen.set()
            while got.end is End.OPEN:
                await client.more(got)
            assert (bytes(got.body), got.end) == (FIRST_EVENT + error, End.WHOLE)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"x-unknown"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_packed_answer_that_nobody_asked_for_passes(encoding: bytes, framing: str) -> None:
    """U31."""
    packed = gzip.compress(b'{"choices":[]}')
    fields = [JSON_TYPE, (b"content-encoding", encoding)]
    wire = answer(200, fields, packed)
    if framing == "chunks":
        wire = head(200, [*fields, (b"transfer-encoding", b"chunked")]) + b"".join(chunks(cut_at(packed, [3, 9])))
    got = await answered(wire, PLAIN)
    assert (got.status, bytes(got.body), got.end) == (200, packed, End.WHOLE)
    assert got.header(b"content-encoding") == encoding


class TestHuge:
    """U36."""

    async def test_an_event_of_a_megabyte(self) -> None:
        events = [FIRST_EVENT, event(b'{"choices":[{"delta":{"content":"%b"}}]}' % (b"x" * MIB)), FINISH, DONE]
        for sizes in ([1, 5000, 100_000, MIB], range(0, 2 * MIB, 60_001)):
            whole = b"".join(events)
            got = await answered(stream_head() + b"".join(chunks(cut_at(whole, list(sizes)))))
            assert (got.body == whole, got.end) == (True, End.WHOLE)

    async def test_a_hundred_thousand_events_in_a_burst(self) -> None:
        count = 100_000
        wire = stream_head() + chunk(FIRST_EVENT) * count + chunk(DONE) + chunk(b"")
        got = await answered(wire)
        assert (got.end, got.body.count(b"data: ")) == (End.WHOLE, count + 1)
        assert got.body == FIRST_EVENT * count + DONE

    async def test_an_answer_that_breaks_behind_a_huge_event(self) -> None:
        big = event(b'{"choices":[{"delta":{"content":"%b"}}]}' % (b"x" * MIB))
        got = await answered(stream_head() + chunk(big), closes=True)
        assert got.end is End.FIN
        assert bytes(got.body[len(big) :]).startswith(b'data: {"error"')

    @pytest.mark.parametrize("status", [400, 429, 500])
    async def test_an_error_of_megabytes(self, status: int) -> None:
        """It passes, and nobody keeps it whole."""
        body = orjson.dumps({"error": {"message": "x" * 3 * MIB, "code": "c"}})
        got = await answered(answer(status, [JSON_TYPE], body), PLAIN)
        assert (got.status, got.body == body, got.end) == (status, True, End.WHOLE)


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_interim_answers_stay_here() -> None:
    """U17: a client that asked for a 100 has had ours."""
    wire = INTERIM + b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + INTERIM + answer(200, [JSON_TYPE], b"{}")
    async with scripted_upstream([expect_request(), send(wire)]) as upstream:
        async with app.running(settings_for(upstream.url)) as proxy, raw_client(proxy.url) as client:
            begun = request_head("POST", CHAT, b"Content-Type: application/json", b"Expect: 100-continue")
            await client.send(begun.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n"))
            assert (await client.begin()).status == 100
            await client.send(b"{}")
            got = await client.answer()
            assert (got.status, bytes(got.body)) == (200, b"{}")
            assert (await client.ask(request_head("GET", "/livez"))).status == 200


async def test_answers_of_one_connection_do_not_run_into_each_other() -> None:
    """R16: what comes behind an answer belongs to nobody, however much like an answer it looks."""
    second = answer(200, [JSON_TYPE], b'"smuggled"')

    async def serve(connection: Connection) -> None:
        await expect_request()(connection)
        await connection.wire.send(answer(200, [JSON_TYPE], b"{}") + second)

    async with scripted_upstream([serve]) as upstream, app.running(settings_for(upstream.url)) as proxy:
        async with raw_client(proxy.url) as client:
            for _ in range(4):
                assert bytes((await client.ask(PLAIN)).body) == b"{}"
        assert len(upstream.connections) == 4

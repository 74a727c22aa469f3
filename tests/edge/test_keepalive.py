"""Streams whose first token takes long: comments keep the client waiting, and never hide what became of its request."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from qproxy.edge.drain import Stage
from tests.support.account_stage import with_keys
from tests.support.backends import (
    DONE,
    EVENTS,
    FIRST,
    JSON,
    LONG_BYTES,
    SECOND,
    STREAM,
    backend,
    chat,
    error,
    fallback,
    proxy_before,
    settings_before,
)
from tests.support.leaks import nothing_left, turns
from tests.support.raw_client import Answer, End, RawClient, raw_client, request_head
from tests.support.scripted_upstream import answer, chunk, close, event, head, reset, send, stream_head, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.scripted_upstream import Connection, Step

pytestmark = pytest.mark.anyio

COMMENT = b": keep-alive\n\n"
OFTEN_S = 0.02
OFTEN = {"keepalive_after_s": OFTEN_S, "peek_s": 0.01}
LATER_S = 0.6
LATER = {"keepalive_after_s": LATER_S, "peek_s": 0.01}
"""For what has to come before the first comment, on a busy machine too."""
SOON = f"[timeouts]\nkeepalive_after_s = {OFTEN_S}\npeek_s = 0.01\n"
LAST = chunk(b"")


def held(*steps: Step) -> tuple[anyio.Event, list[Step]]:
    """A reply that begins when the event is set."""
    go = anyio.Event()
    return go, [wait_for(go), *steps]


async def kept_waiting(client: RawClient, request: bytes | None = None, *, comments: int = 2) -> Answer:
    """The answer as far as it has come, with so many comments and nothing else."""
    await client.send(request or chat("big", stream=True))
    got = await client.begin()
    await client.until(got, comments * COMMENT)
    assert bytes(got.body) == COMMENT * (len(got.body) // len(COMMENT))
    return got


async def rest(client: RawClient, got: Answer) -> bytes:
    """What follows the comments, to the end of the answer."""
    while got.end is End.OPEN:
        await client.more(got)
    return without_comments(bytes(got.body))


def without_comments(body: bytes) -> bytes:
    while body.startswith(COMMENT):
        body = body[len(COMMENT) :]
    return body


def error_in(body: bytes) -> dict[str, object]:
    """The one event that is there."""
    assert body.startswith(b"data: ")
    assert body.endswith(b"}\n\n")
    assert b"\n" not in body[:-2]
    found: dict[str, object] = orjson.loads(body[6:])["error"]
    return found


FRAMINGS: dict[str, list[bytes]] = {
    "chunks": [stream_head(), chunk(FIRST), chunk(SECOND), chunk(DONE) + LAST],
    "one write": [stream_head() + chunk(FIRST) + chunk(SECOND + DONE) + LAST],
    "a length": [head(200, [EVENTS, (b"content-length", b"%d" % len(FIRST + SECOND + DONE))]), FIRST, SECOND + DONE],
    "the end of the connection": [head(200, [EVENTS]), FIRST, SECOND + DONE],
}


class TestTheStreamGoesOn:
    @pytest.mark.parametrize("framing", FRAMINGS)
    async def test_behind_the_comments(self, tmp_path: Path, framing: str) -> None:
        go, script = held(send(*FRAMINGS[framing]))
        if framing == "the end of the connection":
            script.append(close())
        async with nothing_left(), backend(script, STREAM) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client, comments=3)
                assert (got.status, got.header(b"content-type")) == (200, b"text/event-stream")
                assert (got.header(b"transfer-encoding"), got.header(b"content-length")) == (b"chunked", b"")
                assert (got.header(b"x-accel-buffering"), got.header(b"cache-control")) == (
                    b"no",
                    b"no-cache, no-transform",
                )
                assert got.header(b"x-request-id").startswith(b"qp-")
                go.set()
                assert await rest(client, got) == FIRST + SECOND + DONE
                assert got.end is End.WHOLE
                again = await client.ask(chat("big", stream=True))
                body = without_comments(bytes(again.body))
                assert (body, again.end) == (FIRST + DONE, End.WHOLE), "the connection lives"

    async def test_until_its_first_byte_although_its_head_has_come(self, tmp_path: Path) -> None:
        """The upstream's head went down: the comments stand behind it."""
        go = anyio.Event()
        async with backend(
            [send(stream_head((b"x-theirs", b"1"))), wait_for(go), send(STREAM[len(stream_head()) :])]
        ) as only:
            async with proxy_before(tmp_path, timeouts=LATER, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client, comments=1)
                assert got.header(b"x-theirs") == b"1"
                go.set()
                assert await rest(client, got) == FIRST + DONE
                assert got.end is End.WHOLE

    @pytest.mark.parametrize("begun", [b"d", FIRST[:-1], FIRST[:-2], FIRST, b": theirs\n\n", b"\n"])
    async def test_nothing_is_put_into_a_stream_that_has_begun(self, tmp_path: Path, begun: bytes) -> None:
        """However long it pauses then, at a border of events or in the middle of one."""
        body = FIRST + SECOND + DONE
        body = body if body.startswith(begun) else begun + body
        go, script = held(send(stream_head() + chunk(begun)), pause, send(chunk(body[len(begun) :]) + LAST))
        async with backend(script) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                go.set()
                assert await rest(client, got) == body

    async def test_nor_into_one_that_began_in_time(self, tmp_path: Path) -> None:
        body = FIRST + SECOND + DONE
        script = [send(stream_head() + chunk(FIRST)), long_pause, send(chunk(SECOND + DONE) + LAST)]
        async with backend(script) as only:
            async with proxy_before(tmp_path, timeouts=LATER, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert (bytes(got.body), got.end) == (body, End.WHOLE)

    async def test_another_account_goes_on(self, tmp_path: Path) -> None:
        go, script = held(send(error(429)))
        async with backend(script, STREAM) as only:
            settings = with_keys(settings_before(tmp_path, SOON, only=only.url), "a", "b")
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                go.set()
                assert await rest(client, got) == FIRST + DONE

    async def test_another_upstream_goes_on(self, tmp_path: Path) -> None:
        go, script = held(send(error(503)))
        async with backend(script) as first, backend(STREAM) as second:
            rule = fallback("first:*", "second:*")
            async with proxy_before(tmp_path, rule, timeouts=OFTEN, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await kept_waiting(client)
                    go.set()
                    assert await rest(client, got) == FIRST + DONE


async def pause(_: Connection) -> None:
    """Long enough for several comments."""
    await anyio.sleep(6 * OFTEN_S)


async def long_pause(_: Connection) -> None:
    """Long enough for one that comes later."""
    await anyio.sleep(1.2 * LATER_S)


ERRORS: dict[str, tuple[bytes, int, str]] = {
    "JSON": (error(429, "limit_requests"), 429, "limit_requests"),
    "JSON of a server": (error(500, "InternalError"), 500, "InternalError"),
    "flat JSON": (answer(400, [JSON], b'{"code":"InvalidParameter","message":"No."}'), 400, "InvalidParameter"),
    "events": (answer(400, [EVENTS], b'data: {"error":{"code":"odd","message":"No."}}\n\n'), 400, "odd"),
    "a page": (answer(502, [(b"content-type", b"text/html")], b"<h1>Bad\n\nGateway</h1>"), 502, "upstream_error"),
    "text": (answer(404, [(b"content-type", b"text/plain")], b"not\n\ndata: here"), 404, "upstream_error"),
    "nothing": (answer(403, [], b""), 403, "upstream_error"),
    "an error in a 200": (answer(200, [JSON], b'{"error":{"code":"Throttling","message":"No."}}'), 429, "Throttling"),
    "an error in the first event": (
        stream_head() + chunk(event(b'{"error":{"code":"invalid_api_key","message":"No."}}')) + LAST,
        401,
        "invalid_api_key",
    ),
}
NO_STREAM: dict[str, tuple[Sequence[Step], str]] = {
    "a whole answer": (
        [send(answer(200, [JSON], b'{"choices":[{"message":{"content":"Hi"}}]}'))],
        "upstream_protocol_error",
    ),
    "a web page": ([send(answer(200, [(b"content-type", b"text/html")], b"<p>"))], "upstream_protocol_error"),
    "a redirect": ([send(head(302, [(b"location", b"/"), (b"content-length", b"0")]))], "upstream_protocol_error"),
    "a packed stream": (
        [send(answer(200, [EVENTS, (b"content-encoding", b"gzip")], gzip.compress(FIRST + DONE)))],
        "upstream_protocol_error",
    ),
    "a broken chunk": ([send(stream_head() + b"zz\r\n")], "upstream_protocol_error"),
    "no HTTP": ([send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), close()], "upstream_protocol_error"),
    "an end": ([close()], "upstream_closed"),
    "a reset": ([reset()], "upstream_closed"),
    "half a head": ([send(b"HTTP/1.1 200 OK\r\nCont"), close()], "upstream_closed"),
    "a head and no body": ([send(stream_head()), close()], "upstream_closed"),
    "an empty stream": ([send(stream_head() + LAST)], "upstream_protocol_error"),
}


class TestItComesToNothing:
    """An error event and an end that nobody takes for clean."""

    @pytest.mark.parametrize("case", ERRORS)
    async def test_the_upstream_answers_with_an_error(self, tmp_path: Path, case: str) -> None:
        wire, status, code = ERRORS[case]
        log = tmp_path / "access.log"
        go, script = held(send(wire))
        async with backend(script) as only:
            settings = settings_before(tmp_path, SOON, only=only.url)
            async with app.running(replace(settings, access_log=str(log))) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                go.set()
                said = error_in(await rest(client, got))
                assert (said["code"], got.end) == (code, End.FIN)
                assert said["message"]
                proxy.app.access_log.flush()
        assert f" status={status} " in log.read_text(), "the log tells what the upstream said"

    @pytest.mark.parametrize("case", NO_STREAM)
    async def test_the_upstream_answers_with_no_stream(self, tmp_path: Path, case: str) -> None:
        steps, code = NO_STREAM[case]
        go, script = held(*steps)
        async with nothing_left(), backend(script) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                go.set()
                assert error_in(await rest(client, got))["code"] == code
                assert (got.status, got.end) == (200, End.FIN)

    async def test_comments_do_not_stand_for_the_upstream(self, tmp_path: Path) -> None:
        clocks = {**OFTEN, "first_byte_stream_s": 2 * LATER_S, "first_byte_per_100k_tokens_s": 1e-9}
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                assert error_in(await rest(client, got))["code"] == "first_byte_timeout"
                assert got.end is End.FIN
                await only.left.wait()

    async def test_nobody_was_there(self, tmp_path: Path) -> None:
        async with backend(is_open=False) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                assert error_in(await rest(client, got))["code"] == "upstream_connect_failed"
                assert got.end is End.FIN

    async def test_it_breaks_later(self, tmp_path: Path) -> None:
        """As in any other stream."""
        go, script = held(send(stream_head() + chunk(FIRST)), reset())
        async with backend(script) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                go.set()
                body = await rest(client, got)
                assert body.startswith(FIRST)
                assert error_in(body[len(FIRST) :])["code"] == "upstream_closed"
                assert got.end is End.FIN

    async def test_the_server_leaves(self, tmp_path: Path) -> None:
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                proxy.app.drain.advance(Stage.LEAVING)
                proxy.app.drain.break_off()
                assert error_in(await rest(client, got))["code"] == "draining"
                assert got.end is End.FIN

    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_the_client_leaves(self, tmp_path: Path, how: str) -> None:
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, nothing_left():
                async with raw_client(proxy.url) as client:
                    await kept_waiting(client)
                    getattr(client.wire, how)()
                await only.left.wait()


class TestWhoGetsNone:
    @pytest.mark.parametrize(
        ("request_bytes", "clocks"),
        [
            (chat("big"), OFTEN),
            (chat("big", stream=True, version=b"1.0"), OFTEN),
            (chat("big", stream=True), {**OFTEN, "keepalive_after_s": 0.0}),
            (request_head("GET", "/v1/files"), OFTEN),
        ],
        ids=["no stream", "HTTP 1.0", "switched off", "no body"],
    )
    async def test_silence_stays_silence(self, tmp_path: Path, request_bytes: bytes, clocks: dict[str, float]) -> None:
        reply = error(404)
        async with backend([pause, send(reply)]) as only:
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(request_bytes)
        assert (got.status, bytes(got.body)) == (404, reply.partition(b"\r\n\r\n")[2])

    async def test_a_client_that_still_sends(self, tmp_path: Path) -> None:
        """It is not waiting: its request is under way, and may be refused with a status."""
        request = chat("big", stream=True, padding_bytes=LONG_BYTES)
        async with backend(error(429)) as only:
            async with proxy_before(tmp_path, timeouts=LATER, only=only) as proxy, raw_client(proxy.url) as client:
                await client.send(request[:-1000])
                await anyio.sleep(1.5 * LATER_S)
                await client.send(request[-1000:])
                got = await client.answer()
                assert (got.status, got.error_code, got.header(b"connection")) == (429, "some_code", b"")

    async def test_then_it_waits(self, tmp_path: Path) -> None:
        request = chat("big", stream=True, padding_bytes=LONG_BYTES)
        go, script = held(send(STREAM))
        async with backend(script) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                await client.send(request[:-1000])
                await turns()
                got = await kept_waiting(client, request[-1000:])
                go.set()
                assert await rest(client, got) == FIRST + DONE
                assert (await client.ask(request_head("GET", "/livez"))).status == 200, "the connection lives"

    @pytest.mark.parametrize(
        "fields",
        [[JSON], [EVENTS, (b"content-encoding", b"gzip")]],
        ids=["JSON", "packed events"],
    )
    @pytest.mark.parametrize("status", [200, 400])
    async def test_a_body_in_which_a_comment_would_be_one_of_its_bytes(
        self, tmp_path: Path, status: int, fields: list[tuple[bytes, bytes]]
    ) -> None:
        """Its head comes in time, and its body does not."""
        body = b'{"a":1}' if fields == [JSON] else FIRST + DONE
        opening = head(status, [*fields, (b"content-length", b"%d" % len(body))])
        async with backend([send(opening), long_pause, send(body)]) as only:
            async with proxy_before(tmp_path, timeouts=LATER, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert (got.status, bytes(got.body), got.end) == (status, body, End.WHOLE)

    async def test_events_with_a_length_go_down_in_chunks(self, tmp_path: Path) -> None:
        """So that there is a place between them."""
        opening = head(200, [EVENTS, (b"content-length", b"%d" % len(FIRST + DONE))])
        go, script = anyio.Event(), [send(opening)]
        async with backend([*script, wait_for(go), send(FIRST + DONE)]) as only:
            async with proxy_before(tmp_path, timeouts=OFTEN, only=only) as proxy, raw_client(proxy.url) as client:
                got = await kept_waiting(client)
                go.set()
                assert (await rest(client, got), got.end) == (FIRST + DONE, End.WHOLE)

    async def test_packed_events_in_chunks(self, tmp_path: Path) -> None:
        packed = gzip.compress(FIRST + DONE)
        script = [send(stream_head((b"content-encoding", b"gzip"))), long_pause, send(chunk(packed) + LAST)]
        async with backend(script) as only:
            async with proxy_before(tmp_path, timeouts=LATER, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert (bytes(got.body), got.end) == (packed, End.WHOLE)

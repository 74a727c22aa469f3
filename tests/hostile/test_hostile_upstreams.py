"""What an upstream breaks is never passed off as whole, wherever it breaks; and the last words of an answer arrive."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack

import anyio
import pytest

from qproxy.edge import connection as edge_connection
from qproxy.simulator.wire import PeerLeft
from tests.hostile.conftest import DONE, FIRST_EVENT, Recorder, guarded
from tests.support.leaks import turns
from tests.support.raw_client import Answer, End, post, raw_client
from tests.support.scripted_upstream import (
    Connection,
    answer,
    chunk,
    event,
    expect_request,
    head,
    scripted_upstream,
    send,
    stream_head,
)

pytestmark = pytest.mark.anyio

FINISH = event(b'{"choices":[{"finish_reason":"stop"}]}')
AT_ONCE = 24

ANSWERS: dict[str, bytes] = {
    "stream": stream_head() + chunk(FIRST_EVENT) + chunk(FINISH) + chunk(DONE) + b"0\r\n\r\n",
    "length": answer(200, [(b"content-type", b"application/json")], b'{"choices":[]}'),
    "chunks": head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b'{"choices"') + chunk(b":[]}") + b"0\r\n\r\n",
}


async def cut_answers(connection: Connection) -> None:
    """Sends as much of an answer as the request says, and leaves as it says."""
    expect = expect_request()
    while not connection.wire.closed:
        begun = len(connection.received)
        await expect(connection)
        asked = re.search(rb'"model":"(\w+) (\d+) (\w+)"', connection.received[begun:])
        assert asked is not None
        name, size, how = asked[1].decode(), int(asked[2]), asked[3]
        await connection.wire.send(ANSWERS[name][:size])
        await turns(4)
        if size < len(ANSWERS[name]):
            connection.wire.reset() if how == b"reset" else connection.wire.close()


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_is_cut_at_any_byte_is_never_whole(name: str, how: str, version: bytes) -> None:
    """U07 to U11. Whole it is only with its last byte."""
    size = len(ANSWERS[name])
    ends: dict[int, Answer | None] = {}
    async with scripted_upstream([cut_answers]) as upstream, guarded(upstream.url) as proxy:

        async def ask(places: list[int]) -> None:
            for place in places:
                body = b'{"model":"%b %d %b","stream":true}' % (name.encode(), place, how.encode())
                async with raw_client(proxy.url) as client:
                    await client.send(post("/v1/chat/completions", body, version=version))
                    try:
                        ends[place] = await client.answer()
                    except PeerLeft:
                        ends[place] = None

        async with anyio.create_task_group() as tasks:
            for first in range(AT_ONCE):
                tasks.start_soon(ask, list(range(first, size + 1, AT_ONCE)))
    whole = {place: end for place, end in ends.items() if end is not None and end.end is End.WHOLE and end.status < 500}
    assert list(whole) == [size]
    assert bytes(whole[size].body) in (FIRST_EVENT + FINISH + DONE, b'{"choices":[]}')
    codes = {end.error_code for end in ends.values() if end is not None and end.status == 502}
    assert codes <= {"upstream_closed", "upstream_protocol_error"}
    framed = version == b"1.1" or name == "length"
    broken = {end.end for end in ends.values() if end is not None and end.status == 200 and end.end is not End.WHOLE}
    assert broken == {End.FIN if framed else End.RESET}


@pytest.mark.parametrize(("version", "end"), [(b"1.1", End.FIN), (b"1.0", End.RESET)])
async def test_a_stream_that_the_shutdown_cuts_is_not_whole(recorder: Recorder, version: bytes, end: End) -> None:
    async with AsyncExitStack() as stack:
        async with guarded(recorder.url) as proxy:
            client = await stack.enter_async_context(raw_client(proxy.url))
            await client.send(post("/v1/chat/completions", b'{"model":"stall","stream":true}', version=version))
            got = await client.begin()
            await client.until(got, b"data: ")
        while got.end is End.OPEN:
            await client.more(got)
    assert got.end is end


async def test_whoever_reads_slowly_gets_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a client gets to close begins when it has been given everything.

    How much the kernel takes of an answer that nobody reads is its own affair, so one of the sizes leaves a rest here.
    """
    monkeypatch.setattr(edge_connection, "LINGER_S", 0.02)
    body = bytes(byte % 251 for byte in range(1 << 20)) * 3

    async def serve(connection: Connection) -> None:
        await expect_request()(connection)
        size = int(connection.received.partition(b'"model":"')[2].partition(b'"')[0])
        await connection.wire.send(answer(200, [(b"content-type", b"audio/mpeg")], body[:size]))

    async def ask(url: str, size: int) -> None:
        async with raw_client(url, receive_buffer_bytes=4096) as client:
            await client.send(post("/v1/audio/speech", b'{"model":"%d"}' % size, b"Connection: close"))
            got = await client.begin()
            await anyio.sleep(0.5)
            while got.end is End.OPEN:
                await client.more(got)
            assert (got.end, len(got.body)) == (End.WHOLE, size)

    async with scripted_upstream([serve]) as upstream, guarded(upstream.url) as proxy:
        async with anyio.create_task_group() as tasks:
            for size in range(96 << 10, len(body), 96 << 10):
                tasks.start_soon(ask, proxy.url, size)


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_wrapped_error_has_one_request_id(status: int) -> None:
    """U25."""
    page = answer(status, [(b"content-type", b"text/html"), (b"x-request-id", b"theirs")], b"<p>sorry")
    async with scripted_upstream([expect_request(), send(page)]) as upstream, guarded(upstream.url) as proxy:
        async with raw_client(proxy.url) as client:
            got = await client.ask(post("/v1/embeddings", b'{"model":"m"}'))
            assert (got.status, got.error_code) == (status, "upstream_error")
            assert len(got.values(b"x-request-id")) == 1

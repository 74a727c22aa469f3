"""Peers that stay and take nothing: both are given up after a while, and take nobody else along."""

from __future__ import annotations

import anyio
import pytest

from qproxy.simulator.wire import PeerLeft
from tests.hostile.conftest import DONE, FIRST_EVENT, guarded, recording
from tests.support.leaks import nothing_left, turns
from tests.support.raw_client import End, chunks, post, raw_client, request_head
from tests.support.scripted_upstream import (
    Connection,
    answer,
    chunk,
    event,
    expect_head,
    expect_request,
    scripted_upstream,
    send,
    stream_head,
    wait_without_reading,
)

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
JSON = b"Content-Type: application/json"
SOON_S = 0.1
PATIENCE_S = 2.0
PAUSE_S = 0.3
BIG_EVENT = chunk(event(b'{"choices":[{"delta":{"content":"%b"}}]}' % (b"x" * 16_000)))


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_client_that_takes_nothing_is_cut_and_its_upstream_let_go(version: bytes) -> None:
    """C04."""
    async with nothing_left(), recording() as recorder:
        async with guarded(recorder.url, timeouts={"write_stall_s": SOON_S}) as proxy:
            async with raw_client(proxy.url, receive_buffer_bytes=4096) as client:
                await client.send(post(CHAT, b'{"model":"flood","stream":true}', version=version))
                while not recorder.open_connections:
                    await turns(1)
                await recorder.until_idle()
                got = await client.begin()
                while got.end is End.OPEN:
                    await client.more(got)
                assert got.end in (End.FIN, End.RESET)
            async with raw_client(proxy.url) as other:
                assert (await other.ask(post(CHAT, b'{"model":"m"}'))).status == 200


async def test_a_client_that_takes_little_by_little_gets_everything() -> None:
    """C04: it is slow, and it is not stuck. All of it takes longer than a stall may, which in turn is longer than the
    200 ms after which a kernel asks again whether a full buffer has room, and than a busy machine waits."""
    events = [BIG_EVENT] * 200
    whole = b"".join(events) + chunk(DONE)

    async def serve(connection: Connection) -> None:
        await expect_request()(connection)
        await connection.wire.send(stream_head() + whole + chunk(b""))

    async with scripted_upstream([serve]) as upstream:
        async with guarded(upstream.url, timeouts={"write_stall_s": PATIENCE_S}) as proxy:
            async with raw_client(proxy.url, receive_buffer_bytes=4096) as client:
                await client.send(post(CHAT, b'{"model":"m","stream":true}'))
                got = await client.begin()
                while got.end is End.OPEN:
                    before = len(got.body)
                    while got.end is End.OPEN and len(got.body) < before + 300_000:
                        await client.more(got)
                    await anyio.sleep(PAUSE_S)
                assert got.end is End.WHOLE
                assert sum(got.sizes) == len(got.body)
                assert got.body.endswith(DONE)
                assert got.body.count(b"data: ") == len(events) + 1


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
async def test_an_upstream_that_takes_nothing_is_given_up(path: str, framing: str) -> None:
    """R17: while a client would go on sending."""
    size = 40 << 20
    never = anyio.Event()
    script = [expect_head(), wait_without_reading(never)]
    length = b"Content-Length: %d" % size if framing == "length" else b"Transfer-Encoding: chunked"
    body = b'{"model":"m","input":"%b"}' % (b"x" * (size - 24))
    async with scripted_upstream(script, receive_buffer_bytes=4096) as upstream:
        async with guarded(upstream.url, timeouts={"upload_s": SOON_S}) as proxy:
            async with raw_client(proxy.url) as client, anyio.create_task_group() as tasks:
                await client.send(request_head("POST", path, JSON, length))

                async def upload() -> None:
                    pieces = [body[at : at + (1 << 20)] for at in range(0, size, 1 << 20)]
                    try:
                        for piece in pieces if framing == "length" else chunks(pieces):
                            await client.wire.send(piece)
                    except PeerLeft:
                        pass  # the answer is there, and the rest is nobody's business any more

                tasks.start_soon(upload)
                got = await client.answer()
                assert (got.status, got.error_code, got.end) == (504, "upload_timeout", End.WHOLE)
                assert got.header(b"x-should-retry") == b"false"
                tasks.cancel_scope.cancel()
        never.set()


async def test_one_that_takes_little_by_little_is_not() -> None:
    size = 4 << 20

    async def sip(connection: Connection) -> None:
        await connection.read_until(b"\r\n\r\n")
        for _ in range(8):
            await connection.read_exactly(size // 8)
            await anyio.sleep(PAUSE_S)
        await send(answer(200, [(b"content-type", b"application/json")], b"{}"))(connection)

    async with scripted_upstream([sip], receive_buffer_bytes=4096) as upstream:
        async with guarded(upstream.url, timeouts={"upload_s": PATIENCE_S}) as proxy:
            async with raw_client(proxy.url) as client:
                await client.send(request_head("POST", "/v1/files", b"Content-Length: %d" % size))
                await client.wire.send(bytes(size))
                got = await client.answer()
                assert (got.status, bytes(got.body)) == (200, b"{}")


async def test_stuck_ones_do_not_hold_others_up() -> None:
    """C04, U36: many clients that read nothing, and one that works."""
    async with recording() as recorder, guarded(recorder.url) as proxy:
        async with anyio.create_task_group() as tasks:

            async def stuck() -> None:
                async with raw_client(proxy.url, receive_buffer_bytes=4096) as client:
                    await client.send(post(CHAT, b'{"model":"flood","stream":true}'))
                    await anyio.sleep_forever()

            for _ in range(20):
                tasks.start_soon(stuck)
            while len(recorder.requests) < 20:
                await turns(1)
            async with raw_client(proxy.url) as client:
                for _ in range(20):
                    assert (await client.ask(post(CHAT, b'{"model":"m"}'))).status == 200
                await client.send(post(CHAT, b'{"model":"stall","stream":true}'))
                got = await client.begin()
                await client.until(got, FIRST_EVENT)
            tasks.cancel_scope.cancel()

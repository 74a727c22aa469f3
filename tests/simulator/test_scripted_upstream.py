"""The scripted upstream: bytes exactly as written, in the order of the script, on every loop."""

from __future__ import annotations

import socket
import struct

import anyio
import httpcore
import pytest

from tests.support.http_client import port_of
from tests.support.scripted_upstream import (
    answer,
    chunk,
    close,
    event,
    expect_bytes,
    expect_head,
    expect_request,
    half_close,
    reached,
    reset,
    scripted_upstream,
    send,
    send_bytewise,
    stream_head,
    wait_for,
    wait_without_reading,
)

pytestmark = pytest.mark.anyio
REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


async def read_to_end(stream: anyio.abc.SocketStream) -> bytes:
    got = b""
    async for data in stream:
        got += data
    return got


def fill(client: socket.socket, size: int) -> int:
    """Sends until the kernel takes no more; how many bytes it took."""
    sent = 0
    try:
        while sent < size:
            sent += client.send(bytes(min(65536, size - sent)))
    except BlockingIOError:
        pass
    return sent


async def test_received_bytes_are_kept_raw_and_sent_bytes_come_as_written() -> None:
    script = [expect_request(), send(b"HTTP/1.1 200 OK\r\n\r\nany", b"thing\x00\xff"), close()]
    async with scripted_upstream(script) as upstream:
        async with await anyio.connect_tcp("127.0.0.1", port_of(upstream.url)) as stream:
            await stream.send(REQUEST)
            assert await read_to_end(stream) == b"HTTP/1.1 200 OK\r\n\r\nanything\x00\xff"
        assert upstream.connections[0].received == REQUEST
        assert upstream.connections[0].steps_done == 3


async def test_an_http_client_reads_a_scripted_stream_sent_bytewise() -> None:
    wire = stream_head() + chunk(event(b"{}")) + chunk(event(b"[DONE]")) + chunk(b"")
    async with scripted_upstream([expect_request(), send_bytewise(wire)]) as upstream:
        async with httpcore.AsyncConnectionPool() as pool:
            response = await pool.request("POST", f"{upstream.url}/v1/x", content=b"{}")
        assert response.content == b"data: {}\n\ndata: [DONE]\n\n"
        connection = await upstream.connected()
        await connection.peer_left.wait()


async def test_chunked_requests_are_read_to_their_last_chunk() -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    async with scripted_upstream([expect_request(), send(answer(204)), close()]) as upstream:
        async with await anyio.connect_tcp("127.0.0.1", port_of(upstream.url)) as stream:
            await stream.send(request)
            assert await read_to_end(stream) == b"HTTP/1.1 204 Scripted\r\ncontent-length: 0\r\n\r\n"
        assert upstream.connections[0].received == request


async def test_each_connection_runs_its_own_script_and_the_last_serves_the_rest() -> None:
    async with scripted_upstream([send(b"one"), close()], [send(b"more"), close()]) as upstream:
        got = []
        for _ in range(3):
            async with await anyio.connect_tcp("127.0.0.1", port_of(upstream.url)) as stream:
                got.append(await read_to_end(stream))
        assert got == [b"one", b"more", b"more"]


async def test_reset_is_a_reset_and_not_an_end() -> None:
    async with (
        scripted_upstream([expect_head(), reset()]) as upstream,
        await anyio.connect_tcp("127.0.0.1", port_of(upstream.url)) as stream,
    ):
        await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()


async def test_half_close_ends_the_answer_and_still_reads() -> None:
    async with scripted_upstream([send(b"bye"), half_close(), expect_bytes(4)]) as upstream:
        async with await anyio.connect_tcp("127.0.0.1", port_of(upstream.url)) as stream:
            assert await read_to_end(stream) == b"bye"
            await stream.send(b"late")
        connection = await upstream.connected()
        await connection.finished.wait()
        assert connection.received == b"late"


async def test_a_wait_notices_a_peer_that_leaves() -> None:
    waiting, never = anyio.Event(), anyio.Event()
    async with scripted_upstream([reached(waiting), wait_for(never), send(b"unreachable")]) as upstream:
        async with await anyio.connect_tcp("127.0.0.1", port_of(upstream.url)):
            await waiting.wait()
        connection = await upstream.connected()
        await connection.peer_left.wait()
        assert connection.steps_done == 1


async def test_a_peer_that_resets_is_noticed() -> None:
    never = anyio.Event()
    async with scripted_upstream([wait_for(never)]) as upstream:
        client = socket.create_connection(("127.0.0.1", port_of(upstream.url)))
        connection = await upstream.connected()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await connection.peer_left.wait()


async def test_a_peer_that_does_not_read_feels_the_small_buffer() -> None:
    go, size = anyio.Event(), 4 * 1024 * 1024
    async with scripted_upstream(
        [wait_without_reading(go), expect_bytes(size, at_once=1000), send(b"got it"), close()],
        receive_buffer_bytes=4096,
    ) as upstream:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.connect(("127.0.0.1", port_of(upstream.url)))
        client.setblocking(False)
        sent = fill(client, size)
        assert sent < size
        go.set()
        while sent < size:
            await anyio.wait_writable(client)
            sent += client.send(bytes(min(65536, size - sent)))
        await anyio.wait_readable(client)
        assert client.recv(100) == b"got it"
        client.close()

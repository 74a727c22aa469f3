"""Connections to an upstream that were kept, and died meanwhile.

What costs nobody anything, and what is told and not repeated.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from tests.hostile.conftest import DONE, FIRST_EVENT, guarded
from tests.support.leaks import turns
from tests.support.live import settings_for
from tests.support.raw_client import End, post, raw_client
from tests.support.scripted_upstream import (
    Connection,
    answer,
    chunk,
    close,
    event,
    expect_request,
    half_close,
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

CHAT = post("/v1/chat/completions", b'{"model":"m"}')
STREAM = post("/v1/chat/completions", b'{"model":"m","stream":true}')
UPLOAD = post("/v1/files", b"x" * 300_000)
OK = answer(200, [(b"content-type", b"application/json")], b"{}")


@pytest.mark.parametrize("how", [close, half_close, reset])
@pytest.mark.parametrize("request_bytes", [CHAT, STREAM, UPLOAD], ids=["plain", "stream", "upload"])
async def test_one_that_was_closed_while_it_was_kept_costs_nobody_a_request(
    request_bytes: bytes, how: Callable[[], Step]
) -> None:
    """U06."""
    fine = [expect_request(), send(OK)]
    async with scripted_upstream([*fine, how()], fine) as upstream, app.running(settings_for(upstream.url)) as proxy:
        async with raw_client(proxy.url) as client:
            assert (await client.ask(CHAT)).status == 200
            while upstream.connections[0].steps_done < 3:
                await turns(1)
            assert (await client.ask(request_bytes)).status == 200
        assert len(upstream.connections) == 2


async def test_one_that_was_closed_behind_the_loops_back() -> None:
    """U06: the request comes before the loop has had its turn to see the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        requests: list[bytes] = []
        async with (
            app.running(settings_for(f"http://127.0.0.1:{listener.getsockname()[1]}")) as proxy,
            raw_client(proxy.url) as client,
        ):
            for _ in range(3):
                await client.send(CHAT)
                await anyio.wait_readable(listener)
                sock = listener.accept()[0]
                sock.setblocking(False)
                await anyio.wait_readable(sock)
                requests.append(sock.recv(10_000))
                sock.send(OK)
                assert (await client.answer()).status == 200
                sock.close()  # no turn of the loop until the next request is on its way
    assert len(requests) == 3


@pytest.mark.parametrize("how", [close, reset])
@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("request_bytes", [CHAT, STREAM, UPLOAD], ids=["plain", "stream", "upload"])
async def test_one_that_takes_a_request_and_dies_is_told_and_not_repeated(
    request_bytes: bytes, how: Callable[[], Step], *, kept: bool
) -> None:
    """U05, U06: the upstream may have done the work."""
    before = [expect_request(), send(OK)] if kept else []
    async with scripted_upstream([*before, expect_request(), how()], [expect_request(), send(OK)]) as upstream:
        async with app.running(settings_for(upstream.url)) as proxy, raw_client(proxy.url) as client:
            if kept:
                assert (await client.ask(CHAT)).status == 200
            got = await client.ask(request_bytes)
            assert (got.status, got.error_code, got.end) == (502, "upstream_closed", End.WHOLE)
            assert got.header(b"x-should-retry") == b"true"
            assert got.header(b"connection") == b""
            assert len(upstream.connections) == 1
            assert (await client.ask(CHAT)).status == 200
            assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    "unasked",
    [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", OK, b"\r\n", b"x"],
    ids=["a farewell", "a second answer", "an empty line", "a letter"],
)
async def test_whatever_comes_unasked_is_nobodys_answer(unasked: bytes) -> None:
    """R16: one client must not get what was meant for another."""
    speak = anyio.Event()
    first = [expect_request(), send(answer(200, [], b"1")), wait_for(speak), send(unasked)]
    async with scripted_upstream(first, [expect_request(), send(answer(200, [], b"2"))]) as upstream:
        async with app.running(settings_for(upstream.url)) as proxy, raw_client(proxy.url) as client:
            assert (await client.ask(CHAT)).body == b"1"
            speak.set()
            while upstream.connections[0].steps_done < 4:
                await turns(1)
            assert (await client.ask(CHAT)).body == b"2"


async def test_a_short_time_of_keeping_is_kept() -> None:
    """U06: a connection is closed by us before a usual upstream closes it."""
    async with scripted_upstream([expect_request(), send(OK)]) as upstream, guarded(upstream.url) as proxy:
        async with raw_client(proxy.url) as client:
            assert (await client.ask(CHAT)).status == 200
            await (await upstream.connected()).peer_left.wait()


def test_how_long_a_connection_is_kept() -> None:
    """Self-hosted servers close after 5 s; the defaults must be below that."""
    settings = settings_for("http://127.0.0.1:1/v1")
    assert settings.upstreams["default"].upstream.keepalive_s <= 4.0


NOT_KEPT: dict[str, tuple[bytes, bool]] = {
    "it says so": (answer(200, [(b"connection", b"close")], b"{}"), False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", False),
    "length and chunks (U16)": (
        head(200, [(b"content-length", b"2"), (b"transfer-encoding", b"chunked")]) + chunk(b"{}") + chunk(b""),
        False,
    ),
    "bytes behind the answer (U16)": (OK + b"x", False),
    "a whole answer": (OK, True),
    "trailers (U32)": (head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"{}") + b"0\r\nX: y\r\n\r\n", True),
    "a finish reason and no [DONE] (U29)": (
        stream_head() + chunk(event(b'{"choices":[{"finish_reason":"stop"}]}')) + chunk(b""),
        True,
    ),
}


@pytest.mark.parametrize("name", NOT_KEPT)
async def test_which_connections_are_kept(name: str) -> None:
    wire, is_kept = NOT_KEPT[name]

    async def serve(connection: Connection) -> None:
        while True:
            await expect_request()(connection)
            await connection.wire.send(wire)

    async with scripted_upstream([serve]) as upstream:
        async with app.running(settings_for(upstream.url)) as proxy, raw_client(proxy.url) as client:
            for _ in range(2):
                got = await client.ask(STREAM)
                assert (got.status, got.end) == (200, End.WHOLE)
        assert len(upstream.connections) == (1 if is_kept else 2)


BROKEN: dict[str, bytes] = {
    "a bad chunk size (U15)": stream_head() + chunk(FIRST_EVENT) + b"zz\r\n",
    "a bad chunk end (U15)": stream_head() + chunk(FIRST_EVENT)[:-2] + b"xx",
    "101 (U18)": head(101, [(b"upgrade", b"x")]),
    "a banner (U19)": b"220 mail.example ESMTP\r\n\r\n",
    "a folded line (U20)": head(200, [(b"x", b"1\r\n 2"), (b"content-length", b"0")]),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_connection_whose_framing_is_in_doubt_serves_nobody_else(name: str) -> None:
    first = [expect_request(), send(BROKEN[name]), wait_for(anyio.Event())]
    second = [expect_request(), send(stream_head() + chunk(DONE) + chunk(b""))]
    async with scripted_upstream(first, second) as upstream, app.running(settings_for(upstream.url)) as proxy:
        async with raw_client(proxy.url) as client:
            await client.ask(STREAM)
            await upstream.connections[0].peer_left.wait()
        async with raw_client(proxy.url) as client:
            assert (await client.ask(STREAM)).end is End.WHOLE
        assert len(upstream.connections) == 2

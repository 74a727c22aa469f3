"""SIGTERM and SIGINT to a real server (`faults.md` R13, P01 and P02)."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from tests.support.drain_stage import ASK_STREAM, FIRST, LAST, begin_stream, refuses, streaming, whole
from tests.support.raw_client import Answer, End, raw_client, request_head
from tests.support.scripted_upstream import scripted_upstream
from tests.support.server_process import Server, server_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

STREAMS = 200
LIVE = request_head("GET", "/livez")
either_signal = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the test; that of the server is `backend`."""
    return "asyncio"


@pytest.fixture(params=["uvloop", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@asynccontextmanager
async def serving(folder: Path, backend: str, drain_s: float = 30.0) -> AsyncIterator[tuple[Server, anyio.Event]]:
    """A server, and the event that lets its upstream end every stream."""
    go_on = anyio.Event()
    async with scripted_upstream([streaming(go_on)]) as upstream:
        environ = {"QPROXY_DRAIN_S": str(drain_s)}
        async with server_process(folder, upstream.url + "/v1", backend=backend, environ=environ) as server:
            yield server, go_on


async def until_unready(server: Server) -> Answer:
    """The first answer that says so."""
    while True:
        async with raw_client(server.url) as client:
            ready = await client.ask(request_head("GET", "/readyz"))
        if ready.status != 200:
            return ready


async def until_refusing(server: Server) -> None:
    while not await refuses(server.url):
        await anyio.sleep(0.01)


@either_signal
async def test_streams_are_finished_first(tmp_path: Path, backend: str, number: signal.Signals) -> None:
    """P01: byte for byte, and status 0."""
    async with serving(tmp_path, backend) as (server, go_on), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_client(server.url)) for _ in range(STREAMS)]
        begun = [await begin_stream(client) for client in clients]
        server.signal(number)
        await until_refusing(server)
        go_on.set()
        for client, got in zip(clients, begun, strict=True):
            assert (await whole(client, got)).end is End.WHOLE
            assert bytes(got.body) == FIRST + LAST
            client.wire.close()
        assert await server.ended() == 0
        assert server.said() == (
            f"stopping: requests under way: {STREAMS}; they have 30 s; a second signal ends them\n"
        )


async def test_what_takes_too_long_is_broken_off(tmp_path: Path, backend: str) -> None:
    async with serving(tmp_path, backend, drain_s=0.2) as (server, _), raw_client(server.url) as client:
        got = await begin_stream(client)
        server.signal(signal.SIGTERM)
        await whole(client, got)
        assert got.end is End.FIN
        assert orjson.loads(got.body[len(FIRST) + 6 :])["error"]["code"] == "draining"
        client.wire.close()
        assert await server.ended() == 0
        assert server.said().endswith("\nstopping: requests that were broken off: 1\n")


@either_signal
async def test_a_second_signal_ends_it(tmp_path: Path, backend: str, number: signal.Signals) -> None:
    """P02. The drain would have waited for longer than any test."""
    async with serving(tmp_path, backend, drain_s=3600.0) as (server, _), raw_client(server.url) as client:
        got = await begin_stream(client)
        server.signal(signal.SIGTERM)
        await until_refusing(server)
        server.signal(number)
        await whole(client, got)
        assert got.end is End.FIN
        assert orjson.loads(got.body[len(FIRST) + 6 :])["error"]["code"] == "draining"
        assert await server.ended() == 0


async def test_without_work_it_ends_at_once(tmp_path: Path, backend: str) -> None:
    async with serving(tmp_path, backend) as (server, _), raw_client(server.url) as idle:
        assert (await idle.ask(LIVE)).status == 200
        server.signal(signal.SIGTERM)
        assert await idle.closed() == b""
        assert await server.ended() == 0
        assert server.said() == ""


async def test_readiness_turns_while_new_requests_are_served(tmp_path: Path, backend: str) -> None:
    async with scripted_upstream([streaming(go_on := anyio.Event())]) as upstream:
        go_on.set()
        environ = {"QPROXY_DRAIN_DELAY_S": "2.5"}
        async with server_process(tmp_path, upstream.url + "/v1", backend=backend, environ=environ) as server:
            server.signal(signal.SIGTERM)
            ready = await until_unready(server)
            assert (ready.status, ready.error_code) == (503, "draining")
            async with raw_client(server.url) as client:
                got = await client.ask(ASK_STREAM)
            assert (got.status, got.header(b"connection")) == (200, b"close")
            assert await server.ended() == 0

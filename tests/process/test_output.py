"""A server whose output goes nowhere (`faults.md` P08): it serves, and it stops when it is told to."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.support.drain_stage import FIRST, LAST, begin_stream, refuses, streaming, whole
from tests.support.raw_client import raw_client, request_head
from tests.support.scripted_upstream import scripted_upstream
from tests.support.server_process import Server, server_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

pytestmark = pytest.mark.anyio

LIVE = request_head("GET", "/livez")
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the test; that of the server is `backend`."""
    return "asyncio"


@pytest.fixture(params=["uvloop", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextmanager
def full_pipe() -> Iterator[IO[bytes]]:
    """The end for writing of a pipe that takes nothing more, and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as pipe:
        for size in (4096, 1):
            while pipe.write(b"." * size) is not None:
                pass
        os.set_blocking(writing, True)
        yield pipe


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def ends(server: Server) -> None:
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0


async def test_what_it_has_to_say_holds_nobody_up(tmp_path: Path, backend: str) -> None:
    """With a request under way it says something when it is stopped."""
    go_on = anyio.Event()
    with full_pipe() as pipe:
        async with (
            scripted_upstream([streaming(go_on)]) as upstream,
            server_process(tmp_path, upstream.url + "/v1", backend=backend, stderr=pipe) as server,
            raw_client(server.url) as client,
        ):
            got = await begin_stream(client)
            server.signal(signal.SIGTERM)
            while not await refuses(server.url):
                await anyio.sleep(0.01)
            go_on.set()
            assert bytes((await whole(client, got)).body) == FIRST + LAST
            client.wire.close()
            assert await server.ended() == 0


async def test_nor_does_its_greeting(tmp_path: Path, backend: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with full_pipe() as pipe:
        async with server_process(tmp_path, NOWHERE, "--port", str(port), backend=backend, stdout=pipe) as server:
            while await refuses(url):
                await anyio.sleep(0.02)
            async with raw_client(url) as client:
                assert (await client.ask(LIVE)).status == 200
            await ends(server)


async def test_a_log_that_nobody_reads(tmp_path: Path, backend: str) -> None:
    """Opening such a FIFO waits for its reader."""
    log = tmp_path / "access.log"
    os.mkfifo(log)
    async with server_process(tmp_path, NOWHERE, "--access-log", str(log), backend=backend) as server:
        async with raw_client(server.url) as client:
            for _ in range(3):
                assert (await client.ask(LIVE)).status == 200
                await anyio.sleep(0.3)  # the log is written a few times a second
        await ends(server)


async def test_no_output_at_all(tmp_path: Path, backend: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {"QPROXY_ACCESS_LOG": "stderr", "QPROXY_PORT": str(port)}
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    async with server_process(tmp_path, NOWHERE, backend=backend, environ=environ, wrapper=shell) as server:
        while await refuses(url):
            await anyio.sleep(0.02)
        async with raw_client(url) as client:
            for _ in range(3):
                assert (await client.ask(LIVE)).status == 200
                await anyio.sleep(0.3)
        await ends(server)

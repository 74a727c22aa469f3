"""A server that was stopped for a while (`faults.md` P07) does not hold it against its clients."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.support.drain_stage import ASK_STREAM, FIRST, LAST
from tests.support.raw_client import End, raw_client
from tests.support.scripted_upstream import chunk, expect_request, scripted_upstream, send, stream_head
from tests.support.server_process import server_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

EVENTS = 200_000  # more than all buffers on the way hold
PATIENCE_S = 1.5


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the test; that of the server is `backend`."""
    return "asyncio"


@pytest.mark.parametrize("backend", ["uvloop", "trio"])
async def test_a_client_that_has_read_meanwhile_is_not_stuck(tmp_path: Path, backend: str) -> None:
    """What the server has for it could not move while the server stood still."""
    flood = [chunk(FIRST * 1000)] * (EVENTS // 1000)
    script = [expect_request(), send(stream_head(), *flood, chunk(LAST), chunk(b""))]
    environ = {"QPROXY_WRITE_STALL_S": str(PATIENCE_S)}
    async with (
        scripted_upstream(script) as upstream,
        server_process(tmp_path, upstream.url + "/v1", backend=backend, environ=environ) as server,
        raw_client(server.url, receive_buffer_bytes=4096) as client,
    ):
        await client.send(ASK_STREAM)
        got = await client.begin()
        await anyio.sleep(0.1)
        server.signal(signal.SIGSTOP)
        with anyio.move_on_after(PATIENCE_S + 0.75):
            while got.end is End.OPEN:
                await client.more(got)
        server.signal(signal.SIGCONT)
        while got.end is End.OPEN:
            await client.more(got)
        assert got.end is End.WHOLE
        assert len(got.body) == EVENTS * len(FIRST) + len(LAST)

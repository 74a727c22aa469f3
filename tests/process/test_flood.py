"""More new connections than a server lets in (`faults.md` P09)."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.support.drain_stage import FIRST, LAST, begin_stream, streaming, whole
from tests.support.raw_client import RawClient, connect, raw_client, request_head
from tests.support.scripted_upstream import scripted_upstream
from tests.support.server_process import server_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LIVE = request_head("GET", "/livez")
LET_IN = 50
COMING = 1000
PATIENCE_S = 20.0


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the test; that of the server is `backend`."""
    return "asyncio"


@pytest.mark.parametrize("backend", ["uvloop", "trio"])
async def test_those_over_the_limit_are_told_and_the_others_served(tmp_path: Path, backend: str) -> None:
    go_on = anyio.Event()
    environ = {"QPROXY_MAX_CONNECTIONS": str(LET_IN)}
    async with (
        scripted_upstream([streaming(go_on)]) as upstream,
        server_process(tmp_path, upstream.url + "/v1", backend=backend, environ=environ) as server,
        raw_client(server.url) as streaming_client,
        raw_client(server.url) as prober,
    ):
        got = await begin_stream(streaming_client)
        assert (await prober.ask(LIVE)).status == 200
        async with AsyncExitStack() as stack:
            clients = []
            for number in range(COMING):
                wire = connect(server.url)
                stack.callback(wire.close)
                clients.append(RawClient(wire))
                if number % 100 == 0:
                    assert (await prober.ask(LIVE)).status == 200
            statuses = Counter([(await client.ask(LIVE)).status for client in clients])
        assert statuses == {200: LET_IN - 2, 503: COMING - LET_IN + 2}
        go_on.set()
        assert bytes((await whole(streaming_client, got)).body) == FIRST + LAST
        with anyio.fail_after(PATIENCE_S):  # the server has to see first that so many have left
            while not await is_let_in(server.url):
                await anyio.sleep(0.01)


async def is_let_in(url: str) -> bool:
    async with raw_client(url) as client:
        return (await client.ask(LIVE)).status == 200

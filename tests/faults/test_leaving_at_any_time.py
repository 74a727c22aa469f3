"""A client that leaves at each turn of the loop: account, pool and descriptors are as before, and nobody is blamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.health import Standing
from tests.support.account_stage import CHAT, AccountStage, key_stage
from tests.support.leaks import nothing_left, turns
from tests.support.raw_client import post, raw_client, request_head

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

ONE, TWO = "sk-one", "sk-two"
TURNS = 40
"""More than a request takes until it stands and waits."""
JSON = b"Content-Type: application/json"
LONG = b'{"model":"sim-slow-head","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 300_000)
REQUESTS = {
    "stream": post(CHAT, b'{"model":"sim-stall","stream":true,"messages":[{"role":"user","content":"hi"}]}'),
    "plain": post(CHAT, b'{"model":"sim-slow-head","messages":[{"role":"user","content":"hi"}]}'),
    "half a body": post(CHAT, LONG)[:-100_000],
    "long": post(CHAT, LONG),
    "upload": request_head("POST", "/v1/files", JSON, b"Content-Length: 1000") + b"x" * 999,
}


async def settled(stage: AccountStage) -> None:
    """Returns when nothing is under way; what waits in a thread of the log does not count."""
    with anyio.fail_after(10):
        while stage.in_flight() or any(pool.connections for pool in stage.proxy.app.upstreams._pools.values()):
            await anyio.sleep(0.001)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("name", REQUESTS)
async def test_nothing_is_kept_and_no_account_suffers(tmp_path: Path, name: str, how: str) -> None:
    """C08, C09, R9."""
    async with key_stage(tmp_path, ONE, TWO, rotation="least_in_flight") as stage:
        async with nothing_left():
            for count in range(TURNS):
                async with raw_client(stage.proxy.url) as client:
                    await client.wire.send(REQUESTS[name])
                    await turns(count)
                    getattr(client.wire, how)()
                await settled(stage)
        assert stage.simulator.counters.heads > 0
        for account in ("key-1", "key-2"):
            view = stage.view(account)
            assert (view.standing, view.cooling, view.in_flight) == (Standing.READY, (), 0)
        assert (await stage.chat()).status == 200

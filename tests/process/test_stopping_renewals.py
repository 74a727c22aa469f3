"""A server that is stopped while it renews a login (`faults.md` P03): the token server has given a new one, and the old
one is worth nothing any more."""

from __future__ import annotations

import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.simulator import Options, Simulator, running
from tests.support.account_stage import log_in, login_path, login_settings
from tests.support.drain_stage import ASK, refuses
from tests.support.leaks import nothing_left, turns
from tests.support.raw_client import raw_client
from tests.support.server_process import Server, server_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

TOKEN_PATH = "/oauth2/token"


def saved(home: Path, simulator: Simulator) -> bool:
    """Whether the file has the tokens that the server gave last."""
    token = json.loads(login_path(home).read_bytes())["access_token"]
    return simulator.oauth.account_of(token) == "default"


async def release_soon(simulator: Simulator) -> None:
    await anyio.sleep(0.2)
    simulator.release()


def write_expired_login(simulator: Simulator, home: Path) -> str:
    return log_in(simulator, home, lifetime_s=-60).access_token


@asynccontextmanager
async def renewing(folder: Path, backend: str, drain_s: float) -> AsyncIterator[tuple[Server, Simulator, Path]]:
    """A server whose first client left while its request waited for a renewal, which the token server holds back."""
    home = folder / "qwen"
    async with running(Options(tokens=4)) as simulator:
        write_expired_login(simulator, home)
        simulator.fail_next("slow-head", path=TOKEN_PATH)
        environ = {"QWEN_BASE_URL": simulator.url, "QWEN_HOME": str(home), "QPROXY_DRAIN_S": str(drain_s)}
        async with server_process(folder, "qwen-oauth", backend=backend, environ=environ) as server:
            async with raw_client(server.url) as client:
                await client.send(ASK)
                await simulator.held()
            yield server, simulator, home
            simulator.release()


class TestTheProcess:
    @pytest.fixture
    def anyio_backend(self) -> str:
        """The loop of the test; that of the server is `backend`."""
        return "asyncio"

    @pytest.fixture(params=["uvloop", "trio"])
    def backend(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    async def test_the_new_token_is_saved_before_it_ends(self, tmp_path: Path, backend: str) -> None:
        async with renewing(tmp_path, backend, drain_s=0.1) as (server, simulator, home):
            before = login_path(home).read_bytes()
            server.signal(signal.SIGTERM)
            await anyio.sleep(1.0)  # with nothing else to wait for it would have ended by now
            assert server.process.poll() is None
            assert login_path(home).read_bytes() == before
            simulator.release()
            assert await server.ended() == 0
            assert login_path(home).read_bytes() != before
            assert saved(home, simulator)
            assert not list(home.glob("*.lock"))

    async def test_a_second_signal_does_not_wait_for_it(self, tmp_path: Path, backend: str) -> None:
        async with renewing(tmp_path, backend, drain_s=3600.0) as (server, _, home):
            server.signal(signal.SIGTERM)
            while not await refuses(server.url):
                await turns(1)
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0
            assert not list(home.glob("*.lock"))


class TestLeavingTheBlock:
    async def test_waits_for_it_too(self, tmp_path: Path) -> None:
        async with anyio.create_task_group() as tasks, renewing_here(tmp_path) as (_, simulator, home):
            before = login_path(home).read_bytes()
            tasks.start_soon(release_soon, simulator)
        assert login_path(home).read_bytes() != before
        assert saved(home, simulator)

    async def test_does_not_wait_for_ever(self, tmp_path: Path) -> None:
        async with renewing_here(tmp_path) as (proxy, _, home):
            before = login_path(home).read_bytes()
            proxy.renewal_s = 0.05
        assert login_path(home).read_bytes() == before
        assert not list(home.glob("*.lock"))


@asynccontextmanager
async def renewing_here(folder: Path) -> AsyncIterator[tuple[app.Running, Simulator, Path]]:
    """The same on the loop of the test. The proxy is left with the block, the simulator after it."""
    home = folder / "qwen"
    async with nothing_left(), running(Options(tokens=4)) as simulator:
        write_expired_login(simulator, home)
        simulator.fail_next("slow-head", path=TOKEN_PATH)
        async with app.running(login_settings(simulator, home)) as proxy, raw_client(proxy.url) as client:
            await client.send(ASK)
            await simulator.held()
            yield proxy, simulator, home
        simulator.release()

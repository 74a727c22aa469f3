"""Logins that are begun for somebody else: bounded, and forgotten after a while."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.edge.login_desk import LoginDesk
from qproxy.errors import DownstreamError, UpstreamError
from qproxy.simulator import Options, Simulator, running
from tests.support.leaks import nothing_left
from tests.support.login_server import login_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

TOKEN = "/oauth2/token"
BRIEF = Options(poll_interval_s=0.02)


class Shelf:
    """Where logins are saved, and a clock that a test moves."""

    def __init__(self) -> None:
        self.saved: dict[str, Mapping[str, object]] = {}
        self.now_s = 100.0

    def save(self, account: str, document: Mapping[str, object]) -> None:
        self.saved[account] = document

    def clock(self) -> float:
        return self.now_s


@asynccontextmanager
async def desk(max_open: int = 3) -> AsyncIterator[tuple[Simulator, LoginDesk, Shelf]]:
    shelf = Shelf()
    async with nothing_left(), running(BRIEF) as simulator, login_server(simulator.url) as server:
        async with anyio.create_task_group() as tasks:
            yield (
                simulator,
                LoginDesk(
                    server,
                    shelf.save,
                    tasks,
                    allowed_hosts=(),
                    clock=shelf.clock,
                    max_open=max_open,
                    kept_s=60.0,
                ),
                shelf,
            )
            tasks.cancel_scope.cancel()


async def until(login_desk: LoginDesk, handle: str, state: str) -> None:
    while login_desk.standing(handle).state != state:
        await anyio.sleep(0.005)


async def test_what_has_ended_is_known_for_a_while() -> None:
    async with desk() as (simulator, login_desk, shelf):
        opened = await login_desk.begin("work")
        assert simulator.oauth.approve(opened.user_code)
        await until(login_desk, opened.handle, "done")
        assert set(shelf.saved) == {"work"}
        shelf.now_s += 59.0
        await login_desk.begin("other")
        assert login_desk.standing(opened.handle).state == "done"
        shelf.now_s += 2.0
        later = await login_desk.begin("third")
        assert login_desk.standing(opened.handle).state == "expired"
        assert login_desk.standing(later.handle).state == "pending"


async def test_many_at_once_do_not_pass_the_bound() -> None:
    begun: list[str] = []
    refused: list[tuple[str, int | None]] = []
    async with desk() as (_, login_desk, _shelf):

        async def begin() -> None:
            try:
                begun.append((await login_desk.begin("work")).handle)
            except DownstreamError as exc:
                refused.append((exc.code, exc.retry_after_s))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(begin)
    assert (len(begun), refused) == (3, [("rate_limited", 60)] * 5)


async def test_what_could_not_begin_takes_no_place() -> None:
    async with desk(max_open=1) as (simulator, login_desk, _):
        for scenario in ("504", "cut-before-head"):
            simulator.fail_next(scenario, path="/device/code")
            with pytest.raises(UpstreamError):
                await login_desk.begin("work")
        simulator.fail_next("slow-head", path="/device/code")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(login_desk.begin, "work")
                await simulator.held()
                scope.cancel()
        simulator.release()
        await login_desk.begin("work")


async def test_nothing_secret_stands_in_what_it_shows() -> None:
    async with desk() as (simulator, login_desk, _):
        opened = await login_desk.begin("work")
        (device,) = simulator.oauth._devices
        shown = repr((opened, login_desk, vars(login_desk), login_desk.standing(opened.handle)))
        assert device not in shown
        assert "verifier" not in shown

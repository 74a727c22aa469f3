"""Connections that are opened ahead of the requests: used before anybody has to connect, replaced, and never in the
way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qproxy import app
from qproxy.edge import spares
from tests.support.account_stage import until_noticed
from tests.support.backends import backend, settings_before
from tests.support.pool_stage import PoolStage, pool_stage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

SOON_S = 0.02
LONG_S = 60.0


async def opened(stage: PoolStage) -> None:
    """Every connection that is being opened is."""
    await stage.settle()
    while stage._undecided:
        stage.connect(0)
        await stage.settle()


async def exchange(stage: PoolStage) -> None:
    """One request and its answer, for which nobody has to connect."""
    stage.ask()
    await stage.settle()
    stage.answer(0)
    await stage.settle()
    stage.finish(0)
    await stage.settle()


async def test_they_are_there_before_the_first_request() -> None:
    async with pool_stage(5, warm=2) as stage:
        await opened(stage)
        assert len(stage.spares) == 2
        caller = stage.ask()
        await stage.settle()
        assert caller.attempt.sent
        assert caller.attempt.reused_connection  # it was open, so it may be found closed
        await stage.end()


async def test_one_that_was_taken_is_replaced() -> None:
    async with pool_stage(5, warm=1) as stage:
        await opened(stage)
        stage.ask()
        await stage.settle()
        assert (len(stage.spares), stage.spares_to_be) == (0, 1)
        await opened(stage)
        assert len(stage.spares) == 1
        await stage.end()


async def test_one_that_has_served_is_taken_first_and_counts() -> None:
    async with pool_stage(5, warm=1) as stage:
        await opened(stage)
        await exchange(stage)
        await opened(stage)
        for _ in range(3):
            await exchange(stage)
        assert sorted(peer.requests for peer in stage.network.peers) == [0, 4]
        await stage.end()


async def test_nobody_waits_for_one_while_there_is_room() -> None:
    async with pool_stage(5, warm=2) as stage:
        await stage.settle()
        caller = stage.ask()
        await stage.settle()
        assert len(stage.network.dials) == 3
        stage.connect(2)
        await stage.settle()
        assert caller.attempt.sent
        assert stage.spares_to_be == 2
        await stage.end()


async def test_who_waits_in_line_gets_one_that_is_under_way() -> None:
    async with pool_stage(1, warm=1) as stage:
        await stage.settle()
        caller = stage.ask()
        await stage.settle()
        assert not caller.attempt.sent
        stage.connect(0)
        await stage.settle()
        assert caller.attempt.sent
        assert len(stage.network.peers) == 1
        await stage.end()


async def test_who_waits_for_one_that_fails_connects_itself() -> None:
    async with pool_stage(1, warm=1) as stage:
        await stage.settle()
        caller = stage.ask()
        await stage.settle()
        stage.refuse(0)
        await stage.settle()
        assert not caller.is_over
        stage.connect(0)
        await stage.settle()
        assert caller.attempt.sent
        await stage.end()


async def test_never_more_connections_than_allowed() -> None:
    async with pool_stage(2, warm=5) as stage:
        await stage.settle()
        assert len(stage.network.dials) == 2
        await opened(stage)
        assert len(stage.spares) == 2
        await stage.end()


async def test_one_that_was_closed_is_found_before_it_is_used() -> None:
    async with pool_stage(5, warm=2) as stage:
        await opened(stage)
        stage.hang_up(1)  # and no turn of the loop until the request
        caller = stage.ask()
        await stage.settle()
        assert caller.attempt.sent
        assert [peer.requests for peer in stage.network.peers if not peer.is_left] == [1]
        await stage.end()


async def test_one_that_has_lain_too_long_is_replaced() -> None:
    async with pool_stage(5, warm=1) as stage:
        await opened(stage)
        (before,) = stage.spares
        stage.expire(0)
        await opened(stage)
        assert before.is_closed()
        assert len(stage.spares) == 1
        assert stage.spares != [before]
        await stage.end()


async def test_not_more_than_a_generation_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where idle connections may live for a moment only."""
    monkeypatch.setattr(spares, "FIRST_PAUSE_S", LONG_S)
    async with pool_stage(5, warm=1) as stage:
        stage.pool._keepalive_s = SOON_S
        await opened(stage)
        await until_noticed(lambda: not stage.spares)
        await stage.settle()
        assert [peer.is_left for peer in stage.network.peers] == [True]
        assert stage.network.dials == []
        await stage.end()


async def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool_stage(5, warm=1) as stage:
        await opened(stage)
        monkeypatch.setattr(spares, "USED_LATELY_S", -1.0)
        stage.expire(0)
        await stage.settle()
        assert (stage.spares, stage.network.dials) == ([], [])
        monkeypatch.undo()
        stage.ask()
        await opened(stage)
        assert len(stage.spares) == 1
        await stage.end()


class TestAnUpstreamThatFails:
    async def test_it_is_left_alone_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spares, "FIRST_PAUSE_S", LONG_S)
        async with pool_stage(5, warm=2) as stage:
            await stage.settle()
            stage.refuse(0)
            stage.refuse(1)
            await stage.settle()
            stage.ask()
            await stage.settle()
            assert len(stage.network.dials) == 1  # of the request
            await stage.end()

    async def test_and_then_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spares, "FIRST_PAUSE_S", SOON_S)
        async with pool_stage(5, warm=1) as stage:
            for _ in range(3):
                await until_noticed(lambda: stage.network.dials)
                stage.refuse(0)
                await stage.settle()
            await until_noticed(lambda: stage.network.dials)
            await opened(stage)
            assert len(stage.spares) == 1
            await stage.end()

    async def test_each_time_it_waits_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spares, "FIRST_PAUSE_S", 1e-6)
        monkeypatch.setattr(spares, "LONGEST_PAUSE_S", 5e-6)
        async with pool_stage(5, warm=1) as stage:
            assert stage.pool._spares is not None
            pauses = [stage.pool._spares._pause_s]
            for _ in range(4):
                await until_noticed(lambda: stage.network.dials)
                stage.refuse(0)
                await stage.settle()
                pauses.append(stage.pool._spares._pause_s)
            assert pauses == [1e-6, 2e-6, 4e-6, 5e-6, 5e-6]
            await stage.end()

    async def test_one_that_closes_what_it_is_not_asked_on_is_no_different(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spares, "FIRST_PAUSE_S", LONG_S)
        async with pool_stage(5, warm=1) as stage:
            await opened(stage)
            stage.hang_up(0)
            await stage.settle()
            assert (stage.spares, stage.network.dials) == ([], [])
            await stage.end()


async def test_a_pool_that_closes_takes_those_under_way_with_it() -> None:
    async with pool_stage(5, warm=3) as stage:
        await stage.settle()
        stage.connect(0)
        await stage.settle()
        assert (len(stage.spares), stage.spares_to_be) == (1, 2)
        await stage.pool.aclose()
        await stage.settle()
        assert (stage.spares, stage.spares_to_be, stage.network.dials) == ([], 0, [])
        assert stage.pool.connections == []


async def test_a_proxy_opens_them_when_it_starts(tmp_path: Path) -> None:
    async with backend() as upstream:
        settings = settings_before(tmp_path, "", mine=upstream.url)
        mine = settings.upstreams["mine"]
        settings = replace(settings, upstreams={"mine": replace(mine, upstream=replace(mine.upstream, warm=2))})
        async with app.running(settings):
            await until_noticed(lambda: upstream.connections == 2)
        assert upstream.heads == 0

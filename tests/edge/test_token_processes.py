"""Two processes share one login, and neither loses it."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from tests.support.login_server import TOKENS
from tests.support.login_stage import LoginStage, login_stage
from tests.support.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import Process

pytestmark = pytest.mark.anyio

EXPIRIES = 200
RACES = 60
LOOPS = ("asyncio", "trio")  # one process each
ENVIRON = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The loop of the login's server; those of the keepers are their own."""
    return request.param


class KeeperProcess:
    """See `tests.support.keeper_process`."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._lines = TextReceiveStream(process.stdout)
        self._rest = ""

    async def ask(self, line: str) -> str:
        """What it answers."""
        assert self._process.stdin is not None
        await self._process.stdin.send(f"{line}\n".encode())
        return await self.answer()

    async def answer(self) -> str:
        while "\n" not in self._rest:
            self._rest += await self._lines.receive()
        line, _, self._rest = self._rest.partition("\n")
        return line


@asynccontextmanager
async def keeper_process(stage: LoginStage, loop: str) -> AsyncIterator[KeeperProcess]:
    command = [sys.executable, "-m", "tests.support.keeper_process", str(stage.path)]
    async with await anyio.open_process(
        [*command, stage.simulator.url + TOKENS, loop], env=ENVIRON, cwd=ROOT, stderr=None
    ) as process:
        yield KeeperProcess(process)
        assert process.stdin is not None
        await process.stdin.aclose()
        assert await process.wait() == 0


@asynccontextmanager
async def two_processes(folder: Path) -> AsyncIterator[tuple[LoginStage, list[KeeperProcess]]]:
    async with login_stage(folder) as stage:
        stage.log_in()
        async with keeper_process(stage, LOOPS[0]) as first, keeper_process(stage, LOOPS[1]) as second:
            assert await first.answer() == await second.answer() == stage.document()["access_token"]
            yield stage, [first, second]
        assert names_in(folder) == [stage.path.name]


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


async def asked(processes: list[KeeperProcess], line: str) -> list[str]:
    """What both answer, asked at the same time."""
    answers: list[str] = []

    async def ask(process: KeeperProcess) -> None:
        answers.append(await process.ask(line))

    async with anyio.create_task_group() as tasks:
        for process in processes:
            tasks.start_soon(ask, process)
    return answers


async def test_each_expiry_costs_one_renewal(tmp_path: Path) -> None:
    """Every other time the clock runs out; else the API refuses the token."""
    async with two_processes(tmp_path) as (stage, processes):
        seen = {stage.document()["access_token"]}
        for number in range(EXPIRIES):
            if number % 2:
                stage.put({**stage.document(), "expiry_date": 5})
                answers = await asked(processes, "fresh")
            else:
                answers = await asked(processes, "refused")
            assert answers == [stage.document()["access_token"]] * 2
            assert stage.accepts(answers[0])
            seen.update(answers)
        assert len(seen) == EXPIRIES + 1
        assert (stage.posts, stage.simulator.oauth.refreshes) == (EXPIRIES, EXPIRIES)


async def test_no_refresh_token_is_spent_twice(tmp_path: Path) -> None:
    """Without waiting for each other: a token is refused in one process while the other renews it."""
    async with two_processes(tmp_path) as (stage, processes):
        await asked(processes, f"race {RACES}")
        assert RACES <= stage.posts <= 2 * RACES
        assert stage.simulator.oauth.refreshes == stage.posts, "a spent refresh token was used again"
        answers = await asked(processes, "refused")
        assert stage.accepts(stage.document()["access_token"])
        assert stage.document()["access_token"] in answers

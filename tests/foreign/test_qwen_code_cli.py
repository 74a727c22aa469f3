"""The real CLI and a server share one login: the CLI's own lock, file and renewal, out of its package."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.token_state import Standing
from qproxy.edge.token_lock import STALE_S
from qproxy.errors import AccountError
from tests.support.login_stage import SETTINGS, LoginStage, login_stage
from tests.support.qwen_code_cli import Cli, cli_chunks, qwen_code_cli

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qproxy.edge.tokens import TokenKeeper

pytestmark = pytest.mark.anyio

EXPIRIES = 30
PATIENT = replace(SETTINGS, wait_s=30.0)
SHORT_WAIT = replace(SETTINGS, wait_s=0.1)


@pytest.fixture(scope="session")
def chunks() -> Path:
    return cli_chunks()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def stage(anyio_backend: object, tmp_path: Path) -> AsyncIterator[LoginStage]:
    async with login_stage(tmp_path) as stage:
        stage.simulator.oauth.answer_fields = {"resource_url": stage.simulator.url}  # the CLI forgets it otherwise
        yield stage


@pytest.fixture
async def cli(stage: LoginStage, chunks: Path) -> AsyncIterator[Cli]:
    async with qwen_code_cli(chunks, stage.path.parent, stage.simulator.url) as cli:
        yield cli


async def both(keeper: TokenKeeper, cli: Cli) -> list[str | None]:
    """What each gets, asked at the same time."""
    answers: list[str | None] = []

    async def ask_cli() -> None:
        answers.append(await cli.do("fresh"))

    async def ask_keeper() -> None:
        answers.append((await keeper.fresh()).secret)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_cli)
        tasks.start_soon(ask_keeper)
    return answers


async def test_each_reads_what_the_other_wrote(stage: LoginStage, cli: Cli) -> None:
    stage.log_in(-5, id_token="kept")
    keeper = stage.keeper()
    ours = await keeper.fresh()
    assert await cli.do("fresh") == ours.secret
    assert stage.posts == 1
    theirs = await cli.do("renew")
    assert theirs != ours.secret
    assert (await keeper.fresh()).secret == theirs
    assert stage.posts == 2
    renewed = await keeper.refused(keeper.current())
    await cli.do("forget")
    assert await cli.do("fresh") == renewed.secret
    assert stage.posts == 3


async def test_it_writes_the_same_form(stage: LoginStage, cli: Cli) -> None:
    stage.log_in(-5)
    await stage.keeper().fresh()
    assert stage.path.read_bytes() == json.dumps(stage.document(), indent=2).encode()
    keys = set(stage.document())
    await cli.do("renew")
    assert stage.path.read_bytes() == json.dumps(stage.document(), indent=2).encode()
    assert set(stage.document()) == keys


async def test_each_expiry_costs_one_renewal(stage: LoginStage, cli: Cli) -> None:
    stage.log_in()
    keeper = stage.keeper(PATIENT)
    for _ in range(EXPIRIES):
        stage.put({**stage.document(), "expiry_date": 5})
        await cli.do("forget")
        answers = await both(keeper, cli)
        assert answers == [stage.document()["access_token"]] * 2
        assert answers[0] is not None
        assert stage.accepts(answers[0])
    assert (stage.posts, stage.simulator.oauth.refreshes) == (EXPIRIES, EXPIRIES)


async def test_we_wait_for_its_lock(stage: LoginStage, cli: Cli) -> None:
    stage.log_in(-5)
    keeper = stage.keeper(SHORT_WAIT)
    await cli.do("lock")
    with pytest.raises(AccountError, match="being renewed"):
        await keeper.fresh()
    assert stage.posts == 0
    await cli.do("unlock")
    credential = await stage.keeper(PATIENT).fresh()
    assert stage.accepts(credential.secret)
    assert stage.posts == 1


async def test_it_waits_for_our_lock(stage: LoginStage, cli: Cli) -> None:
    stage.log_in(-5)
    keeper = stage.keeper(PATIENT)
    stage.fail_next("slow-head")
    answers: list[str | None] = []

    async def ask_cli() -> None:
        answers.append(await cli.do("fresh"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.fresh)
        await stage.simulator.held()
        tasks.start_soon(ask_cli)
        await anyio.sleep(0.3)
        assert answers == []
        stage.simulator.release()
    assert answers == [keeper.current().secret]
    assert stage.posts == 1


async def test_it_exits_and_takes_our_lock_with_it(stage: LoginStage, cli: Cli) -> None:
    stage.log_in(-5)
    keeper = stage.keeper(PATIENT)
    stage.fail_next("slow-head")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.fresh)
        await stage.simulator.held()
        assert stage.lock.exists()
        await cli.exit()
        assert not stage.lock.exists(), "the CLI has become kinder"
        stage.simulator.release()
    assert stage.document()["access_token"] == keeper.current().secret
    assert stage.posts == 1


async def test_a_lock_that_it_left_behind(stage: LoginStage, cli: Cli) -> None:
    stage.log_in(-5)
    await cli.do("lock")
    await cli.kill()
    assert stage.lock.exists()
    with pytest.raises(AccountError, match="being renewed"):
        await stage.keeper(SHORT_WAIT).fresh()
    os.utime(stage.lock, (time.time() - STALE_S - 1,) * 2)
    assert stage.accepts((await stage.keeper(PATIENT).fresh()).secret)
    with anyio.fail_after(10):  # the first keeper is still after the lock, and finds the new token
        while [entry.name for entry in stage.path.parent.iterdir()] != [stage.path.name]:
            await anyio.sleep(0.01)


async def test_a_lock_that_we_left_behind(stage: LoginStage, cli: Cli) -> None:
    stage.log_in(-5)
    stage.lock.write_text("qproxy")
    os.utime(stage.lock, (time.time() - STALE_S - 1,) * 2)
    assert await cli.do("fresh") == stage.document()["access_token"]
    assert stage.posts == 1


async def test_it_removes_the_login(stage: LoginStage, cli: Cli) -> None:
    """It does when its renewal is refused. Ours lasts as long as its token, and is not put back."""
    login = stage.log_in(100)
    keeper = stage.keeper()
    keeper.current()
    stage.fail_next("oauth-invalid-grant")
    with pytest.raises(RuntimeError, match="Refresh token expired"):
        await cli.do("renew")
    assert not stage.path.exists(), "the CLI has become kinder"
    assert keeper.current().secret == login.access_token
    assert "the file is gone" in keeper.view().problem
    assert not stage.path.exists()
    assert stage.posts == 1


async def test_it_comes_with_the_refresh_token_that_we_have_just_spent(stage: LoginStage, cli: Cli) -> None:
    """Our lock was removed by another CLI that ended. This one removes the login; ours is the newest, and is saved."""
    stage.log_in(-5)
    keeper = stage.keeper(PATIENT)
    stage.fail_next("slow-head")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.fresh)
        await stage.simulator.held()
        stage.lock.unlink()
        with pytest.raises(RuntimeError, match="Refresh token expired"):
            await cli.do("fresh")
        assert not stage.path.exists()
        stage.simulator.release()
    assert stage.accepts(keeper.current().secret)
    await cli.do("forget")
    assert await cli.do("fresh") == keeper.current().secret == stage.document()["access_token"]


async def test_we_come_with_the_refresh_token_that_it_has_just_spent(stage: LoginStage, cli: Cli) -> None:
    """The login looks dead until the CLI has written what it got."""
    stage.log_in(-5)
    keeper = stage.keeper(PATIENT)
    stage.fail_next("slow-head")
    answers: list[str | None] = []

    async def ask_cli() -> None:
        answers.append(await cli.do("fresh"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_cli)
        await stage.simulator.held()
        stage.lock.unlink()
        with pytest.raises(AccountError, match="has ended"):
            await keeper.fresh()
        assert keeper.view().standing is Standing.LOGIN_NEEDED
        stage.simulator.release()
    assert [keeper.current().secret] == answers
    assert stage.accepts(keeper.current().secret)
    assert keeper.view().standing is Standing.VALID

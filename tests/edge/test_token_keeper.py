"""A token is there when it is needed: renewed once for all who wait, in time, and never in a loop."""

from __future__ import annotations

import base64
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.token_state import Standing
from qproxy.core.upstream import Credential
from qproxy.edge.login_store import CacheStore, FileStore, MemoryStore
from qproxy.edge.token_file import FileVersion
from qproxy.errors import AccountError
from tests.support.login_stage import (
    SETTINGS,
    BrokenDisk,
    LoginStage,
    failure,
    landed,
    login_stage,
    refusal,
    turns,
    written_an_hour_ago,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qproxy.edge.tokens import TokenKeeper


pytestmark = pytest.mark.anyio

SHORT_WAIT = replace(SETTINGS, wait_s=0.05)
IMPATIENT = replace(SETTINGS, tend_s=0.01)


@pytest.fixture
async def stage(anyio_backend: object, tmp_path: Path) -> AsyncIterator[LoginStage]:
    async with login_stage(tmp_path) as stage:
        yield stage


class TestAGoodToken:
    async def test_it_is_there_at_once(self, stage: LoginStage) -> None:
        login = stage.log_in()
        keeper = stage.keeper()
        credential = keeper.current()
        assert credential.secret == login.access_token
        assert str(credential.base) == f"{stage.simulator.url}/v1"
        assert keeper.current() is credential
        assert await keeper.fresh() is credential
        assert (keeper.state(), stage.posts) == ("valid 59 min", 0)

    async def test_the_file_is_looked_at_once_a_second(self, stage: LoginStage) -> None:
        stage.log_in()
        keeper = stage.keeper(replace(SETTINGS, look_s=1.0))
        first = keeper.current()
        second = stage.log_in()
        assert keeper.current() is first
        stage.clocks.wall_ahead_s = 1.0
        assert keeper.current().secret == second.access_token

    async def test_a_clock_that_was_set_back_does_not_stop_the_looking(self, stage: LoginStage) -> None:
        stage.log_in()
        keeper = stage.keeper(replace(SETTINGS, look_s=1.0))
        keeper.current()
        second = stage.log_in()
        stage.clocks.wall_ahead_s = -20.0
        assert keeper.current().secret == second.access_token


class TestOneRenewalForAll:
    async def test_a_thousand_requests_on_an_expired_token(self, stage: LoginStage) -> None:
        looks: list[None] = []

        class CountingStore(FileStore):
            def version(self) -> FileVersion:
                looks.append(None)
                return super().version()

        stage.log_in(-5)
        stage.fail_next("slow-head")
        keeper = stage.keeper(replace(SETTINGS, look_s=60.0), store=CountingStore(stage.path))
        got: list[Credential] = []

        async def request() -> None:
            got.append(await keeper.fresh())

        async with anyio.create_task_group() as requests:
            for _ in range(1000):
                requests.start_soon(request)
            await stage.simulator.held()
            assert got == []
            stage.simulator.release()
        assert len(got) == 1000
        assert len({id(credential) for credential in got}) == 1
        assert (stage.posts, stage.simulator.oauth.refreshes) == (1, 1)
        assert len(looks) <= 3, "each request has gone to the disk"
        assert stage.accepts(got[0].secret)
        assert stage.document()["access_token"] == got[0].secret

    async def test_a_thousand_requests_with_a_token_that_the_api_refused(self, stage: LoginStage) -> None:
        login = stage.log_in()
        keeper = stage.keeper()
        old = keeper.current()
        stage.simulator.oauth.expire(login.access_token)
        got: list[Credential] = []

        async def request() -> None:
            got.append(await keeper.refused(old))

        async with anyio.create_task_group() as requests:
            for _ in range(1000):
                requests.start_soon(request)
        assert {credential.secret for credential in got} == {stage.document()["access_token"]}
        assert len(got) == 1000
        assert stage.posts == 1

    async def test_who_leaves_takes_no_renewal_with_him(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.fail_next("slow-head")
        keeper = stage.keeper()
        async with anyio.create_task_group() as requests:
            requests.start_soon(keeper.fresh)
            await stage.simulator.held()
            requests.cancel_scope.cancel()
        stage.simulator.release()
        await landed(keeper)
        assert stage.accepts(keeper.current().secret)
        assert stage.posts == 1

    async def test_nobody_waits_longer_than_a_request_may(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.fail_next("slow-head")
        keeper = stage.keeper(SHORT_WAIT)
        error = await failure(keeper)
        assert (error.code, error.kind.status) == ("credentials_unavailable", 503)
        assert error.retry_after_s is not None
        await stage.simulator.held()
        stage.simulator.release()
        await landed(keeper)
        assert stage.accepts((await keeper.fresh()).secret)
        assert stage.posts == 1

    async def test_the_last_seconds_of_a_token(self, stage: LoginStage) -> None:
        """Within the buffer a request waits for the new one, but takes the old one rather than none."""
        login = stage.log_in(20)
        stage.fail_next("slow-head")
        keeper = stage.keeper(SHORT_WAIT)
        assert (await keeper.fresh()).secret == login.access_token
        await stage.simulator.held()
        stage.simulator.release()
        await landed(keeper)
        assert (await keeper.fresh()).secret != login.access_token
        assert stage.posts == 1

    async def test_a_server_that_stops_keeps_what_it_was_given(self, stage: LoginStage) -> None:
        login = stage.log_in(-5)
        stage.fail_next("slow-head")
        async with anyio.create_task_group() as server:
            keeper = stage.keeper(tasks=server)
            server.start_soon(keeper.fresh)
            await stage.simulator.held()
            server.cancel_scope.cancel()
            stage.simulator.release()
        assert stage.posts == 1
        assert stage.document()["access_token"] != login.access_token
        assert stage.accepts(stage.document()["access_token"])
        assert not stage.lock.exists()

    async def test_the_disk_stops_no_other_request(self, stage: LoginStage) -> None:
        """And the new token is not used before it is safe, though its file is already in its place."""
        writing, go_on = threading.Event(), threading.Event()

        class SlowDisk(FileStore):
            def write(self, data: bytes) -> FileVersion:
                version = super().write(data)
                writing.set()
                assert go_on.wait(20)
                return version

        login = stage.log_in(-5)
        keeper = stage.keeper(store=SlowDisk(stage.path))
        async with anyio.create_task_group() as requests:
            requests.start_soon(keeper.fresh)
            while not writing.is_set():
                await anyio.sleep(0.001)
            assert stage.document()["access_token"] != login.access_token
            with pytest.raises(AccountError):
                keeper.current()
            go_on.set()
        assert keeper.current().secret == stage.document()["access_token"]


class TestA401OfTheApi:
    async def test_the_token_is_renewed_once(self, stage: LoginStage) -> None:
        login = stage.log_in()
        keeper = stage.keeper()
        old = keeper.current()
        stage.simulator.oauth.expire(login.access_token)
        new = await keeper.refused(old)
        assert stage.accepts(new.secret)
        assert keeper.current() == new
        assert stage.posts == 1

    async def test_a_token_that_is_no_longer_current(self, stage: LoginStage) -> None:
        stage.log_in()
        keeper = stage.keeper()
        old = keeper.current()
        new = await keeper.refused(old)
        assert await keeper.refused(old) == new
        assert await keeper.refused(Credential("somebody-elses")) == new
        assert stage.posts == 1

    async def test_a_new_token_that_is_refused_too(self, stage: LoginStage) -> None:
        """What the free tier's end looks like: every token is good, and none is taken."""
        stage.log_in()
        keeper = stage.keeper(replace(SETTINGS, young_s=30.0))
        new = await keeper.refused(keeper.current())
        for _ in range(5):
            error = await refusal(keeper, new)
            assert (error.code, error.kind.should_retry) == ("no_healthy_account", False)
            assert "free tier" in error.message
        assert stage.posts == 1
        stage.clocks.monotonic_ahead_s = 31.0
        assert await keeper.refused(new) != new
        assert stage.posts == 2

    async def test_a_token_that_a_request_waited_for(self, stage: LoginStage) -> None:
        """One token call per request, whatever the API says."""
        stage.log_in(-5)
        keeper = stage.keeper(replace(SETTINGS, young_s=30.0))
        new = await keeper.fresh()
        assert (await refusal(keeper, new)).code == "no_healthy_account"
        assert stage.posts == 1

    async def test_a_renewal_that_gives_the_same_token(self, stage: LoginStage) -> None:
        login = stage.log_in()
        stage.simulator.oauth.answer_fields = {"access_token": login.access_token}
        keeper = stage.keeper()
        error = await refusal(keeper, keeper.current())
        assert error.code == "no_healthy_account"
        assert stage.posts == 1

    async def test_another_process_has_renewed_it(self, stage: LoginStage) -> None:
        stage.log_in()
        keeper = stage.keeper(replace(SETTINGS, look_s=60.0))
        old = keeper.current()
        newer = stage.log_in()
        assert (await keeper.refused(old)).secret == newer.access_token
        assert stage.posts == 0


class TestAheadOfTime:
    async def test_a_request_begins_it_and_does_not_wait(self, stage: LoginStage) -> None:
        login = stage.log_in(100)
        written_an_hour_ago(stage)
        stage.fail_next("slow-head")
        keeper = stage.keeper()
        for _ in range(3):
            assert (await keeper.fresh()).secret == login.access_token
        await stage.simulator.held()
        stage.simulator.release()
        await landed(keeper)
        assert keeper.current().secret != login.access_token
        assert stage.posts == 1

    async def test_accounts_in_use_are_renewed_without_a_request(self, stage: LoginStage) -> None:
        stage.log_in(300)
        keeper = stage.keeper(IMPATIENT)
        keeper.current()
        stage.tasks.start_soon(keeper.run)
        await anyio.sleep(0.05)
        assert stage.posts == 0
        stage.clocks.wall_ahead_s = 290.0
        while not stage.simulator.oauth.refreshes:
            await anyio.sleep(0.005)
        await landed(keeper)
        assert stage.posts == 1

    async def test_nobody_uses_it(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        keeper = stage.keeper(IMPATIENT)
        stage.tasks.start_soon(keeper.run)
        await anyio.sleep(0.1)
        assert stage.posts == 0
        assert keeper.view().standing is Standing.EXPIRED

    async def test_it_was_used_long_ago(self, stage: LoginStage) -> None:
        """Not for an hour, and not since it was renewed."""
        stage.log_in(-5)
        keeper = stage.keeper(replace(IMPATIENT, idle_s=0.0))
        await keeper.fresh()
        stage.tasks.start_soon(keeper.run)
        stage.put({**stage.document(), "expiry_date": 5})
        await anyio.sleep(0.1)
        assert stage.posts == 1

    async def test_an_account_that_is_gone(self, stage: LoginStage) -> None:
        stage.log_in()
        keeper = stage.keeper(IMPATIENT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.run)
            await turns()
            keeper.stop()

    async def test_what_the_dead_have_left_is_removed(self, stage: LoginStage) -> None:
        stage.log_in()
        left = stage.path.with_name(f"{stage.path.name}.0123456789ab-1-0123abcd.tmp")
        left.touch()
        os.utime(left, (0, 0))
        stage.tasks.start_soon(stage.keeper(IMPATIENT).run)
        while left.exists():
            await anyio.sleep(0.005)


class TestOtherPlaces:
    async def test_a_login_from_a_setting_lives_in_memory(self, stage: LoginStage) -> None:
        login = stage.simulator.login()
        document = json.dumps(login.credentials(stage.simulator.url, -5)).encode()
        keeper = stage.keeper(store=MemoryStore(document))
        first = await keeper.fresh()
        second = await keeper.refused(first)
        assert stage.accepts(second.secret)
        view = keeper.view()
        assert (view.volatile, view.problem) == (True, "")
        assert "memory only" in view.source
        assert list(stage.path.parent.iterdir()) == []

    async def test_it_is_not_due_at_the_start(self, stage: LoginStage) -> None:
        document = json.dumps(stage.simulator.login().credentials(stage.simulator.url)).encode()
        keeper = stage.keeper(store=MemoryStore(document), chance=1.0)
        keeper.current()
        await landed(keeper)
        assert stage.posts == 0

    async def test_a_file_keeps_what_becomes_of_it(self, stage: LoginStage) -> None:
        setting = json.dumps(stage.simulator.login().credentials(stage.simulator.url, -5)).encode()
        first = await stage.keeper(store=CacheStore(stage.path, setting)).fresh()
        after_restart = stage.keeper(store=CacheStore(stage.path, setting))
        assert (await after_restart.fresh()) == first
        assert not after_restart.view().volatile
        second = await after_restart.refused(first)
        assert stage.document()["access_token"] == second.secret
        assert stage.simulator.oauth.refreshes == 2

    async def test_a_new_setting_wins_over_the_file(self, stage: LoginStage) -> None:
        for account in ("first", "second"):
            setting = json.dumps(stage.simulator.login(account).credentials(stage.simulator.url, -5)).encode()
            credential = await stage.keeper(store=CacheStore(stage.path, setting)).fresh()
            assert stage.simulator.oauth.account_of(credential.secret) == account


async def test_no_secret_is_shown(stage: LoginStage) -> None:
    """Neither in what the operator is told, nor in errors, nor in what people see."""
    shown: list[str] = []
    secrets: set[str] = set()

    def note(keeper: TokenKeeper) -> None:
        if stage.path.exists():
            document = stage.document()
            secrets.update({document["access_token"], document["refresh_token"]})
        shown.extend([repr(keeper.view()), keeper.state(), repr(keeper), repr(vars(keeper)), repr(keeper._state.token)])

    stage.log_in(-5)
    keeper = stage.keeper(store=BrokenDisk(stage.path))
    note(keeper)
    secrets.add((await keeper.fresh()).secret)
    stage.clocks.monotonic_ahead_s += 100
    for scenario in ("oauth-invalid-grant", "html-waf", "cut-before-head", "oauth-garbage"):
        stage.log_in(-5)
        note(keeper)
        stage.fail_next(scenario)
        error = await failure(keeper)
        shown.extend([error.message, repr(error), str(error.__cause__)])
        note(keeper)
        stage.clocks.monotonic_ahead_s += 100
    text = "\n".join([*shown, *stage.said])
    for secret in secrets:
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in text
    assert len(secrets) > 8

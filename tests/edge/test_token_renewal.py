"""The renewal of one login: what it does with every answer, and with a lock that others take, keep and remove."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.token_state import Standing
from qproxy.edge.login_store import FileStore
from qproxy.edge.token_file import FileVersion
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
    from collections.abc import AsyncIterator, Callable

    from qproxy.edge.tokens import TokenKeeper


pytestmark = pytest.mark.anyio

SHORT_WAIT = replace(SETTINGS, wait_s=0.05)


@pytest.fixture
async def stage(anyio_backend: object, tmp_path: Path) -> AsyncIterator[LoginStage]:
    async with login_stage(tmp_path) as stage:
        yield stage


class TestAnswers:
    async def test_new_tokens_replace_the_old_ones_and_all_else_stays(self, stage: LoginStage) -> None:
        login = stage.log_in(-5, id_token="kept", scope="openid", other={"deep": [1]})
        before = stage.document()
        credential = await stage.keeper().fresh()
        document = stage.document()
        assert list(document) == list(before)
        assert document["access_token"] == credential.secret != login.access_token
        assert document["refresh_token"] not in (None, login.refresh_token)
        changed = {"access_token", "refresh_token", "expiry_date"}
        assert {name for name in document if document[name] != before[name]} == changed
        assert stage.expires_in_s() == pytest.approx(3600, abs=5)
        assert stage.path.read_bytes() == json.dumps(document, indent=2).encode(), "not as the CLI writes it"
        assert stat.S_IMODE(stage.path.stat().st_mode) == 0o600

    async def test_without_a_new_refresh_token_the_old_one_is_kept(self, stage: LoginStage) -> None:
        login = stage.log_in(-5)
        stage.simulator.oauth.answer_fields = {"refresh_token": None}
        keeper = stage.keeper()
        first = await keeper.fresh()
        assert stage.document()["refresh_token"] == login.refresh_token
        assert (await keeper.refused(first)).secret == stage.document()["access_token"] != first.secret
        assert stage.simulator.oauth.refreshes == 2

    @pytest.mark.parametrize(
        ("expires_in", "expected_s"), [(0, 60), (-1, 60), (1e12, 86_400), ("soon", 3600), (None, 3600), ("120", 120)]
    )
    async def test_odd_lifetimes(self, stage: LoginStage, expires_in: object, expected_s: float) -> None:
        stage.log_in(-5)
        stage.simulator.oauth.answer_fields = {"expires_in": expires_in}
        keeper = stage.keeper()
        await keeper.fresh()
        assert stage.expires_in_s() == pytest.approx(expected_s, abs=5)
        keeper.current()
        assert stage.posts == 1

    async def test_a_resource_url_on_the_list_is_followed(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.simulator.oauth.answer_fields = {"resource_url": "dashscope-intl.aliyuncs.com/compatible-mode"}
        credential = await stage.keeper().fresh()
        assert str(credential.base) == "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"

    async def test_one_that_a_setting_allows(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.simulator.oauth.answer_fields = {"resource_url": "gate.example"}
        credential = await stage.keeper(allowed_hosts=("gate.example",)).fresh()
        assert str(credential.base) == "https://gate.example/v1"

    @pytest.mark.parametrize(
        ("resource_url", "reason"),
        [
            ("evil.example", "not on the list"),
            ("https://portal.qwen.ai.evil.example", "not on the list"),
            ("http://portal.qwen.ai", "not on the list"),
            ("http://127.0.0.1:1/v1", "not https"),
            ("http://localhost", "not https"),
            ("ftp://portal.qwen.ai", "not usable"),
        ],
    )
    async def test_one_that_leads_away_takes_the_account_out(
        self, stage: LoginStage, resource_url: str, reason: str
    ) -> None:
        login = stage.log_in(-5)
        stage.simulator.oauth.answer_fields = {"resource_url": resource_url}
        keeper = stage.keeper()
        error = await failure(keeper)
        assert reason in error.message
        assert keeper.view().standing is Standing.UNUSABLE
        assert [reason in line for line in stage.said] == [True]
        for _ in range(3):
            await failure(keeper)
        assert stage.posts == 1
        document = stage.document()
        assert document["access_token"] != login.access_token, "the new pair is lost"
        assert document["resource_url"] == stage.simulator.url, "it would lead the CLI away"
        healed = stage.log_in()
        assert (await keeper.fresh()).secret == healed.access_token


class TestRefusedRenewals:
    @pytest.mark.parametrize("scenario", ["oauth-invalid-grant", "oauth-401"])
    async def test_a_dead_login_is_said_and_kept(self, stage: LoginStage, scenario: str) -> None:
        stage.log_in(-5)
        before = stage.path.read_bytes()
        stage.fail_next(scenario)
        keeper = stage.keeper(account="work")
        for _ in range(3):
            error = await failure(keeper)
            assert (error.code, error.kind.should_retry) == ("no_healthy_account", False)
            assert "qproxy auth login" in error.message
        assert stage.posts == 1
        assert stage.path.read_bytes() == before, "the user's file"
        assert keeper.state() == "login needed: qproxy auth login --account work"
        assert keeper.needs_login()
        assert len(stage.said) == 1
        assert "account work" in stage.said[0]

    async def test_a_new_login_is_picked_up(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.fail_next("oauth-invalid-grant")
        keeper = stage.keeper()
        await failure(keeper)
        ended_s = time.time()
        login = stage.log_in()
        assert keeper.since_s() >= ended_s
        assert (await keeper.fresh()).secret == login.access_token
        assert not keeper.needs_login()
        assert stage.posts == 1

    async def test_its_token_is_used_while_it_lives(self, stage: LoginStage) -> None:
        login = stage.log_in(20)
        stage.fail_next("oauth-invalid-grant")
        keeper = stage.keeper()
        for _ in range(3):
            assert (await keeper.fresh()).secret == login.access_token
        assert keeper.view().standing is Standing.LOGIN_NEEDED
        assert stage.posts == 1

    async def test_the_default_account_needs_no_name(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.fail_next("oauth-invalid-grant")
        keeper = stage.keeper()
        await failure(keeper)
        assert keeper.state() == "login needed: qproxy auth login"

    async def test_the_file_has_changed_meanwhile(self, stage: LoginStage) -> None:
        """Somebody without the lock was faster, and had spent our refresh token."""
        stage.log_in(-5)
        stage.fail_next("slow-head")
        keeper = stage.keeper()
        async with anyio.create_task_group() as requests:
            requests.start_soon(keeper.fresh)
            await stage.simulator.held()
            stage.simulator.oauth.revoke("user")
            stage.fail_next("oauth-invalid-grant")
            newer = stage.log_in()
            stage.simulator.release()
        assert keeper.current().secret == newer.access_token
        assert stage.posts == 1
        assert keeper.view().standing is Standing.VALID

    async def test_the_file_holds_another_login_that_has_expired(self, stage: LoginStage) -> None:
        """No second POST for the same request; the next one renews it."""
        spent = stage.log_in(-5)
        keeper = stage.keeper(store=ChangingStore(stage, stage.simulator.login().credentials(stage.simulator.url, -5)))
        stage.fail_next("oauth-invalid-grant")
        error = await failure(keeper)
        assert error.code == "credentials_unavailable"
        assert (stage.posts, stage.document()["refresh_token"] != spent.refresh_token) == (1, True)
        stage.clocks.monotonic_ahead_s = 2.0
        assert stage.accepts((await keeper.fresh()).secret)
        assert stage.posts == 2

    async def test_a_login_that_cannot_be_renewed(self, stage: LoginStage) -> None:
        login = stage.log_in(20)
        stage.put({**stage.document(), "refresh_token": None})
        keeper = stage.keeper()
        assert (await keeper.fresh()).secret == login.access_token
        stage.put({**stage.document(), "expiry_date": 5})
        assert "has expired" in (await failure(keeper)).message
        assert stage.posts == 0


class ChangingStore(FileStore):
    """Somebody replaces the login between the POST and the look that follows it."""

    def __init__(self, stage: LoginStage, document: dict[str, object]) -> None:
        super().__init__(stage.path)
        self._stage = stage
        self._document: dict[str, object] | None = document

    def version(self) -> FileVersion:
        if self._stage.posts and self._document is not None:
            self._stage.put(self._document)
            self._document = None
        return super().version()


class TestFailingRenewals:
    @pytest.mark.parametrize(
        "scenario",
        [
            "oauth-429", "oauth-error-200", "oauth-garbage", "oauth-slow-down", "html-waf", "403-denied", "500",
            "500-html", "502-text", "504", "empty-200", "redirect", "cut-before-head", "cut-in-head", "cut-after-head",
            "reset-before-head",
        ],
    )  # fmt: skip
    async def test_the_old_token_to_its_end_and_no_storm(self, stage: LoginStage, scenario: str) -> None:
        login = stage.log_in(20)
        before = stage.path.read_bytes()
        stage.fail_next(scenario)
        keeper = stage.keeper()
        for _ in range(5):
            assert (await keeper.fresh()).secret == login.access_token
        assert keeper.current().secret == login.access_token
        assert stage.posts == 1
        view = keeper.view()
        assert "login server" in view.problem
        assert len(stage.said) == 1
        stage.clocks.wall_ahead_s = 21.0
        error = await failure(keeper)
        assert (error.code, error.retry_after_s) == ("credentials_unavailable", 1)
        assert stage.posts == 1
        assert stage.path.read_bytes() == before

    async def test_after_a_pause_it_is_tried_again(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.fail_next("oauth-429", times=3)
        keeper = stage.keeper()
        pauses = []
        for posts in (1, 2, 3):
            error = await failure(keeper)
            assert "answered 429" in error.message
            assert stage.posts == posts
            await failure(keeper)
            assert stage.posts == posts
            assert error.retry_after_s is not None
            pauses.append(error.retry_after_s)
            stage.clocks.monotonic_ahead_s += error.retry_after_s
        assert pauses == [1, 2, 4]
        assert stage.accepts((await keeper.fresh()).secret)
        assert keeper.view().problem == ""

    async def test_an_answer_that_does_not_come(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.fail_next("slow-head")
        keeper = stage.keeper(post_s=0.05)
        assert "no answer from the login server" in (await failure(keeper)).message
        assert not stage.lock.exists()

    async def test_nobody_is_there(self, stage: LoginStage, tmp_path: Path) -> None:
        async with login_stage(tmp_path) as other:
            other.log_in(-5)
        keeper = other.keeper(tasks=stage.tasks)
        assert "upstream_connect_failed" in (await failure(keeper)).message

    async def test_a_refused_token_is_not_used_while_its_renewal_fails(self, stage: LoginStage) -> None:
        stage.log_in()
        keeper = stage.keeper()
        old = keeper.current()
        stage.fail_next("oauth-429")
        assert (await refusal(keeper, old)).code == "credentials_unavailable"
        assert (await failure(keeper)).code == "credentials_unavailable"
        assert keeper.view().standing is Standing.REFUSED
        assert stage.posts == 1


class TestTheLock:
    async def test_it_is_held_during_the_renewal_and_gone_afterwards(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.fail_next("slow-head")
        keeper = stage.keeper(lock_renewal_s=0.01)
        async with anyio.create_task_group() as requests:
            requests.start_soon(keeper.fresh)
            await stage.simulator.held()
            os.utime(stage.lock, (0, 0))
            while not stage.lock.stat().st_mtime:
                await anyio.sleep(0.005)
            stage.simulator.release()
        assert not stage.lock.exists()

    async def test_somebody_else_holds_it(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.lock.write_text("somebody")
        keeper = stage.keeper(SHORT_WAIT)
        assert (await failure(keeper)).code == "credentials_unavailable"
        assert stage.posts == 0
        stage.lock.unlink()
        await landed(keeper)
        assert stage.accepts((await keeper.fresh()).secret)
        assert stage.posts == 1

    async def test_he_renews_the_login_meanwhile(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.lock.write_text("somebody")
        keeper = stage.keeper()
        async with anyio.create_task_group() as requests:
            requests.start_soon(keeper.fresh)
            await turns()
            newer = stage.log_in()
        assert keeper.current().secret == newer.access_token
        assert (stage.posts, stage.lock.read_text()) == (0, "somebody")

    async def test_the_old_token_is_used_while_it_lives(self, stage: LoginStage) -> None:
        login = stage.log_in(100)
        written_an_hour_ago(stage)
        stage.lock.write_text("somebody")
        keeper = stage.keeper(lock_wait_s=0.02)
        assert keeper.current().secret == login.access_token
        await landed(keeper)
        assert "does not let go of the login's lock" in keeper.view().problem
        assert keeper.current().secret == login.access_token
        assert stage.posts == 0

    async def test_one_that_was_left_behind_is_taken_over(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        stage.lock.write_text("somebody")
        os.utime(stage.lock, (time.time() - 36,) * 2)
        assert stage.accepts((await stage.keeper().fresh()).secret)
        assert sorted(entry.name for entry in stage.path.parent.iterdir()) == [stage.path.name]

    async def test_it_is_removed_under_us_and_nothing_else_happens(self, stage: LoginStage) -> None:
        """A dying CLI removes it whoever holds it."""
        stage.log_in(-5)
        keeper = await self.renew_while(stage, stage.lock.unlink)
        assert keeper.current().secret == stage.document()["access_token"]

    async def test_it_is_stolen_and_the_thief_has_written_a_newer_login(self, stage: LoginStage) -> None:
        def steal() -> None:
            stage.lock.write_text("thief")
            stage.log_in(account="thief")

        stage.log_in(-5)
        keeper = await self.renew_while(stage, steal)
        assert stage.simulator.oauth.account_of(keeper.current().secret) == "thief"
        assert stage.simulator.oauth.account_of(stage.document()["access_token"]) == "thief"
        assert stage.lock.read_text() == "thief"

    async def test_the_thief_has_removed_the_login(self, stage: LoginStage) -> None:
        """The CLI does, when it comes with the refresh token that we have just spent. Ours is the newest then."""

        def steal() -> None:
            stage.lock.unlink()
            stage.path.unlink()

        stage.log_in(-5)
        keeper = await self.renew_while(stage, steal)
        assert keeper.current().secret == stage.document()["access_token"]

    async def renew_while(self, stage: LoginStage, change: Callable[[], object]) -> TokenKeeper:
        """`change` happens while the POST is under way."""
        stage.fail_next("slow-head")
        keeper = stage.keeper()
        async with anyio.create_task_group() as requests:
            requests.start_soon(keeper.fresh)
            await stage.simulator.held()
            change()
            stage.simulator.release()
        assert stage.posts == 1
        return keeper

    async def test_a_folder_that_takes_no_lock(self, stage: LoginStage) -> None:
        """Then it takes no new login either."""
        stage.log_in(-5)
        store = BrokenDisk(stage.path)
        store.lock = stage.path.parent / "nowhere" / "oauth_creds.lock"
        keeper = stage.keeper(store=store)
        assert stage.accepts((await keeper.fresh()).secret)
        assert keeper.view().volatile
        assert stage.posts == 1

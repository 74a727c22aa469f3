"""A login in step with its file, which others change, damage and remove, on a disk that fails, by clocks that jump."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.token_state import Standing
from qproxy.simulator import Options
from tests.support.login_stage import (
    SETTINGS,
    BrokenDisk,
    LoginStage,
    failure,
    login_stage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.anyio

IMPATIENT = replace(SETTINGS, tend_s=0.01)
OTHER_USER = 12345
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
async def stage(anyio_backend: object, tmp_path: Path) -> AsyncIterator[LoginStage]:
    async with login_stage(tmp_path) as stage:
        yield stage


class TestAFailingDisk:
    async def test_the_new_token_is_used_and_said_to_be_volatile(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        before = stage.path.read_bytes()
        keeper = stage.keeper(store=BrokenDisk(stage.path))
        credential = await keeper.fresh()
        assert stage.accepts(credential.secret)
        assert stage.path.read_bytes() == before
        view = keeper.view()
        assert (view.standing, view.volatile) == (Standing.VALID, True)
        assert "cannot be saved: No space left on device" in view.problem
        assert len(stage.said) == 1
        for _ in range(3):
            assert await keeper.fresh() is credential, "the old file took it away"
        assert stage.posts == 1

    async def test_the_old_file_is_touched(self, stage: LoginStage) -> None:
        """Its time is new, and its tokens are those that were spent."""
        stage.log_in(-5)
        keeper = stage.keeper(store=BrokenDisk(stage.path))
        credential = await keeper.fresh()
        stage.put(stage.path.read_bytes())
        assert await keeper.fresh() is credential
        assert keeper.view().volatile
        assert stage.posts == 1

    async def test_it_is_saved_later(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        store = BrokenDisk(stage.path)
        keeper = stage.keeper(IMPATIENT, store=store)
        credential = await keeper.fresh()
        stage.tasks.start_soon(keeper.run)
        store.is_broken = False
        await anyio.sleep(0.05)
        assert keeper.view().volatile, "no pause between the attempts"
        stage.clocks.monotonic_ahead_s = 2.0
        while keeper.view().volatile:
            await anyio.sleep(0.005)
        assert stage.document()["access_token"] == credential.secret
        assert keeper.view().problem == ""
        assert stage.posts == 1

    async def test_it_is_renewed_from_memory(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        store = BrokenDisk(stage.path)
        keeper = stage.keeper(store=store)
        first = await keeper.fresh()
        second = await keeper.refused(first)
        assert second != first
        store.is_broken = False
        third = await keeper.refused(second)
        assert stage.document()["access_token"] == third.secret
        assert stage.simulator.oauth.refreshes == 3
        assert not keeper.view().volatile

    async def test_a_newer_login_in_the_file_wins(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        store = BrokenDisk(stage.path)
        keeper = stage.keeper(store=store)
        await keeper.fresh()
        newer = stage.log_in()
        assert keeper.current().secret == newer.access_token
        assert not keeper.view().volatile

    async def test_the_file_is_gone_but_we_have_the_newest(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        store = BrokenDisk(stage.path)
        keeper = stage.keeper(store=store)
        first = await keeper.fresh()
        stage.path.unlink()
        store.is_broken = False
        second = await keeper.refused(first)
        assert stage.document()["access_token"] == second.secret


class TestTheFile:
    @pytest.mark.parametrize(
        "damage",
        [b"", b" ", b"{", b"[]", b"\xef\xbb\xbf{}", b"{}", b'{"access_token": 7}', b"\0" * 300, b"x" * 2_000_000],
    )
    async def test_damage_takes_no_good_token_away(self, stage: LoginStage, damage: bytes) -> None:
        login = stage.log_in()
        keeper = stage.keeper()
        keeper.current()
        stage.put(damage)
        for _ in range(3):
            assert keeper.current().secret == login.access_token
        assert keeper.view().problem
        assert len(stage.said) == 1
        assert stage.path.read_bytes() == damage
        healed = stage.log_in()
        assert keeper.current().secret == healed.access_token
        assert keeper.view().problem == ""

    @pytest.mark.parametrize("damage", [b"", b"{", b"{}"])
    async def test_damage_from_the_start(self, stage: LoginStage, damage: bytes) -> None:
        stage.put(damage)
        keeper = stage.keeper()
        error = await failure(keeper)
        assert error.code == "credentials_unavailable"
        assert "cannot be used" in error.message
        assert keeper.state().startswith("unusable: ")
        assert len(stage.said) == 1
        assert stage.path.read_bytes() == damage
        login = stage.log_in()
        assert (await keeper.fresh()).secret == login.access_token

    async def test_things_that_are_no_files(self, stage: LoginStage) -> None:
        login = stage.log_in()
        keeper = stage.keeper()
        keeper.current()
        stage.path.unlink()
        os.mkfifo(stage.path)
        assert keeper.current().secret == login.access_token
        stage.path.unlink()
        stage.path.mkdir()
        assert keeper.current().secret == login.access_token
        assert "not a regular file" in keeper.view().problem

    async def test_it_comes_later(self, stage: LoginStage) -> None:
        keeper = stage.keeper()
        error = await failure(keeper)
        assert (error.code, keeper.state()) == ("credentials_unavailable", "not logged in")
        assert "no Qwen login" in error.message
        login = stage.log_in()
        assert (await keeper.fresh()).secret == login.access_token
        assert stage.said == []

    async def test_it_vanishes(self, stage: LoginStage) -> None:
        """Whoever logs out removes it: what is in memory lasts as long as its token, and makes no new file."""
        login = stage.log_in(20)
        keeper = stage.keeper()
        stage.fail_next("oauth-429")
        assert (await keeper.fresh()).secret == login.access_token
        stage.path.unlink()
        stage.clocks.monotonic_ahead_s = 100.0
        for _ in range(3):
            assert (await keeper.fresh()).secret == login.access_token
        assert "the file is gone" in keeper.view().problem
        assert sum("gone" in line for line in stage.said) == 1
        stage.clocks.wall_ahead_s = 30.0
        assert "has expired" in (await failure(keeper)).message
        assert not stage.path.exists()
        assert stage.posts == 1

    async def test_somebody_else_logs_in(self, stage: LoginStage) -> None:
        """From then on both tokens are his."""
        stage.log_in(account="first")
        keeper = stage.keeper()
        keeper.current()
        stage.log_in(account="second")
        second = keeper.current()
        assert stage.simulator.oauth.account_of(second.secret) == "second"
        renewed = await keeper.refused(second)
        assert stage.simulator.oauth.account_of(renewed.secret) == "second"

    async def test_loose_modes_are_said_once_and_mended_when_it_is_written(self, stage: LoginStage) -> None:
        stage.log_in(20)
        stage.path.chmod(0o644)
        keeper = stage.keeper()
        for _ in range(3):
            await keeper.fresh()
        assert len(stage.said) == 1
        assert "0600" in stage.said[0]
        assert stat.S_IMODE(stage.path.stat().st_mode) == 0o600

    @pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
    async def test_a_file_of_another_user_is_only_read(self, stage: LoginStage) -> None:
        login = stage.log_in(20)
        os.chown(stage.path, OTHER_USER, OTHER_USER)
        before = stage.path.stat()
        keeper = stage.keeper()
        for _ in range(3):
            assert (await keeper.fresh()).secret == login.access_token
        assert len(stage.said) == 1
        assert "another user" in stage.said[0]
        stage.clocks.wall_ahead_s = 30.0
        await failure(keeper)
        assert stage.posts == 0, "his refresh token would be spent"
        assert stage.path.stat() == before

    async def test_a_symlink_stays(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        target = stage.path.parent / "elsewhere" / "login.json"
        target.parent.mkdir()
        stage.path.rename(target)
        stage.path.symlink_to(target)
        credential = await stage.keeper().fresh()
        assert stage.path.is_symlink()
        assert json.loads(target.read_bytes())["access_token"] == credential.secret


class TestClocks:
    @pytest.mark.parametrize("skew_s", [7200, -7200])
    async def test_the_servers_date_corrects_ours(self, anyio_backend: object, tmp_path: Path, skew_s: int) -> None:
        async with login_stage(tmp_path, Options(clock_skew_s=skew_s)) as stage:
            stage.log_in(-5)
            stage.clocks.wall_ahead_s = -min(skew_s, 0)  # so that the login has expired by either clock
            keeper = stage.keeper()
            await keeper.fresh()
            assert stage.expires_in_s() == pytest.approx(skew_s + 3600, abs=5)
            assert keeper.view().summary in ("valid 59 min", "valid 60 min")
            keeper.current()
            assert stage.posts == 1

    async def test_a_difference_of_half_a_minute_is_none(self, anyio_backend: object, tmp_path: Path) -> None:
        async with login_stage(tmp_path, Options(clock_skew_s=25)) as stage:
            stage.log_in(-5)
            await stage.keeper().fresh()
            assert stage.expires_in_s() == pytest.approx(3600, abs=5)

    @pytest.mark.parametrize("jump_s", [7200, -7200])
    async def test_a_jump_costs_one_renewal_at_most(self, stage: LoginStage, jump_s: float) -> None:
        stage.log_in()
        keeper = stage.keeper()
        keeper.current()
        stage.clocks.wall_ahead_s = jump_s
        for _ in range(5):
            assert stage.accepts((await keeper.fresh()).secret)
        stage.clocks.wall_ahead_s = 0.0
        for _ in range(5):
            assert stage.accepts((await keeper.fresh()).secret)
        assert stage.posts <= 1

    async def test_a_buffer_longer_than_any_life(self, stage: LoginStage) -> None:
        stage.log_in(-5)
        keeper = stage.keeper(replace(SETTINGS, refresh_buffer_ms=100_000_000))
        for _ in range(5):
            await keeper.fresh()
        assert stage.posts == 1

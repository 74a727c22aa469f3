"""The folder of the logins while a server looks at it: who is leased, who is not any more, and who is cut off."""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from qproxy.core.account import AccountBook, Standing, Wish
from qproxy.edge.accounts import Accounts
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.login_store import FileStore
from qproxy.edge.logins import Logins
from qproxy.edge.token_renewal import RenewalSettings
from qproxy.edge.tokens import KeeperSettings, TokenKeeper
from qproxy.errors import AccountError
from tests.support.account_stage import login_path, make_older, put_login
from tests.support.login_server import CLIENT
from tests.support.login_stage import LoginStage, login_stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qproxy.core.account import Lease

pytestmark = pytest.mark.anyio

UPSTREAMS = ("portal", "mirror")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


class Cut:
    """An answer under way."""

    def __init__(self) -> None:
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1


@dataclass
class Folder:
    """The logins of one folder, as `app` puts them together."""

    home: Path
    stage: LoginStage
    is_given: bool = False
    book: AccountBook = field(default_factory=AccountBook)

    def __post_init__(self) -> None:
        self.files = LoginFiles(self.home, login_path(self.home))
        self.accounts = Accounts(self.book, time.time)
        self.logins = Logins(
            UPSTREAMS, self.files, self.accounts, self._keeper, self.stage.tasks, is_given=self.is_given
        )

    def _keeper(self, account: str) -> TokenKeeper:
        store = FileStore(self.files.path(account))
        settings = KeeperSettings(RenewalSettings(CLIENT), look_s=0.0)
        return TokenKeeper(account, store, self.stage.endpoint, self.stage.tasks, settings)

    def log_in(self, account: str) -> str:
        login = self.stage.simulator.login(account)
        put_login(self.home, login.credentials(self.stage.simulator.url), account)
        return login.access_token

    async def look(self) -> list[str]:
        """Who there is after a look."""
        await self.logins.look()
        assert self.accounts.ids(UPSTREAMS[0]) == self.accounts.ids(UPSTREAMS[1]) == tuple(self.logins.keepers())
        return list(self.logins.keepers())

    def lease(self, account: str | None = None) -> Lease:
        return self.accounts.lease(UPSTREAMS[0], Wish("m", account=account))

    def under_way(self, account: str) -> Cut:
        """An answer that this account gives now."""
        answer = Cut()
        self.accounts.answers_of(self.lease(account)).add(answer)
        return answer

    def standing(self, account: str) -> Standing:
        return next(each.standing for each in self.accounts.views() if each.account_id == account)


@asynccontextmanager
async def folder_of(tmp_path: Path, *, is_given: bool = False) -> AsyncIterator[Folder]:
    async with login_stage(tmp_path) as stage:
        yield Folder(tmp_path / ".qwen", stage, is_given)


@pytest.fixture
async def folder(anyio_backend: object, tmp_path: Path) -> AsyncIterator[Folder]:
    async with folder_of(tmp_path) as folder:
        yield folder


class TestWhoThereIs:
    async def test_without_any_login_the_default_account_says_what_to_do(self, folder: Folder) -> None:
        assert await folder.look() == ["default"]
        with pytest.raises(AccountError) as caught:
            await folder.accounts.credential(folder.lease())
        assert "qproxy auth login" in caught.value.message

    async def test_the_default_login_is_found_in_its_place(self, folder: Folder) -> None:
        await folder.look()
        token = folder.log_in("default")
        assert await folder.look() == ["default"]
        assert (await folder.accounts.credential(folder.lease())).secret == token

    async def test_another_login_takes_the_place_of_none(self, folder: Folder) -> None:
        await folder.look()
        token = folder.log_in("work")
        assert await folder.look() == ["work"]
        assert (await folder.accounts.credential(folder.lease())).secret == token

    async def test_they_come_and_go(self, folder: Folder) -> None:
        folder.log_in("default")
        folder.log_in("one")
        assert await folder.look() == ["default", "one"]
        folder.log_in("two")
        assert await folder.look() == ["default", "one", "two"]
        folder.files.remove("one")
        assert await folder.look() == ["default", "two"]
        folder.files.remove("default")
        assert await folder.look() == ["two"]
        folder.files.remove("two")
        assert await folder.look() == ["default"]

    async def test_a_login_from_a_setting_needs_no_file(self, tmp_path: Path) -> None:
        async with folder_of(tmp_path, is_given=True) as folder:
            folder.log_in("work")
            assert await folder.look() == ["default", "work"]
            folder.files.remove("work")
            assert await folder.look() == ["default"]
            login_path(folder.home).with_suffix(".cut").touch()
            answer = folder.under_way("default")
            await folder.look()
            assert answer.cuts == 0, "the file that was removed is not this login"

    async def test_what_is_no_file_is_no_login(self, folder: Folder) -> None:
        folder.log_in("work")
        login_path(folder.home, "folder").mkdir()
        if hasattr(os, "mkfifo"):
            os.mkfifo(login_path(folder.home, "pipe"))
        login_path(folder.home, "nowhere").symlink_to("missing")
        assert await folder.look() == ["work"]

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 10, b"[]", b"0" * 2_000_000])
    async def test_a_broken_file_is_out_and_the_others_serve(self, folder: Folder, content: bytes) -> None:
        """A12."""
        token = folder.log_in("work")
        login_path(folder.home, "broken").write_bytes(content)
        assert await folder.look() == ["broken", "work"]
        with pytest.raises(AccountError) as caught:
            await folder.accounts.credential(folder.lease("broken"))
        assert caught.value.code == "credentials_unavailable"
        assert (await folder.accounts.credential(folder.lease("work"))).secret == token
        token = folder.log_in("broken")
        assert (await folder.accounts.credential(folder.lease("broken"))).secret == token

    @pytest.mark.skipif(IS_ROOT, reason="root reads everything")
    async def test_a_folder_that_cannot_be_read_takes_nobody_away(self, folder: Folder) -> None:
        folder.log_in("work")
        await folder.look()
        folder.home.chmod(0)
        assert await folder.look() == ["work"]
        folder.home.chmod(0o700)

    async def test_a_file_in_place_of_the_folder_takes_nobody_away(self, folder: Folder) -> None:
        folder.log_in("work")
        await folder.look()
        folder.home.rename(folder.home.with_name("elsewhere"))
        folder.home.write_text("no folder")
        assert await folder.look() == ["work"]

    async def test_the_keeper_of_a_removed_login_ends(self, folder: Folder) -> None:
        folder.log_in("work")
        await folder.look()
        keeper = folder.logins.keepers()["work"]
        folder.files.remove("work")
        await folder.look()
        assert keeper._life.cancel_called
        folder.log_in("work")
        await folder.look()
        assert folder.logins.keepers()["work"] is not keeper


class TestAtOnce:
    def mark(self, folder: Folder, account: str, suffix: str = ".cut") -> None:
        """What `remove_at_once`, or `remove`, leaves for as long as servers look."""
        path = login_path(folder.home, account)
        path.with_suffix(suffix).touch()
        path.unlink()

    @pytest.mark.parametrize("account", ["default", "work"])
    async def test_its_answers_are_broken_off_and_those_of_others_go_on(self, folder: Folder, account: str) -> None:
        for each in ("default", "work", "other"):
            folder.log_in(each)
        await folder.look()
        own, others = folder.under_way(account), folder.under_way("other")
        self.mark(folder, account)
        assert account not in await folder.look()
        assert (own.cuts, others.cuts) == (1, 0)

    async def test_the_only_login(self, folder: Folder) -> None:
        """The default account stays, without its token."""
        folder.log_in("default")
        await folder.look()
        await folder.accounts.credential(folder.lease())
        answer = folder.under_way("default")
        self.mark(folder, "default")
        assert await folder.look() == ["default"]
        assert answer.cuts == 1
        with pytest.raises(AccountError):
            await folder.accounts.credential(folder.lease())

    async def test_an_answer_that_has_not_begun(self, folder: Folder) -> None:
        folder.log_in("default")
        await folder.look()
        before = folder.lease()
        self.mark(folder, "default")
        await folder.look()
        with pytest.raises(AccountError):
            folder.accounts.answers_of(before)
        folder.log_in("default")
        await folder.look()
        assert folder.accounts.answers_of(folder.lease()) == set()

    async def test_a_mark_that_stays_is_seen_once(self, folder: Folder) -> None:
        """Whoever left it behind may have been killed."""
        folder.log_in("default")
        await folder.look()
        self.mark(folder, "default")
        await folder.look()
        keeper = folder.logins.keepers()["default"]
        answer = folder.under_way("default")
        await folder.look()
        assert (folder.logins.keepers()["default"], answer.cuts) == (keeper, 0)
        folder.log_in("default")
        await folder.look()
        assert answer.cuts == 0
        login_path(folder.home).unlink()
        await folder.look()
        assert answer.cuts == 1

    @pytest.mark.parametrize("account", ["default", "work"])
    async def test_who_was_removed_finishes_and_begins_nothing(self, folder: Folder, account: str) -> None:
        """Also where it is the only one."""
        folder.log_in(account)
        await folder.look()
        await folder.accounts.credential(folder.lease())
        answer = folder.under_way(account)
        self.mark(folder, account, ".out")
        assert await folder.look() == ["default"]
        assert answer.cuts == 0
        with pytest.raises(AccountError):
            await folder.accounts.credential(folder.lease())

    async def test_the_file_of_the_only_login_vanishes(self, folder: Folder) -> None:
        """A11: the CLI takes it away after a failed renewal, and its token is good for a while."""
        token = folder.log_in("default")
        await folder.look()
        await folder.accounts.credential(folder.lease())
        login_path(folder.home).unlink()
        assert await folder.look() == ["default"]
        assert (await folder.accounts.credential(folder.lease())).secret == token

    async def test_without_a_mark_they_go_on(self, folder: Folder) -> None:
        folder.log_in("default")
        folder.log_in("work")
        await folder.look()
        answer = folder.under_way("work")
        folder.files.remove("work")
        await folder.look()
        assert answer.cuts == 0


class TestTrouble:
    async def test_a_new_login_mends_it(self, folder: Folder) -> None:
        folder.log_in("default")
        folder.log_in("work")
        await folder.look()
        with folder.lease("work") as lease:
            await folder.accounts.credential(lease)
            folder.accounts.close(lease)
        folder.accounts.tend()
        assert folder.standing("work") is Standing.CLOSED
        folder.log_in("work")
        folder.accounts.tend()
        assert folder.standing("work") is Standing.READY

    async def test_it_outlives_a_restart(self, folder: Folder, tmp_path: Path) -> None:
        """Only a login that is newer than the trouble mends it, and a start is no login."""
        folder.log_in("default")
        make_older(login_path(folder.home), 60)
        await folder.look()
        with folder.lease() as lease:
            await folder.accounts.credential(lease)
            folder.accounts.close(lease)
        _, rows = folder.accounts.changes(-1) or (0, [])
        again = Folder(folder.home, folder.stage)
        await again.look()
        again.accounts.restore(rows)
        again.accounts.tend()
        assert again.standing("default") is Standing.CLOSED
        again.log_in("default")
        again.accounts.tend()
        assert again.standing("default") is Standing.READY

    async def test_a_login_that_came_between_two_runs(self, folder: Folder) -> None:
        folder.log_in("default")
        make_older(login_path(folder.home), 60)
        await folder.look()
        with folder.lease() as lease:
            folder.accounts.close(lease)
        _, rows = folder.accounts.changes(-1) or (0, [])
        folder.log_in("default")
        make_older(login_path(folder.home), -1)  # the clock of files goes in steps
        again = Folder(folder.home, folder.stage)
        await again.look()
        again.accounts.restore(rows)
        again.accounts.tend()
        assert again.standing("default") is Standing.READY

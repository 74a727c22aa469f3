"""Keeps the accounts of the login upstreams in step with the folder where the logins are.

People log in and out with other programs while the server runs, so the folder is looked at once a second. Without any
login there is the default account all the same: it says what to do, and is there as soon as somebody has done it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import anyio
import anyio.abc
import anyio.to_thread

from qproxy.core.account import AccountKind
from qproxy.core.oauth import DEFAULT_ACCOUNT
from qproxy.edge.accounts import Accounts
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.tokens import TokenKeeper

LOOK_S = 1.0


class Logins:
    """The keepers of all logins. `upstreams` are those that take them. `make_keeper` makes one for an account's id;
    each runs in `tasks` until its account is gone. `is_given`: the default login comes from a setting, not a file."""

    def __init__(
        self,
        upstreams: Sequence[str],
        files: LoginFiles,
        accounts: Accounts,
        make_keeper: Callable[[str], TokenKeeper],
        tasks: anyio.abc.TaskGroup,
        *,
        is_given: bool,
    ) -> None:
        self._upstreams = upstreams
        self._files = files
        self._accounts = accounts
        self._make_keeper = make_keeper
        self._tasks = tasks
        self._is_given = is_given
        self._keepers: dict[str, TokenKeeper] = {}
        self._removed: set[str] = set()  # by their marks, and seen to be

    def keepers(self) -> Mapping[str, TokenKeeper]:
        """Those of all logins, by account."""
        return self._keepers

    async def look(self) -> None:
        """Take over who has come and who has gone."""
        found, removed, cut = await anyio.to_thread.run_sync(self._read_folder)
        news, self._removed = removed - self._removed, removed
        for account in [account for account in self._keepers if account not in found or account in news]:
            self._drop(account)
            if account in cut:
                self._cut(account)
        for account in found:
            if account not in self._keepers:
                self._take(account)

    async def run(self) -> None:
        """Look once a second; never returns."""
        while True:
            await anyio.sleep(LOOK_S)
            await self.look()
            self._accounts.tend()

    async def land(self) -> None:
        """Renew nothing ahead of time any more; returns when what is being renewed is saved. A login that is renewed
        and not saved is lost."""
        for keeper in tuple(self._keepers.values()):
            await keeper.land()

    def abandon(self) -> None:
        """From here on the end of the server interrupts renewals."""
        for keeper in self._keepers.values():
            keeper.abandon()

    def _read_folder(self) -> tuple[list[str], set[str], set[str]]:
        """Who has a login; who of those that we know was removed, and who of these at once."""
        try:
            found = self._files.accounts()
        except OSError:  # the folder cannot be read now: nobody has gone for that
            return list(self._keepers), set(), set()
        if self._is_given and DEFAULT_ACCOUNT not in found:
            found.insert(0, DEFAULT_ACCOUNT)
        gone = [account for account in self._keepers if account not in found]
        removed = {account for account in gone if self._files.is_removed(account)}
        cut = {account for account in removed if self._files.is_cut(account)}
        return found or [DEFAULT_ACCOUNT], removed, cut

    def _take(self, account: str) -> None:
        keeper = self._keepers[account] = self._make_keeper(account)
        for upstream in self._upstreams:
            self._accounts.add(upstream, account, AccountKind.OAUTH, keeper)
        self._tasks.start_soon(keeper.run)

    def _drop(self, account: str) -> None:
        self._keepers.pop(account).stop()
        for upstream in self._upstreams:
            self._accounts.remove(upstream, account)

    def _cut(self, account: str) -> None:
        for upstream in self._upstreams:
            self._accounts.cut(upstream, account)

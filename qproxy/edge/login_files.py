"""The folder of the logins: which accounts there are, and how one comes, changes and goes.

Writing and removing happen under the lock that whoever renews a login holds as well. Without it a renewal under way
would put the old login back over a new one, or make a removed one anew.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from qproxy.core.login_files import CUT_SUFFIX, OUT_SUFFIX, account_of, file_name
from qproxy.core.oauth import DEFAULT_ACCOUNT
from qproxy.core.token_file import token_file
from qproxy.edge.token_file import FOLDER_MODE, TokenFile
from qproxy.edge.token_lock import STALE_S, TokenLock, lock_path, waits

LOCK_S = STALE_S + 5.0  # whoever holds it longer has died


class LoginFiles:
    """The accounts' files in `home`; that of the default account may lie elsewhere. Every method blocks for as long as
    the disk does, and raises OSError where it fails."""

    def __init__(self, home: Path, default_file: Path) -> None:
        self._home = home
        self._default_file = default_file

    def path(self, account: str) -> Path:
        """Where the account's file is or would be."""
        return self._default_file if account == DEFAULT_ACCOUNT else self._home / file_name(account)

    def accounts(self) -> list[str]:
        """Who has a file, whatever is in it; the default account first."""
        try:
            found = {account_of(entry.name) for entry in self._home.iterdir() if entry.is_file()}
        except FileNotFoundError:
            found = set()
        others = sorted(account for account in found - {DEFAULT_ACCOUNT} if account is not None)
        return [DEFAULT_ACCOUNT, *others] if self._default_file.is_file() else others

    def save(self, account: str, document: Mapping[str, object]) -> None:
        """Put a new login in place of the account's old one, if it had one."""
        path = self.path(account)
        with _locked(path):
            _unmark(path)
            TokenFile(path).write(token_file(document))

    def remove(self, account: str, seen_s: float = 0.0) -> None:
        """A server that uses the account lets its answers finish. As `remove_at_once` for the rest: without a mark, a
        server goes on with the default account's token, since other programs take that file away for their reasons."""
        self._remove(account, OUT_SUFFIX, seen_s)

    def remove_at_once(self, account: str, seen_s: float) -> None:
        """A server that uses the account breaks its answers off: it finds a mark where the file was.

        Returns after `seen_s` seconds, when every server has looked; the mark is gone then. Raises FileNotFoundError.
        """
        self._remove(account, CUT_SUFFIX, seen_s)

    def is_removed(self, account: str) -> bool:
        """Whether an account whose file has gone was removed by one of these, within the seconds that they wait."""
        return any(self.path(account).with_suffix(suffix).exists() for suffix in _MARKS)

    def is_cut(self, account: str) -> bool:
        """Whether it was removed at once."""
        return self.path(account).with_suffix(CUT_SUFFIX).exists()

    def _remove(self, account: str, suffix: str, seen_s: float) -> None:
        path = self.path(account)
        path.lstat()
        mark = path.with_suffix(suffix)
        with _locked(path):
            _unmark(path)
            mark.touch(mode=0o600)
            path.unlink()
        try:
            time.sleep(seen_s)
        finally:
            mark.unlink(missing_ok=True)


_MARKS = (CUT_SUFFIX, OUT_SUFFIX)


def _unmark(path: Path) -> None:
    """Whoever left a mark may have been killed."""
    for suffix in _MARKS:
        path.with_suffix(suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises TimeoutError where the lock stays taken."""
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    lock = TokenLock(lock_path(path), time.time, time.monotonic)
    deadline_s = time.monotonic() + LOCK_S
    for wait_s in waits():
        if lock.take():
            break
        if time.monotonic() > deadline_s:
            raise TimeoutError(errno.ETIMEDOUT, f"{lock_path(path).name} stays taken by another program")
        time.sleep(wait_s)
    try:
        yield
    finally:
        lock.release()

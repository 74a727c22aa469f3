"""Where an upstream's credential comes from: a key that never changes, or the CLI's credentials file.

The file belongs to another program, which replaces it while we run. So it is looked at again at most once a second,
read when it changed, and only a whole, valid file takes the place of the token in memory. A file that vanished leaves
that token in use until it expires, as the CLI does itself.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from qproxy.core.oauth import LOGIN_EXPIRED, NOT_LOGGED_IN, OAuthToken, parse_token_file, unusable_login
from qproxy.core.upstream import Credential
from qproxy.errors import AccountError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STAT_INTERVAL_S = 1.0
MAX_FILE_BYTES = 1024 * 1024
RETRY_AFTER_S = 30  # a person has to log in first
# Without O_NONBLOCK the open of a named pipe would wait for a writer; O_BINARY is Windows' own.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class StaticKey:
    """A configured key; empty for upstreams that take none."""

    def __init__(self, secret: str) -> None:
        self._credential = Credential(secret)

    def current(self) -> Credential:
        """The key as a credential."""
        return self._credential

    def state(self) -> str:
        """`key set` or `no key`."""
        return "key set" if self._credential.secret else "no key"


class _Version(NamedTuple):
    """What tells one version of a file from the next."""

    mtime_ns: int
    inode: int
    size_bytes: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Version:
        return cls(status.st_mtime_ns, status.st_ino, status.st_size)


class OAuthFile:
    """The token in the CLI's `oauth_creds.json`, used while it is valid.

    `allowed_hosts` are hosts that may get the token beyond the built-in list. `wall_clock` gives Unix time in seconds.
    The file is at most 1 MiB and is read in place: a stat a second costs an event loop less than a thread would.
    """

    def __init__(self, path: Path, allowed_hosts: tuple[str, ...], wall_clock: Callable[[], float]) -> None:
        self._path = path
        self._allowed_hosts = allowed_hosts
        self._wall_clock = wall_clock
        self._looked_at_s = -STAT_INTERVAL_S
        self._version: _Version | None = None
        self._token: OAuthToken | None = None
        self._credential: Credential | None = None
        self._problem: str | None = None

    def current(self) -> Credential:
        """The token with its address. Raises AccountError `credentials_unavailable`, which says how to log in."""
        now_s = self._wall_clock()
        self._look(now_s)
        if self._token is not None and self._credential is not None and self._token.is_valid_at(now_s * 1000):
            return self._credential
        raise AccountError("credentials_unavailable", self._why_unavailable(), retry_after_s=RETRY_AFTER_S)

    def state(self) -> str:
        """`valid 52 min`, `expired`, `not logged in`, or `unusable` and the reason."""
        now_s = self._wall_clock()
        self._look(now_s)
        if self._token is not None and self._token.is_valid_at(now_s * 1000):
            return f"valid {int(self._token.expires_ms / 1000 - now_s) // 60} min"
        if self._problem is not None:
            return f"unusable: {self._problem}"
        return "not logged in" if self._token is None else "expired"

    def _why_unavailable(self) -> str:
        if self._problem is not None:
            return unusable_login(self._problem)
        return NOT_LOGGED_IN if self._token is None else LOGIN_EXPIRED

    def _look(self, now_s: float) -> None:
        """Take over a new version of the file, where there is one and it is whole."""
        if 0 <= now_s - self._looked_at_s < STAT_INTERVAL_S:
            return
        self._looked_at_s = now_s
        try:
            if self._version is not None and _Version.of(self._path.stat()) == self._version:
                return
            version, data = _read(self._path)
            token = parse_token_file(data, self._allowed_hosts)
        except FileNotFoundError:
            self._version, self._problem = None, None
        except OSError as exc:
            self._version, self._problem = None, f"the file cannot be read ({exc.strerror})"
        except ValueError as exc:
            self._version, self._problem = None, str(exc)
        else:
            self._version, self._problem = version, None
            self._token = token
            self._credential = Credential(token.access_token, token.base)


def _read(path: Path) -> tuple[_Version, bytes]:
    """The file's bytes and the version that they are at least as new as. Raises OSError, ValueError with a reason."""
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError("the file is larger than 1 MiB")
    return _Version.of(status), data

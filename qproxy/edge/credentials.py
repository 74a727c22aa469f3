"""Where an upstream's credential comes from: a key that never changes, or a login's file that is only read.

`OAuthFile` is for commands that show how a login is; a server keeps it with `tokens.TokenKeeper`, which renews it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.core.oauth import LOGIN_EXPIRED, NOT_LOGGED_IN, OAuthToken, parse_token_file, unusable_login
from qproxy.core.upstream import Credential
from qproxy.edge.token_file import FileVersion, TokenFile
from qproxy.errors import AccountError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STAT_INTERVAL_S = 1.0
KEY_REFUSED = "The upstream refuses the key: check or replace it."
RETRY_AFTER_S = 30  # a person has to log in first


class StaticKey:
    """A configured key; empty for upstreams that take none."""

    def __init__(self, secret: str) -> None:
        self._credential = Credential(secret)

    def current(self) -> Credential:
        """The key as a credential."""
        return self._credential

    async def fresh(self) -> Credential:
        """The key as a credential."""
        return self._credential

    async def refused(self, credential: Credential) -> Credential:
        """Raises AccountError: there is no other key."""
        raise AccountError("no_healthy_account", KEY_REFUSED)

    def state(self) -> str:
        """`key set` or `no key`."""
        return "key set" if self._credential.secret else "no key"

    def since_s(self) -> float:
        """0.0: keys are set at the start."""
        return 0.0

    def needs_login(self) -> bool:
        """False: a key is not logged in."""
        return False


class OAuthFile:
    """The token in the CLI's `oauth_creds.json`, used while it is valid.

    `allowed_hosts` are hosts that may get the token beyond the built-in list. `wall_clock` gives Unix time in seconds.
    The file is at most 1 MiB and is read in place: a stat a second costs an event loop less than a thread would.
    """

    def __init__(self, path: Path, allowed_hosts: tuple[str, ...], wall_clock: Callable[[], float]) -> None:
        self._file = TokenFile(path)
        self._allowed_hosts = allowed_hosts
        self._wall_clock = wall_clock
        self._looked_at_s = -STAT_INTERVAL_S
        self._version: FileVersion | None = None
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

    async def fresh(self) -> Credential:
        """The same as `current`: nothing is renewed from here."""
        return self.current()

    async def refused(self, credential: Credential) -> Credential:
        """Another token, where the file has one by now. Raises AccountError."""
        present = self.current()
        if present == credential:
            raise AccountError("credentials_unavailable", LOGIN_EXPIRED, retry_after_s=RETRY_AFTER_S)
        return present

    def since_s(self) -> float:
        """When the file was written, in Unix seconds; 0.0 where there is none that can be used."""
        self._look(self._wall_clock())
        return self._version.mtime_ns / 1e9 if self._version is not None else 0.0

    def needs_login(self) -> bool:
        """Whether there is no token."""
        self._look(self._wall_clock())
        return self._token is None

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
            if self._version is not None and self._file.version() == self._version:
                return
            content = self._file.read()
            token = parse_token_file(content.data, self._allowed_hosts)
        except FileNotFoundError:
            self._version, self._problem = None, None
        except OSError as exc:
            self._version, self._problem = None, f"the file cannot be read ({exc.strerror})"
        except ValueError as exc:
            self._version, self._problem = None, str(exc)
        else:
            self._version, self._problem = content.version, None
            self._token = token
            self._credential = Credential(token.access_token, token.base)

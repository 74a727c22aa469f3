"""How one login stands, and what may be done with its token at a given time.

A token goes through four times of its life. First it is used and left alone. From `due_s` on it is used and renewed
beside the requests. From `floor_s` on, the last floor before its end, a request waits for the renewal, and takes the
old token only where that fails. From `expires_s` on it is worth nothing.

`now_s` is Unix time in seconds as the login's server counts it; `monotonic_s` any clock that only goes forward.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from qproxy.core.oauth import LOGIN_ENDED, LOGIN_EXPIRED, NOT_LOGGED_IN, TOKEN_REFUSED, OAuthToken, unusable_login
from qproxy.core.token_answer import LONGEST_LIFE_S, SHORTEST_LIFE_S
from qproxy.core.upstream import Credential
from qproxy.errors import AccountError

EARLIEST_SHARE = 0.20  # a renewal begins between these shares of a life before its end
LATEST_SHARE = 0.05
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
PERSON_S = 30  # Retry-After where a person has to log in first
RENEWAL_S = 5  # Retry-After where a renewal is on its way
NEVER = math.inf


class Standing(enum.Enum):
    """How a login stands. The values are for people."""

    NOT_LOGGED_IN = "not logged in"
    UNUSABLE = "unusable"
    VALID = "valid"
    EXPIRED = "expired"
    REFUSED = "refused by the API"
    LOGIN_NEEDED = "login needed"


class Event(enum.Enum):
    """What happens to a login. The values are for people."""

    TAKEN = "new tokens, from the file or from a renewal"
    SPOILED = "the file cannot be used"
    VANISHED = "the file is gone"
    ENDED = "the time is up"
    CONTINUED = "the clock was set back"
    REFUSED = "the API answered 401"
    DENIED = "the login server refused to renew it"
    MISLED = "the renewed token belongs to a host that may not get it"


_ANY = (Standing.VALID, Standing.EXPIRED, Standing.REFUSED, Standing.LOGIN_NEEDED)

TRANSITIONS: dict[tuple[Standing, Event], Standing] = {
    **{(standing, Event.TAKEN): Standing.VALID for standing in Standing},
    **{(standing, Event.MISLED): Standing.UNUSABLE for standing in _ANY},
    (Standing.NOT_LOGGED_IN, Event.SPOILED): Standing.UNUSABLE,
    (Standing.UNUSABLE, Event.VANISHED): Standing.NOT_LOGGED_IN,
    (Standing.VALID, Event.ENDED): Standing.EXPIRED,
    (Standing.EXPIRED, Event.CONTINUED): Standing.VALID,
    (Standing.VALID, Event.REFUSED): Standing.REFUSED,
    (Standing.EXPIRED, Event.REFUSED): Standing.REFUSED,
    (Standing.VALID, Event.DENIED): Standing.LOGIN_NEEDED,
    (Standing.EXPIRED, Event.DENIED): Standing.LOGIN_NEEDED,
    (Standing.REFUSED, Event.DENIED): Standing.LOGIN_NEEDED,
}
"""What changes; every other event leaves the standing as it is. A damaged file takes no good token away."""


@dataclass(frozen=True, slots=True)
class TokenView:
    """A login as people see it, without secrets. Times are Unix seconds, None where there is none.

    `source` says where the login is kept. `volatile`: the token is in memory alone, `problem` says why where it should
    not be. `summary` is a short phrase: "valid 52 min", "expired", "login needed: qproxy auth login".
    """

    standing: Standing
    summary: str
    source: str
    expires_s: float | None
    last_refresh_s: float | None
    volatile: bool
    problem: str


class Backoff:
    """When something that failed is tried again: after 1 s, and twice as long after each further failure, to 5 min."""

    __slots__ = ("_failures", "_retry_at_s")

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at_s = -NEVER

    def fail(self, monotonic_s: float) -> None:
        self._retry_at_s = monotonic_s + min(FIRST_RETRY_S * 2.0 ** min(self._failures, 30), LONGEST_RETRY_S)
        self._failures += 1

    def clear(self) -> None:
        self._failures = 0
        self._retry_at_s = -NEVER

    def wait_s(self, monotonic_s: float) -> float:
        """How long to wait still."""
        return max(0.0, self._retry_at_s - monotonic_s)


class TokenState:
    """One login in memory. `buffer_s`: no token is used so shortly before its end without an attempt to renew it."""

    def __init__(self, buffer_s: float) -> None:
        self.token: OAuthToken | None = None
        self.credential: Credential | None = None
        self.standing = Standing.NOT_LOGGED_IN
        self.issued_s: float | None = None
        self.due_s = self.floor_s = self.expires_s = -NEVER
        self.file_problem = ""
        self.renewal_problem = ""
        self.is_read_only = False
        self._buffer_s = buffer_s
        self._is_gone = False
        self._retry = Backoff()

    def take(self, token: OAuthToken, issued_s: float, now_s: float, chance: float) -> None:
        """Use this token from now on. `issued_s`: since when it lives, as far as known. `chance`, from 0 to 1, spreads
        the renewals of many accounts."""
        self.file_problem = ""
        self._is_gone = False
        known, self.token = self.token, token
        if token == known:
            return
        credential = Credential(token.access_token, token.base)
        if credential != self.credential:
            self.credential = credential
        self.issued_s = issued_s
        self.expires_s = token.expires_ms / 1000
        life_s = self.expires_s - issued_s if issued_s <= now_s else self.expires_s - now_s
        life_s = min(max(life_s, SHORTEST_LIFE_S), LONGEST_LIFE_S)
        # Where the buffer is longer than the life, every request would renew: half of the life is left in peace.
        buffer_s = min(self._buffer_s, life_s / 2)
        share = LATEST_SHARE + (EARLIEST_SHARE - LATEST_SHARE) * chance
        self.floor_s = self.expires_s - buffer_s
        self.due_s = self.expires_s - max(buffer_s, life_s * share)
        self.renewal_problem = ""
        self._retry.clear()
        self._enter(Event.TAKEN)

    def spoil(self, reason: str) -> None:
        """The file cannot be used; a token in memory stays."""
        self.file_problem = reason
        self._is_gone = False
        self._enter(Event.SPOILED)

    def vanish(self) -> None:
        """There is no file. It is not made again from what is in memory: somebody may have logged out."""
        self._is_gone = True
        self.file_problem = "the file is gone" if self.token is not None else ""
        self._enter(Event.VANISHED)

    def refuse(self) -> None:
        """The API did not take the token: it is used no more, whatever its time."""
        self.due_s = self.floor_s = self.expires_s = -NEVER
        self._enter(Event.REFUSED)

    def fail(self, reason: str, monotonic_s: float) -> None:
        """A renewal failed; another may succeed."""
        self.renewal_problem = reason
        self._retry.fail(monotonic_s)

    def deny(self, reason: str) -> None:
        """The login's server renews this login no more; the token is used to its end."""
        self.renewal_problem = reason
        self._enter(Event.DENIED)

    def mislead(self, reason: str) -> None:
        """The renewed token belongs to a host that may not get it: it is not used, and neither is the old one."""
        self.renewal_problem = reason
        self.credential = None
        self.due_s = self.floor_s = self.expires_s = -NEVER
        self._enter(Event.MISLED)

    def credential_at(self, now_s: float, monotonic_s: float) -> Credential | None:
        """What a request may use without waiting."""
        if now_s < self.floor_s:
            return self.credential
        if now_s < self.expires_s and not self.may_renew(monotonic_s):
            return self.credential
        return None

    def last_resort(self, now_s: float) -> Credential | None:
        """What a request may use that has waited for the renewal in vain."""
        return self.credential if now_s < self.expires_s else None

    def may_renew(self, monotonic_s: float) -> bool:
        """Whether an attempt makes sense now."""
        return self._is_renewable() and not self._retry.wait_s(monotonic_s)

    def wants_renewal(self, now_s: float, monotonic_s: float) -> bool:
        """Whether it is time for an attempt."""
        return now_s >= self.due_s and self.may_renew(monotonic_s)

    def standing_at(self, now_s: float) -> Standing:
        """How the login stands now."""
        if self.token is not None:
            self._enter(Event.ENDED if now_s >= self.floor_s else Event.CONTINUED)
        return self.standing

    def error(self, now_s: float, monotonic_s: float) -> AccountError:
        """Why there is no credential, and what to do about it."""
        standing = self.standing_at(now_s)
        if standing is Standing.NOT_LOGGED_IN:
            return _unavailable(NOT_LOGGED_IN, PERSON_S)
        if standing is Standing.UNUSABLE:
            return _unavailable(unusable_login(self.problem()), PERSON_S)
        if standing is Standing.LOGIN_NEEDED:
            return AccountError("no_healthy_account", LOGIN_ENDED)
        if not self._is_renewable():
            return _unavailable(LOGIN_EXPIRED, PERSON_S)
        wait_s = math.ceil(self._retry.wait_s(monotonic_s))
        if wait_s:
            why = f"The Qwen login could not be renewed: {self.renewal_problem}."
            return _unavailable(f"{why} The next attempt is in {wait_s} s.", wait_s)
        return _unavailable("The Qwen login is being renewed, which takes long. Try again shortly.", RENEWAL_S)

    def problem(self) -> str:
        """What is wrong, for people; empty where nothing is."""
        return "; ".join(text for text in (self.file_problem, self.renewal_problem) if text)

    def summary(self, now_s: float, command: str) -> str:
        """The standing with what belongs to it. `command` logs the account in again."""
        standing = self.standing_at(now_s)
        if standing is Standing.VALID:
            return f"{standing.value} {int(self.expires_s - now_s) // 60} min"
        if standing is Standing.UNUSABLE:
            return f"{standing.value}: {self.problem()}"
        return f"{standing.value}: {command}" if standing is Standing.LOGIN_NEEDED else standing.value

    def _is_renewable(self) -> bool:
        return (
            self.token is not None
            and self.token.refresh_token is not None
            and self.standing not in (Standing.LOGIN_NEEDED, Standing.UNUSABLE)
            and not self.is_read_only
            and not self._is_gone
        )

    def _enter(self, event: Event) -> None:
        self.standing = TRANSITIONS.get((self.standing, event), self.standing)


def token_refused() -> AccountError:
    """The API refuses a token that is new: another one would fare no better."""
    return AccountError("no_healthy_account", TOKEN_REFUSED)


def _unavailable(message: str, retry_after_s: int) -> AccountError:
    return AccountError("credentials_unavailable", message, retry_after_s=retry_after_s)

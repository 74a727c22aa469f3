"""A circuit breaker: an upstream that keeps failing is left alone for a while, then tried with one request.

It opens after `CONSECUTIVE` failures in a row, or when at least half of the last `WINDOW` requests failed. After a
pause one request goes through as a probe: its success closes the breaker, its failure opens it for twice as long, up to
`LONGEST_S`. A probe without a verdict after one more pause is joined by the next one, so that nobody waits for a slow
model.

What counts as a failure is that the upstream could not be reached or stayed silent. Whatever it answers counts as a
success, errors too: one client with one bad request must not close it for all others. Times are on a clock that only
goes forward.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from math import ceil

from qproxy.errors import InternalError

CONSECUTIVE = 5
WINDOW = 20
FIRST_S = 2.0
LONGEST_S = 16.0  # for so long at most a server that is well again waits to be noticed


class State(Enum):
    """The values are for people."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class LeftAlone(InternalError):
    """Nothing was sent: the breaker is open."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(
            "overloaded",
            "The upstream failed too often and is left alone for a moment. Try again shortly.",
            retry_after_s=max(1, ceil(wait_s)),
        )


class Breaker:
    """Of one upstream. Each request that goes ends in `succeed`, `fail` or `leave`."""

    __slots__ = ("_failures", "_pause_s", "_quiet_until", "_recent", "state")

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=WINDOW)  # True: failed; empty until one has failed
        self._quiet_until = 0.0
        self._failures = 0
        self._pause_s = FIRST_S
        self.state = State.CLOSED

    def wait_s(self, now: float) -> float:
        """Seconds until a request may go; 0.0: now."""
        return 0.0 if self.state is State.CLOSED else max(0.0, self._quiet_until - now)

    def probe(self, now: float) -> None:
        """A request goes although the breaker is not closed. Raises LeftAlone where it is too early for that."""
        wait_s = self.wait_s(now)
        if wait_s:
            raise LeftAlone(wait_s)
        self.state = State.HALF_OPEN
        self._quiet_until = now + self._pause_s

    def succeed(self) -> bool:
        """Whether the breaker closes by it."""
        if self.state is State.CLOSED:
            if self._recent:
                self._failures = 0
                self._recent.append(False)
            return False
        self.state = State.CLOSED
        self._failures = 0
        self._pause_s = FIRST_S
        self._recent.clear()
        return True

    def fail(self, now: float) -> bool:
        """Whether the breaker opens by it."""
        if self.state is State.OPEN:
            return False  # it was on its way before
        if self.state is State.HALF_OPEN:
            self._pause_s = min(2 * self._pause_s, LONGEST_S)
        else:
            self._failures += 1
            self._recent.append(True)
            if not self._is_too_much():
                return False
        self.state = State.OPEN
        self._quiet_until = now + self._pause_s
        return True

    def leave(self) -> None:
        """It ended without a verdict, since the client left or something else was in its way: the next one may try."""
        if self.state is State.HALF_OPEN:
            self._quiet_until = 0.0

    def _is_too_much(self) -> bool:
        return self._failures >= CONSECUTIVE or (len(self._recent) == WINDOW and 2 * sum(self._recent) >= WINDOW)


class NeverOpen(Breaker):
    """Where the settings say that nobody is left alone."""

    __slots__ = ()

    def fail(self, now: float) -> bool:
        del now
        return False

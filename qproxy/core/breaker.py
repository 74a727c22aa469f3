"""A circuit breaker: an upstream that keeps failing is left alone for a while, then tried with one request.

It opens after `CONSECUTIVE` failures in a row, or when at least half of the last `WINDOW` requests failed. After a
pause one request goes through: its success closes the breaker, its failure opens it for twice as long, up to
`LONGEST_S`.
What counts as a failure is that the upstream could not be reached or stayed silent. Whatever it answers counts as a
success, errors too: one client with one bad request must not close it for all others. Times are on a clock that only
goes forward.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

CONSECUTIVE = 5
WINDOW = 20
FIRST_S = 2.0
LONGEST_S = 60.0


class State(Enum):
    """The values are for people."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """Of one upstream."""

    __slots__ = ("_failures", "_open_until", "_pause_s", "_probe", "_recent", "state")

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._open_until = 0.0
        self._failures = 0
        self._pause_s = FIRST_S
        self._probe = False
        self.state = State.CLOSED

    def wait_s(self, now: float) -> float:
        """0.0: go on, and tell how it ended by `succeed`, `fail` or `leave`. Else the seconds until the next try."""
        if self.state is State.CLOSED:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        if self._probe:
            return FIRST_S
        self.state = State.HALF_OPEN
        self._probe = True
        return 0.0

    def succeed(self) -> None:
        if self.state is State.CLOSED:
            if self._failures or self._recent:
                self._failures = 0
                self._recent.append(False)
            return
        self._close()

    def fail(self, now: float) -> None:
        self._failures += 1
        self._recent.append(True)
        if self.state is State.HALF_OPEN:
            self._pause_s = min(2 * self._pause_s, LONGEST_S)
            self._open(now)
        elif self.state is State.CLOSED and self._is_too_much():
            self._open(now)

    def leave(self) -> None:
        """It ended without a verdict, since the client left: another one may try."""
        self._probe = False

    def _is_too_much(self) -> bool:
        return self._failures >= CONSECUTIVE or (len(self._recent) == WINDOW and 2 * sum(self._recent) >= WINDOW)

    def _close(self) -> None:
        self.state = State.CLOSED
        self._failures = 0
        self._pause_s = FIRST_S
        self._probe = False
        self._recent.clear()

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        self._open_until = now + self._pause_s
        self._probe = False

"""How a server leaves: it says so, takes nothing new, waits for what is under way, and breaks off what is left.

`Drain` knows how far the server is on its way out, whether it takes new requests, and the connections that are open.
What leaving means for one of them is its own business; when to go on is that of whoever stops the server.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from qproxy.errors import InternalError

LAST_CALL_S = 0.5  # for another request where none is under way; faults.md R13: idle connections close within 1 s


class Stage(enum.IntEnum):
    """The order is the only order."""

    SERVING = 0
    LEAVING = 1  # readiness is 503, and every answer is the last one of its connection
    CLOSED = 2  # new requests are refused


class Member(Protocol):
    """A connection, as a server that leaves sees it."""

    def leave(self) -> None:
        """The server has gone on: end soon where nothing is under way, and say so in the next answer."""
        ...

    def break_off(self, error: InternalError) -> None:
        """End now, with `error` as the last word where one can be said."""
        ...


class Drain:
    """How far one server is on its way out, and its open connections."""

    def __init__(self) -> None:
        self.stage = Stage.SERVING
        self._refusal: Callable[[], InternalError] | None = None  # made anew each time: a raised one holds frames
        self._members: set[Member] = set()

    def add(self, member: Member) -> None:
        self._members.add(member)

    def remove(self, member: Member) -> None:
        self._members.discard(member)

    def obstacle(self) -> InternalError | None:
        """Why new work should go elsewhere."""
        if self.stage is not Stage.SERVING:
            return _draining()
        return None if self._refusal is None else self._refusal()

    def check_open(self) -> None:
        """Raises InternalError where new requests are refused."""
        if self._refusal is not None:
            raise self._refusal()

    def pause(self, refusal: Callable[[], InternalError]) -> None:
        """Refuse new requests for now, with what `refusal` makes."""
        if self.stage is not Stage.CLOSED:
            self._refusal = refusal

    def resume(self) -> None:
        """Take new requests again, unless the server leaves."""
        if self.stage is not Stage.CLOSED:
            self._refusal = None

    def advance(self, stage: Stage) -> None:
        """Go on to `stage`, and tell every connection."""
        self.stage = max(self.stage, stage)
        if self.stage is Stage.CLOSED:
            self._refusal = _draining
        for member in tuple(self._members):
            member.leave()

    def break_off(self) -> None:
        """End everything that is still under way."""
        self.advance(Stage.CLOSED)
        for member in tuple(self._members):
            member.break_off(_draining())


def _draining() -> InternalError:
    return InternalError("draining", "This server is shutting down. Send the request again.", retry_after_s=1)

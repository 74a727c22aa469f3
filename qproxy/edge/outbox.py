"""Short writes of one turn of the loop leave together at its end, where they come in crowds.

A write to a peer that sleeps wakes it, and that costs more than the write. Writes that follow each other closely find
their peers awake: on two cores a small request costs a fifth less (`docs/explanation/performance.md`). Where few writes
fall into one turn there is nothing to gather, and the wait for its end would be lost: then each leaves at once, and now
and then it is tried whether that has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

CROWD = 4  # senders in one turn from which on gathering pays
TRIED_EVERY = 64  # writes


class Sender(Protocol):
    def send_gathered(self) -> None:
        """Write what was held back."""
        ...


class Outbox:
    """Of one loop. `call_soon` calls back when the turn is over; `gathers`: short writes are to wait for that."""

    __slots__ = ("_call_soon", "_senders", "_until_tried", "gathers")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._senders: list[Sender] = []
        self._until_tried = TRIED_EVERY
        self.gathers = False

    def pass_by(self) -> None:
        """A write has left at once."""
        self._until_tried -= 1
        if not self._until_tried:
            self.gathers = True

    def add(self, sender: Sender) -> None:
        """Have it called at the end of this turn."""
        if not self._senders:
            self._call_soon(self._send)
        self._senders.append(sender)

    def _send(self) -> None:
        senders, self._senders = self._senders[::-1], []
        if len(senders) < CROWD:
            self.gathers = False
            self._until_tried = TRIED_EVERY
        try:
            while senders:
                senders.pop().send_gathered()
        finally:
            if senders:  # a defect costs one connection: the others are sent in the next turn
                for sender in senders[::-1]:
                    self.add(sender)

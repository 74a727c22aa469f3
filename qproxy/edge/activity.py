"""Whether anything is under way."""

from __future__ import annotations

from collections.abc import Callable


class Activity:
    """Counts the requests that are under way on one server. `wake` is called with the first one after none."""

    __slots__ = ("under_way", "wake")

    def __init__(self) -> None:
        self.under_way = 0
        self.wake: Callable[[], None] = nothing

    def begin(self) -> None:
        self.under_way += 1
        if self.under_way == 1:
            self.wake()

    def end(self) -> None:
        self.under_way -= 1


def nothing() -> None:
    pass

"""A coroutine in which something happens at one of its await points: at the first, the second, the third ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

Result = TypeVar("Result")


class AtMoment(Generic[Result]):
    """Awaiting it awaits `work`, and calls `act` at the `number`-th moment, counted from 1. `seen` are those that came.

    Each await point of `work` has two. In the first one it goes on to the point: a cancellation comes before whatever
    it asks for there. In the second one it waits: on asyncio a cancellation comes one turn of the loop later, together
    with what is granted at once.
    """

    def __init__(self, work: Coroutine[Any, Any, Result], number: int, act: Callable[[], None]) -> None:
        self._work = work
        self._number = number
        self._act = act
        self.seen = 0

    @property
    def has_acted(self) -> bool:
        return self.seen >= self._number

    def __await__(self) -> Generator[Any, Any, Result]:
        """What `yield from` would do, with a look at every suspension."""
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            self._look()
            try:
                asked = self._work.send(sent) if thrown is None else self._work.throw(thrown)
            except StopIteration as over:
                result: Result = over.value
                return result
            self._look()
            sent = thrown = None
            try:
                sent = yield asked
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is for the work
                thrown = exc

    def _look(self) -> None:
        self.seen += 1
        if self.seen == self._number:
            self._act()

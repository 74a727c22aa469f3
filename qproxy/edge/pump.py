"""Moves a body from where it arrives to where it goes, inside the read callback, without a task in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from qproxy.core.framing import FramingError, Walker
from qproxy.core.splice import Buffer
from qproxy.errors import QProxyError


class Sink(Protocol):
    """Where a pump puts what it moves."""

    @property
    def congested(self) -> bool:
        """More should not be put until there is room again."""
        ...

    def put(self, data: Buffer, /) -> None: ...

    def put_all(self, pieces: Sequence[Buffer], /) -> None:
        """The same for pieces that follow each other, in one write where that can be."""
        ...


class Source(Protocol):
    """What a pump reads from."""

    def pause_for(self, sink: Sink) -> None:
        """Read no more until `sink` has room again."""
        ...

    def give_back(self, data: bytes) -> None:
        """Take back what came behind the end of the body."""
        ...


class Pump:
    """Moves one body from a stream's read callback into a sink.

    `tap` sees what leaves. `hold` says how much of it may go on at once; it keeps the rest. `ending` is asked once,
    when the walker has seen the whole body, for bytes to put behind it in the same write; it may raise to end the body
    without them. `notify` is called at the end, good or bad.
    """

    __slots__ = ("_ending", "_hold", "_notify", "_source", "_tap", "_walker", "done", "error", "moved_bytes", "sink")

    def __init__(
        self,
        source: Source,
        sink: Sink,
        walker: Walker,
        *,
        tap: Callable[[bytes], None] | None = None,
        hold: Callable[[bytes], Buffer] | None = None,
        ending: Callable[[], bytes] | None = None,
        notify: Callable[[], None] | None = None,
    ) -> None:
        self._source = source
        self.sink = sink
        self._walker = walker
        self._tap = tap
        self._hold = hold
        self._ending = ending
        self._notify = notify
        self.done = False
        self.error: Exception | None = None
        self.moved_bytes = 0

    def feed(self, data: bytes) -> None:
        """Pass on what one read brought. Never raises: a failure ends the pump and stands in `error`."""
        try:
            out = self._walker.walk(data)
            self._pass_on(out)
        except FramingError as exc:
            self._break_off(exc)
        except QProxyError as exc:
            self._end(exc)

    def _break_off(self, error: FramingError) -> None:
        """What stood before the break is as good as if it had come in a read of its own."""
        try:
            if error.passed:
                self._pass_on(error.passed)
        except QProxyError as exc:
            self._end(exc)
        else:
            self._end(error)

    def end_of_input(self) -> None:
        """The source has ended."""
        try:
            self._walker.end_of_input()
            self._pass_on(b"")
        except (FramingError, QProxyError) as exc:
            self._end(exc)

    def fail(self, error: Exception) -> None:
        """End the body without its end."""
        if not self.done:
            self._end(error)

    def _pass_on(self, out: bytes) -> None:
        if out:
            self.moved_bytes += len(out)
            if self._tap is not None:
                self._tap(out)
        passed: Buffer = out if self._hold is None else self._hold(out)
        if self._walker.done:
            failure: Exception | None = None
            ending = b""
            try:
                if self._ending is not None:
                    ending = self._ending()
            except QProxyError as exc:
                failure = exc
            self.sink.put_all((passed, ending))
            self._end(failure)
        else:
            if passed:
                self.sink.put(passed)
            if self.sink.congested:
                self._source.pause_for(self.sink)

    def take_error(self) -> Exception:
        """The failure, for whoever raises it: from then on it holds frames that hold this pump, which must not hold it.
        Else the body would wait for the garbage collector."""
        error, self.error = self.error, None
        assert error is not None
        return error

    def _end(self, error: Exception | None) -> None:
        self.error = None if error is None else error.with_traceback(None)  # which has frames that hold this pump
        self.done = True
        if self._walker.rest:
            self._source.give_back(self._walker.rest)
        notify = self._notify
        self._tap = self._hold = self._ending = self._notify = None  # they hold whoever holds this pump
        if notify is not None:
            notify()

"""Counts tokens in a thread of its own, beside the event loop.

    counted = await counter.count(body, Shape.OPENAI, model)      # somebody waits for it: goes first
    counter.note(pieces, model, done)                             # nobody waits: newest first, dropped where too many

`note` is for the body of an exchange, after its last byte went up: a chat or completion request as it came, whole, in
any pieces. It returns at once and keeps the pieces until they are counted or dropped. `done` is called on the loop's
thread, some time later, with the count; never where the body was dropped, is not countable, or the server stopped.

The thread begins with a job and ends after a second without one. It holds the interpreter for at most about 2 ms at a
time, except for once: building the tokenizer takes it for about 0.1 s, at the first job or where `warm` is called.

Counts that nobody waits for get a tenth of a core: where prompts come faster than they are counted, the loop would
share its core with them all the time. A rest ends when somebody asks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from qproxy.core.limits import MIB
from qproxy.core.splice import Buffer
from qproxy.core.tokens import Counted, NotCountable, Shape, Vocabulary
from qproxy.core.tokens.body import count_body
from qproxy.core.tokens.memo import Memo
from qproxy.edge.runtime import Runtime
from qproxy.edge.token_ranks import load_vocabulary
from qproxy.errors import DownstreamError, InternalError

log = logging.getLogger(__name__)

IDLE_S = 1.0  # then the thread ends
MAX_ASKED = 64
MAX_NOTED = 64
MAX_NOTED_BYTES = 8 * MIB  # what waits keeps its bodies in memory; the newest one is always taken
REST = 9  # times as long as the part of a count took, on the clock of the thread
PART_S = 0.002

Outcome = Counted | NotCountable | None  # None: there is no answer any more


class _Abandoned(Exception):
    """Nobody wants the count any more."""


@dataclass(slots=True, eq=False)
class _Job:
    """One body. `finish` is called in the thread, once. `is_abandoned` is set on the loop's thread. `has_time`: nobody
    waits for it."""

    pieces: Sequence[Buffer]
    shape: Shape
    model: str | None
    may_want_ids: bool
    finish: Callable[[Outcome], None]
    is_abandoned: bool = False
    has_time: bool = False

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class _Stoppable:
    """The vocabulary for one job. `go_on` is called before each text; it raises `_Abandoned` where nobody wants the
    count any more."""

    def __init__(self, vocabulary: Vocabulary, go_on: Callable[[], None]) -> None:
        self._vocabulary = vocabulary
        self._go_on = go_on

    @property
    def is_exact(self) -> bool:
        return self._vocabulary.is_exact

    @property
    def obstacle(self) -> str:
        return self._vocabulary.obstacle

    def count(self, text: str) -> int:
        self._go_on()
        return self._vocabulary.count(text)

    def ids(self, text: str) -> Sequence[int]:
        self._go_on()
        return self._vocabulary.ids(text)

    def special_id(self, name: str) -> int:
        return self._vocabulary.special_id(name)


class TokenCounter:
    """The counter of one server. `load` is called in the thread, once; it must not raise."""

    def __init__(self, runtime: Runtime, load: Callable[[], Vocabulary] = load_vocabulary) -> None:
        self._runtime = runtime
        self._load = load
        self._vocabulary: Vocabulary | None = None
        self._memo = Memo()
        self._changed = threading.Condition()
        self._asked: deque[_Job] = deque()
        self._noted: deque[_Job] = deque()
        self._noted_bytes = 0
        self._wants_vocabulary = False
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._worked_s = 0.0  # on the thread's clock, when it last went to rest
        self._rests_until = 0.0
        self._is_resting = False

    # --- on the loop's thread

    async def count(
        self, body: bytes, shape: Shape, model: str | None = None, *, may_want_ids: bool = False
    ) -> Counted:
        """The tokens of a request's body; `model` None: the one that the body names.

        Raises DownstreamError `invalid_json` where it is not countable, InternalError `overloaded` where too many wait.
        """
        waiter = _Waiter(self._runtime)
        job = _Job([body], shape, model, may_want_ids, waiter.settle_from_thread)
        with self._changed:
            if len(self._asked) >= MAX_ASKED:
                raise InternalError("overloaded", "Too many counts are waiting. Try again soon.", retry_after_s=1)
            self._asked.append(job)
            self._wake()
        try:
            outcome = await waiter.wait()
        finally:
            self._abandon(job)
        if isinstance(outcome, NotCountable):
            raise DownstreamError("invalid_json", str(outcome)) from outcome
        if outcome is None:
            raise InternalError("internal_error", "The tokens could not be counted; the log says more.")
        return outcome

    def note(self, pieces: Sequence[Buffer], model: str, done: Callable[[Counted], None]) -> None:
        """Count a body that nobody waits for; `done` gets the count (module docstring)."""

        def finish(outcome: Outcome) -> None:
            if isinstance(outcome, Counted):
                self._call_on_loop(lambda: done(outcome))

        job = _Job(pieces, Shape.OPENAI, model, may_want_ids=False, finish=finish, has_time=True)
        with self._changed:
            if self._is_closed:
                return
            self._noted.append(job)
            self._noted_bytes += job.size
            while len(self._noted) > 1 and (len(self._noted) > MAX_NOTED or self._noted_bytes > MAX_NOTED_BYTES):
                self._noted_bytes -= self._noted.popleft().size
            if not self._is_resting:
                self._wake()

    def warm(self) -> None:
        """Build the tokenizer now, in the thread."""
        with self._changed:
            if self._is_closed:
                return
            self._wants_vocabulary = True
            self._wake()

    def close(self) -> None:
        """Drop what waits, and let the thread end at its next step. Does not wait for it."""
        with self._changed:
            self._is_closed = True
            self._noted.clear()
            asked = list(self._asked)
            self._asked.clear()
            self._changed.notify_all()
        for job in asked:
            job.finish(None)

    def _abandon(self, job: _Job) -> None:
        """Nobody waits for it any more: its place in the line is free, or its count ends soon."""
        job.is_abandoned = True
        with self._changed, suppress(ValueError):
            self._asked.remove(job)

    def _wake(self) -> None:
        """There is work. The lock is held."""
        if self._is_closed:
            raise InternalError("draining", "This server is stopping.")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="qproxy-token-counter", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    # --- in the thread

    def _run(self) -> None:
        self._worked_s = 0.0
        is_over = False
        try:
            while self._next_turn():
                pass
            is_over = True
        finally:
            if not is_over:  # a defect, which the thread's end tells of; others still wait
                with self._changed:
                    self._thread = None
                    if self._has_work():
                        self._wake()

    def _next_turn(self) -> bool:
        """Waits for something to do, and does it; False where there is nothing for a while, or the server stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_work() or self._is_closed, IDLE_S)
            if self._is_closed or not self._has_work():
                self._thread = None
                return False
            self._wants_vocabulary = False
            job = self._take()
        outcome: Outcome = None
        try:
            vocabulary = self._vocabulary or self._loaded()
            if job is not None:
                outcome = self._counted(job, vocabulary)
        finally:
            if job is not None:
                job.finish(outcome)
        return True

    def _loaded(self) -> Vocabulary:
        vocabulary = self._vocabulary = self._load()
        if vocabulary.obstacle:
            log.warning("tokens are estimated: %s", vocabulary.obstacle)
        return vocabulary

    def _has_work(self) -> bool:
        return bool(self._asked or self._noted or self._wants_vocabulary)

    def _take(self) -> _Job | None:
        if self._asked:
            return self._asked.popleft()
        if self._noted:
            job = self._noted.pop()
            self._noted_bytes -= job.size
            return job
        return None

    def _counted(self, job: _Job, vocabulary: Vocabulary) -> Outcome:
        if job.has_time:
            self._rest()
        stoppable = _Stoppable(vocabulary, lambda: self._go_on(job))
        # Joining long bytes lets other threads run, joining views does not.
        body = b"".join([piece if isinstance(piece, bytes) else bytes(piece) for piece in job.pieces])
        try:
            return count_body(
                body, job.shape, stoppable, model=job.model, memo=self._memo, may_want_ids=job.may_want_ids
            )
        except NotCountable as exc:
            return exc
        except _Abandoned:
            return None
        finally:
            self._owe_rest()

    def _go_on(self, job: _Job) -> None:
        if job.has_time and time.thread_time() - self._worked_s > PART_S:
            self._owe_rest()
            self._rest()
        if job.is_abandoned or self._is_closed:
            raise _Abandoned

    def _owe_rest(self) -> None:
        worked_s = time.thread_time()
        self._rests_until = time.monotonic() + REST * (worked_s - self._worked_s)
        self._worked_s = worked_s

    def _rest(self) -> None:
        with self._changed:
            self._is_resting = True
            self._changed.wait_for(lambda: self._asked or self._is_closed, self._rests_until - time.monotonic())
            self._is_resting = False

    def _call_on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._runtime.call_from_thread(call)
        except RuntimeError:
            pass  # the loop has ended, and with it everybody who waits


class _Waiter:
    """One task that waits for an outcome from the thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._spot = runtime.spot()
        self._is_settled = False
        self._outcome: Outcome = None

    async def wait(self) -> Outcome:
        while not self._is_settled:
            await self._spot.wait()
        return self._outcome

    def settle_from_thread(self, outcome: Outcome) -> None:
        def settle() -> None:
            self._outcome = outcome
            self._is_settled = True
            self._spot.wake()

        try:
            self._runtime.call_from_thread(settle)
        except RuntimeError:
            pass  # the loop has ended, and with it the task

"""Notices when the event loop stands still, and says where: whatever blocks it blocks every client.

The loop beats, and a thread of its own looks whether a beat is late. Where it is, the thread takes down at which lines
the loop's thread is, without values. All that it costs while all is well are a timer and a thread that wake some dozen
times a second while requests are under way, and once a second else.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType

from qproxy.edge.activity import Activity, nothing
from qproxy.edge.runtime import Runtime, Timer

log = logging.getLogger(__name__)

BEAT_S = 0.02
IDLE_BEAT_S = 1.0
BUSY_BEATS = 10  # without a request, before the beats become slow
POLL_S = 0.005  # for the end of a stall
LONGEST_S = 1.0  # a stall that lasts longer is told of before its end
DEPTH = 6  # callers that are named, from the innermost on
SAID_AGAIN_S = 60.0
SAID_AT_ONCE = 10  # places, in that time
MACHINERY = frozenset({"selectors.py", "base_events.py", "runners.py", "events.py", "_run.py", "_io_epoll.py"})
"""Where the loop's thread is while it waits, or runs what is too short to be seen."""


class StallWatch:
    """Watches the loop of the thread that makes it. `limit_s` is what it may stand still for, give or take a beat, and
    not less than one and a half."""

    def __init__(self, runtime: Runtime, limit_s: float, activity: Activity) -> None:
        self._runtime = runtime
        self._slack_s = max(limit_s - BEAT_S, BEAT_S / 2)
        self._activity = activity
        self._watched = threading.get_ident()
        self._reports = Reports()
        self._stirred = threading.Event()  # the thread is to look again
        self._is_over = False
        self._beats = 0
        self._beat_s = 0.0  # when the loop was last seen alive
        self._late_s = 0.0  # from when on it has stood still for too long
        self._quiet_beats = 0
        self._timer: Timer | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch inside the block."""
        self._beat()
        thread = threading.Thread(target=self._watch, name="qproxy-stall-watch", daemon=True)
        thread.start()
        self._activity.wake = self._wake
        try:
            yield
        finally:
            self._activity.wake = nothing
            self._is_over = True
            self._stop_timer()
            self._stirred.set()
            thread.join()

    def _beat(self) -> None:
        self._quiet_beats = 0 if self._activity.under_way else self._quiet_beats + 1
        pause_s = BEAT_S if self._quiet_beats < BUSY_BEATS else IDLE_BEAT_S
        self._beats += 1
        self._beat_s = now_s = time.monotonic()
        self._late_s = now_s + pause_s + self._slack_s
        self._timer = self._runtime.call_later(pause_s, self._beat)

    def _wake(self) -> None:
        """A request has begun."""
        if self._quiet_beats >= BUSY_BEATS:
            self._stop_timer()
            self._beat()
            self._stirred.set()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- in the thread

    def _watch(self) -> None:
        while not self._is_over:
            late_s = self._late_s
            beats = self._beats
            if not self._stirred.wait(max(late_s - time.monotonic(), 0.0)) and self._beats == beats:
                self._look(beats, late_s)
            self._stirred.clear()

    def _look(self, beats: int, late_s: float) -> None:
        """The loop stands still."""
        overslept_s = time.monotonic() - late_s
        since_s = late_s - self._slack_s - BEAT_S
        places = places_of(self._watched)
        self._wait_for_beat(beats, since_s + LONGEST_S)
        lasted_s = (self._beat_s if self._beats != beats else time.monotonic()) - since_s
        if overslept_s > self._slack_s and is_machinery(places):
            log.info("the whole process stood still for about %.0f ms", lasted_s * 1000)
        else:
            self._reports.tell(lasted_s, places)
        self._wait_for_beat(beats, float("inf"))

    def _wait_for_beat(self, beats: int, until_s: float) -> None:
        while self._beats == beats and time.monotonic() < until_s and not self._is_over:
            time.sleep(POLL_S)


class Reports:
    """One line a place and minute, and not too many places."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}
        self._unsaid = 0

    def tell(self, lasted_s: float, places: list[str]) -> None:
        now_s = time.monotonic()
        self._said_s = {place: said_s for place, said_s in self._said_s.items() if now_s - said_s < SAID_AGAIN_S}
        innermost = places[0] if places else "an unknown place"
        if innermost in self._said_s or len(self._said_s) >= SAID_AT_ONCE:
            self._unsaid += 1
            return
        self._said_s[innermost] = now_s
        more = f" ({self._unsaid} more were not logged)" if self._unsaid else ""
        self._unsaid = 0
        where = " < ".join(places) or innermost
        log.warning("the event loop stood still for about %.0f ms at %s%s", lasted_s * 1000, where, more)


def places_of(thread: int) -> list[str]:
    """Where a thread is: `function (folder/file.py:line)`, the innermost first. Nothing but names and lines."""
    frame: FrameType | None = sys._current_frames().get(thread)
    places: list[str] = []
    while frame is not None and len(places) < DEPTH:
        code = frame.f_code
        path = "/".join(PurePath(code.co_filename).parts[-3:])
        places.append(f"{code.co_name} ({path}:{frame.f_lineno})")
        frame = frame.f_back
    return places


def is_machinery(places: list[str]) -> bool:
    """Whether the innermost one is the loop's own."""
    return not places or places[0].rpartition("/")[2].partition(":")[0] in MACHINERY

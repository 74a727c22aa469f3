"""What outlives the process: counts and the standing of accounts, written beside the event loop.

Whoever notes something only adds to a sum in memory. One thread takes the sum twice a second and writes it, so that a
kill costs less than a second of counts. While the file cannot be written the sum grows on, by key and not by request;
there is one warning, and another attempt every minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from qproxy.core.counts import CountRow, Tally
from qproxy.core.health import StateRow
from qproxy.core.token_ratio import MOST_MODELS, RatioRow
from qproxy.edge.state_file import StateDamaged, StateFile, StateUnusable, open_state_file

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
RETRY_EVERY_S = 60.0
PATIENCE_S = 15.0  # with a disk that hangs, at the start and at the end; serving and stopping matter more
DAY_S = 24 * 60 * 60


class Store:
    """The state in `folder`, open inside its `async with`; leaving it writes what is left.

    `note`, `save_account_state` and `save_ratios` may be called from any thread, never wait and never fail.
    """

    def __init__(
        self, folder: Path, *, write_every_s: float = WRITE_EVERY_S, retry_every_s: float = RETRY_EVERY_S
    ) -> None:
        self._folder = folder
        self._write_every_s = write_every_s
        self._retry_every_s = retry_every_s
        self._lock = threading.Lock()  # guards the tally; held for no longer than an addition
        self._tally = Tally()
        self._states: list[StateRow] | None = None
        self._written_states: list[StateRow] | None = None
        self._restored: list[StateRow] = []
        self._ratios: dict[str, RatioRow] = {}  # by model; guarded as the tally is
        self._restored_ratios: list[RatioRow] = []
        self._opened = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qproxy-state", daemon=True)
        self._file: StateFile | None = None
        self._retry_at_s = 0.0
        self._warned_of: set[str] = set()  # a disk that is full now and then is worth one line, not one a minute
        self.problem = ""
        """Why nothing is written at the moment; empty while all is well."""

    async def __aenter__(self) -> Self:
        self._thread.start()
        try:
            await anyio.to_thread.run_sync(self._opened.wait, PATIENCE_S)
        except BaseException:
            self._leaving.set()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving.set()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join, PATIENCE_S)

    def note(self, row: CountRow) -> None:
        """Add to the counts."""
        with self._lock:
            self._tally.add(row)

    def save_account_state(self, states: Iterable[StateRow]) -> None:
        """Replace what is kept: `states` is all there is to know (`AccountBook.state_of`)."""
        self._states = list(states)

    def load_account_state(self) -> list[StateRow]:
        """What was in the file when it was opened; nothing where it could not be."""
        return self._restored

    def save_ratios(self, rows: Iterable[RatioRow]) -> None:
        """Put these in the place of older ones of the same models."""
        with self._lock:
            self._ratios.update((row.model, row) for row in rows)
            while len(self._ratios) > MOST_MODELS:
                del self._ratios[next(iter(self._ratios))]

    def load_ratios(self) -> list[RatioRow]:
        """What was in the file when it was opened; nothing where it could not be."""
        return self._restored_ratios

    def _run(self) -> None:
        """The thread, the only one that touches the file."""
        try:
            self._open()
        finally:
            self._opened.set()
        while not self._leaving.wait(self._write_every_s):
            if time.monotonic() >= self._retry_at_s:
                self._write()
        self._write()
        self._close()

    def _open(self) -> None:
        try:
            file = self._usable_file()
            self._restored, self._restored_ratios = file.account_states, file.ratios
        except StateUnusable as exc:
            self._give_up(exc)

    def _write(self) -> None:
        """Write what has come together, or keep it."""
        with self._lock:
            counts = self._tally.take()
            ratios, self._ratios = self._ratios, {}
        states = self._states
        if not counts and not ratios and states is self._written_states:
            return
        try:
            self._put(counts, states, ratios)
        except StateUnusable as exc:
            self._keep(counts, ratios)
            self._give_up(exc)
        else:
            self._written_states = states
            self._recover()

    def _put(self, counts: list[CountRow], states: list[StateRow] | None, ratios: dict[str, RatioRow]) -> None:
        try:
            self._usable_file().write(counts, states, list(ratios.values()))
        except StateDamaged:
            self._close()  # to open it anew puts it out of the way
            self._usable_file().write(counts, states, list(ratios.values()))

    def _keep(self, counts: list[CountRow], ratios: dict[str, RatioRow]) -> None:
        """For the next attempt."""
        with self._lock:
            for row in counts:
                self._tally.add(row)
            self._ratios = {**ratios, **self._ratios}

    def _usable_file(self) -> StateFile:
        if self._file is not None and self._file.was_replaced:
            self._close()
        if self._file is None:
            self._file = open_state_file(self._folder)
        return self._file

    def _give_up(self, error: StateUnusable) -> None:
        """For now; the next attempt opens the file anew."""
        self._close()
        self._retry_at_s = time.monotonic() + self._retry_every_s
        reason = str(error)
        if reason not in self._warned_of:
            self._warned_of.add(reason)
            log.warning(
                "Counts and account states cannot be written to %s: %s. They stay in memory until they can.",
                self._folder,
                reason,
            )
        self.problem = reason

    def _recover(self) -> None:
        if self.problem:
            log.info("Counts and account states are written to %s again.", self._folder)
        self.problem = ""

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def day_of(now_s: float, offset_s: int = 0) -> str:
    """The day of the counts, "2026-11-21", that a moment belongs to: the date in UTC at the middle of that day.

    Days begin `offset_s` after midnight UTC. By its middle, a day that begins at midnight in Asia or America has the
    date that people have there.
    """
    middle_s = now_s + seconds_to_reset(now_s, offset_s) - DAY_S / 2
    return datetime.fromtimestamp(middle_s, UTC).date().isoformat()


def seconds_to_reset(now_s: float, offset_s: int = 0) -> float:
    """Until the next day of the counts begins; above 0, at most a day."""
    return DAY_S - (now_s - offset_s) % DAY_S

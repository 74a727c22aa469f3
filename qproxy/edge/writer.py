"""Text that is written beside the event loop, by a thread that may hang for as long as its destination does.

A pipe that nobody empties, a FIFO that nobody opens, a disk that does not answer: none of them may stop the server from
serving or from stopping. So the thread is a daemon, and whoever waits for it waits for so long and no longer.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

PATIENCE_S = 0.5  # with the destination, at the end
MAX_LINES = 1000


class BackgroundWriter:
    """Hands what `take` returns to `write`, both in a thread of its own, whenever it is woken.

    What cannot be written is dropped: `write` may raise OSError and ValueError.
    """

    def __init__(self, name: str, take: Callable[[], str], write: Callable[[str], None]) -> None:
        self._name = name
        self._take = take
        self._write = write
        self._changed = threading.Condition()
        self._woken = 0
        self._written = 0  # everything that was there at so many wakes
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def wake(self) -> int:
        """There is something to write. Never waits for the destination."""
        with self._changed:
            self._woken += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._woken

    def flush(self, patience_s: float = PATIENCE_S) -> None:
        """Returns when everything is written, or when the patience is at its end."""
        woken = self.wake()
        with self._changed:
            self._changed.wait_for(lambda: self._written >= woken, patience_s)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Write what is left. Where the destination hangs, the thread is left to itself."""
        with self._changed:
            self._is_closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(patience_s)

    def _run(self) -> None:
        written = 0
        while True:
            with self._changed:
                self._written = written
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._woken > self._written or self._is_closed)
                woken = self._woken
                if woken == written:
                    return
            text = self._take()
            if text:
                try:
                    self._write(text)
                except (OSError, ValueError):
                    pass  # closed, full or taken away
            written = woken


class BesideHandler(logging.Handler):
    """Log records as lines on stderr, written beside the loop. Those that find too many before them are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._writer = BackgroundWriter("qproxy-messages", self._take, write_to_stderr)

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) < MAX_LINES:
            self._lines.append(self.format(record) + "\n")
            self._writer.wake()

    def close(self) -> None:
        self._writer.close()
        super().close()

    def _take(self) -> str:
        return "".join(take_all(self._lines))


@contextmanager
def logging_beside() -> Iterator[None]:
    """Inside the block the log is written beside the loop, where nobody has said otherwise."""
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    handler = BesideHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def take_all(waiting: list[str]) -> list[str]:
    """Empty a list to which another thread appends."""
    count = len(waiting)
    taken = waiting[:count]
    del waiting[:count]
    return taken


def print_beside(text: str) -> None:
    """Write to stdout, and wait no longer than the patience for that."""
    waiting = [text]
    writer = BackgroundWriter("qproxy-print", lambda: "".join(take_all(waiting)), write_to_stdout)
    writer.wake()
    writer.close()


def write_to_stdout(text: str) -> None:
    """Raises OSError and ValueError."""
    _write_to(sys.stdout, text)


def write_to_stderr(text: str) -> None:
    """Raises OSError and ValueError."""
    _write_to(sys.stderr, text)


def _write_to(stream: TextIO | None, text: str) -> None:
    """Past the stream's own buffer, where it has a descriptor: a thread that hangs inside a buffer's lock makes the
    interpreter abort when it ends. Raises OSError and ValueError."""
    if stream is None:
        return  # started with the descriptor closed
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:
        stream.write(text)
        stream.flush()
        return
    data = text.encode(stream.encoding or "utf-8", stream.errors or "replace")
    while data:
        data = data[os.write(descriptor, data) :]

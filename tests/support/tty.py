"""A command of ours in a terminal of a given size: what it wrote there, and what a camera would see of it."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import zxingcpp

from tests.support.shell import COMMAND, ROOT, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MODULE_PIXELS = 6
HALVES = {"█": (True, True), "▀": (True, False), "▄": (False, True), " ": (False, False)}
"""By glyph: whether the upper and the lower half have the colour of the writing."""

_SGR = re.compile(r"\x1b\[([0-9;]*)m")


class Tty:
    """A process in a terminal. `output` is all that it has written, with the terminal's line ends."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.output = ""
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end inside a character

    def read_until(self, text: str) -> None:
        """Returns when `text` has come."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.output:
            assert time.monotonic() < deadline, self.output
            assert self._read_some() or self.process.poll() is None, self.output

    def finish(self) -> int:
        """The exit status."""
        while self._read_some() or self.process.poll() is None:
            pass
        return self.process.wait(TIMEOUT_S)

    def _read_some(self) -> bool:
        readable, _, _ = select.select([self._descriptor], [], [], 0.05)
        try:
            data = os.read(self._descriptor, 65536) if readable else b""
        except OSError:
            return False  # nobody has the other end open any more
        self.output += self._decoder.decode(data)
        return bool(data)


@contextmanager
def tty(
    arguments: Sequence[str],
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    *,
    columns: int = 100,
    lines: int = 40,
) -> Iterator[Tty]:
    """Starts the command line in `cwd`, which is its home as well."""
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        base = {
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
        }
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=cwd, env={**base, **(environ or {})}, stdin=theirs, stdout=theirs, stderr=theirs
        )
    finally:
        os.close(theirs)
    try:
        yield Tty(process, ours)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        os.close(ours)


def qr_rows(output: str) -> list[str]:
    """The lines with blocks."""
    return [line for line in output.splitlines() if any(glyph in line for glyph in "█▀▄")]


def decoded(rows: Sequence[str], *, light_terminal: bool = False) -> list[str]:
    """What a scanner reads from a photograph of these lines on a dark terminal, or on a light one."""
    cells = [_cells(row, light_terminal=light_terminal) for row in rows]
    width = max(map(len, cells))
    ground = (light_terminal, light_terminal)
    lines = []
    for row in cells:
        padded = [*row, *[ground] * (width - len(row))]
        for half in (0, 1):
            pixels = b"".join((b"\xff" if cell[half] else b"\x00") * MODULE_PIXELS for cell in padded)
            lines += [pixels] * MODULE_PIXELS
    image = memoryview(b"".join(lines)).cast("B", shape=[len(lines), len(lines[0])])
    return [found.text for found in zxingcpp.read_barcodes(image, try_invert=False)]


def _cells(row: str, *, light_terminal: bool) -> list[tuple[bool, bool]]:
    """By character: whether its upper and its lower half are light."""
    writing, ground = not light_terminal, light_terminal
    cells: list[tuple[bool, bool]] = []
    position = 0
    for match in [*_SGR.finditer(row), None]:
        for glyph in row[position : match.start() if match else len(row)]:
            upper, lower = HALVES[glyph]
            cells.append((writing if upper else ground, writing if lower else ground))
        if match:
            position = match.end()
            codes = match[1].split(";")
            writing = True if "97" in codes else not light_terminal
            ground = False if "40" in codes else light_terminal
    return cells

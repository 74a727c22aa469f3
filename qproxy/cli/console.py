"""Lines for people: stdout for results, stderr for the rest. Output that nobody reads any more is dropped quietly."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import RenderableType

PIPED_COLUMNS = 20_000  # nobody cuts a pipe's lines, and a wrapped one is hard to search


def prepare_output() -> None:
    """Once, before anything is opened.

    A standard descriptor that was closed is taken, or the next socket would get its number: libuv aborts when it closes
    one. A terminal without Unicode shows question marks.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_text(text: str) -> None:
    """Write `text` to stdout as it is, at once."""
    _write(sys.stdout, text)


def print_line(text: str) -> None:
    """Write one line to stdout, at once."""
    print_text(f"{text}\n")


def print_note(text: str) -> None:
    """Write one line to stderr."""
    _write(sys.stderr, f"{text}\n")


def print_rich(*renderables: RenderableType) -> None:
    """Draw tables and the like on stdout, with colours where it is a terminal."""
    from rich.console import Console  # whoever has tables has paid for it; `serve` has none

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else PIPED_COLUMNS
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=is_terminal, width=width)
    console.print(*renderables)
    print_text(drawn.getvalue())


def printable(text: str) -> str:
    """Text of somebody else's, without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # started with the descriptor closed
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Send what follows nowhere, so that the flush at exit does not fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

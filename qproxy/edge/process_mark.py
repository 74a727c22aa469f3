"""Which process made a file, so that what a killed one left behind is told from what a living one needs.

A process id says little: another container counts its own, and a shared folder may be seen by several machines. So a
mark names the place where the id counts too. Where the place differs, nobody is taken for dead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
from pathlib import Path

PATTERN = r"[0-9a-f]{12}-[0-9]{1,10}"


def own_mark() -> str:
    """The mark of this process; it matches `PATTERN`."""
    return f"{_place()}-{os.getpid()}"


def is_of_the_dead(mark: str) -> bool:
    """Whether the process of this mark has certainly ended. Its id may have been given to another since: then not."""
    place, _, pid = mark.partition("-")
    if place != _place() or os.name != "posix":  # on Windows a signal 0 is no harmless question
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


@functools.cache
def _place() -> str:
    """The machine since its last start, and the process table in it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

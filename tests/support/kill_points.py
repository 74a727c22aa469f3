"""Kills a writer of a login's file at every call it makes to the system, and tells what is found afterwards.

    python -m tests.support.kill_points FOLDER SCENE

For each call, and before as well as after it, a forked child does the work of the scene and kills itself there. One
JSON line for each child goes to stdout, the last one for the child that came to its end.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qproxy.edge.token_file import TokenFile
from qproxy.edge.token_lock import TokenLock, lock_path

OLD = b'{"old": "' + b"o" * 5000 + b'"}'
NEW = b'{"new": "' + b"n" * 9000 + b'"}'
CALLS = (
    "open", "close", "write", "read", "fsync", "fstat", "stat", "lstat", "replace", "rename", "unlink", "link",
    "utime", "fchmod", "chmod", "mkdir", "listdir", "scandir", "kill",
)  # fmt: skip
MOMENTS = ("before", "after")


def write(path: Path) -> None:
    TokenFile(path).write(NEW)


def write_under_lock(path: Path) -> None:
    lock = TokenLock(lock_path(path), time.time, time.monotonic)
    assert lock.take()
    write(path)
    lock.renew()
    lock.release()


def old_file(path: Path, age_s: float = 60.0) -> None:
    path.write_bytes(OLD)
    path.chmod(0o600)
    os.utime(path, (time.time() - age_s,) * 2)


def file_of_tomorrow(path: Path) -> None:
    """Its time has to be beaten."""
    old_file(path, -86_400.0)


def no_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def symlink(path: Path) -> None:
    target = path.parent / "elsewhere" / "login.json"
    target.parent.mkdir(exist_ok=True)
    old_file(target)
    path.unlink(missing_ok=True)
    path.symlink_to("elsewhere/login.json")


SCENES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "replace": (old_file, write),
    "redate": (file_of_tomorrow, write),
    "make": (no_file, write),
    "symlink": (symlink, write),
    "locked": (old_file, write_under_lock),
}


class Fuse:
    """Counts the calls of a process and kills it at one of them."""

    def __init__(self, point: int, moment: str) -> None:
        self._left = point
        self._moment = moment

    def put_in(self) -> None:
        for name in CALLS:
            setattr(os, name, self._guarded(name, getattr(os, name)))

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        end = functools.partial(self._end, os.kill)

        @functools.wraps(call)
        def guarded(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            is_here = self._left == 0
            if is_here:
                os.write(3, name.encode())
            if is_here and self._moment == "before":
                end()
            try:
                return call(*arguments, **named)
            finally:
                if is_here:
                    end()

        return guarded

    @staticmethod
    def _end(kill: Callable[[int, int], None]) -> None:
        kill(os.getpid(), signal.SIGKILL)


def run_child(work: Callable[[Path], None], path: Path, point: int, moment: str) -> tuple[bool, str]:
    """Whether the child was killed, and in which call."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 3)
        status = 1
        try:
            Fuse(point, moment).put_in()
            work(path)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        name = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True, name
    assert os.WEXITSTATUS(status) == 0, "the writer failed"
    return False, ""


def found(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "none"
    return {OLD: "old", NEW: "new"}.get(data, "torn")


def lock_found(path: Path) -> str:
    """`free` to take at once; `empty` where the killed process had not yet said whose it is; `held` must never be."""
    lock = TokenLock(lock_path(path), time.time, time.monotonic)
    if lock.take():
        lock.release()
        return "free"
    is_empty = not lock_path(path).read_bytes()
    lock_path(path).unlink()
    return "empty" if is_empty else "held"


def aftermath(path: Path) -> dict[str, object]:
    """What the next start finds, and what it leaves."""
    is_there = path.exists()
    result: dict[str, object] = {
        "found": found(path),
        "mode": oct(stat.S_IMODE(path.stat().st_mode)) if is_there else "",
        "is_link": path.is_symlink(),
    }
    TokenFile(path).sweep()
    result["lock"] = lock_found(path)
    result["left"] = sorted(entry.name for entry in path.resolve().parent.iterdir() if ".tmp" in entry.name)
    return result


def sweep(path: Path, scene: str) -> None:
    prepare, work = SCENES[scene]
    for moment in MOMENTS:
        point = 0
        was_killed = True
        while was_killed:
            point += 1
            prepare(path)
            was_killed, call = run_child(work, path, point, moment)
            line = {"point": point, "moment": moment, "call": call, "killed": was_killed, **aftermath(path)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    # Descriptor 3 tells the parent where the child is: it must not be one of the writer's own.
    os.dup2(2, 3)
    sweep(Path(sys.argv[1]) / "oauth_creds.json", sys.argv[2])

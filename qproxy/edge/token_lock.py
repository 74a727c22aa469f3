"""The lock that the Qwen Code CLI puts beside its credentials file while it renews the login (`qwen-wire.md` 2.2).

The file is made exclusively and removed when done; one that is 35 s old was left behind and may be taken over. Beyond
the CLI's own rules: the time of ours is renewed while it is held, what it says tells whether it is still ours, one of a
process of ours that has died is taken over at once, and one whose time lies in the future is not waited for for ever.

A dying CLI removes the lock whoever holds it. So holding it is no proof that nobody else is at work: whoever renews a
login looks at the file again before replacing it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from qproxy.edge.process_mark import PATTERN, is_of_the_dead, own_mark
from qproxy.edge.token_file import READ_FLAGS, WRITE_FLAGS, FileVersion, is_left_behind

STALE_S = 35.0
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
WAIT_GROWTH = 1.5
CONTENT_BYTES = 256

_OURS = re.compile(rf"qproxy ({PATTERN}) [0-9a-f-]{{36}}")


def lock_path(login_path: Path) -> Path:
    """`oauth_creds.lock` for `oauth_creds.json`, in the same folder."""
    return login_path.with_suffix(".lock")


def waits(first_s: float = FIRST_WAIT_S) -> Iterator[float]:
    """How long to wait before each new attempt, as the CLI does. Never ends."""
    wait_s = first_s
    while True:
        yield wait_s
        wait_s = min(wait_s * WAIT_GROWTH, LONGEST_WAIT_S)


class TokenLock:
    """One lock, taken and released many times by one task at a time. Every method blocks for as long as the disk does.

    `wall_clock` gives Unix time, `monotonic` a clock that nobody sets, both in seconds.
    """

    def __init__(self, path: Path, wall_clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._content: bytes | None = None
        self._seen: tuple[FileVersion, float] | None = None

    def take(self) -> bool:
        """Whether the lock is ours now. Raises OSError where the folder can hold none."""
        return self._create() or (self._remove_stale() and self._create())

    def renew(self) -> None:
        """Show others that the holder is alive."""
        with contextlib.suppress(OSError):
            if self.is_held():
                os.utime(self._path)

    def is_held(self) -> bool:
        """Whether it is ours and nobody has removed or replaced it since."""
        return self._content is not None and self._read() == self._content

    def release(self) -> None:
        """Remove it if it is still ours."""
        with contextlib.suppress(OSError):
            if self.is_held():
                self._path.unlink()
        self._content = None

    def _create(self) -> bool:
        content = f"qproxy {own_mark()} {uuid.uuid4()}".encode()
        try:
            descriptor = os.open(self._path, WRITE_FLAGS, 0o600)
        except FileExistsError:
            return False
        try:
            # On a full disk the lock stays empty: it excludes others all the same.
            self._content = content[: _write(descriptor, content)]
        finally:
            os.close(descriptor)
        self._seen = None
        return True

    def _remove_stale(self) -> bool:
        """Take a lock away that nobody holds. By renaming it first, as the CLI does: one of several succeeds."""
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return True
        if not self._is_stale(status):
            return False
        aside = self._path.with_name(f"{self._path.name}.stale.{uuid.uuid4()}")
        try:
            self._path.rename(aside)
            if FileVersion.of(aside.lstat()) != FileVersion.of(status):
                self._put_back(aside)
                return False
            aside.unlink()
        except FileNotFoundError:
            return True  # somebody else was faster
        self._sweep()
        return True

    def _put_back(self, aside: Path) -> None:
        """Between the look and the rename a living process had taken the lock: give it back, unless it is taken again.
        Then the loser finds that it no longer holds it, and the newer file counts."""
        with contextlib.suppress(OSError):
            os.link(aside, self._path)
        aside.unlink(missing_ok=True)

    def _is_stale(self, status: os.stat_result) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return False
        if self._wall_clock() - status.st_mtime > STALE_S or self._seen_for_s(status) > STALE_S:
            return True
        match = _OURS.fullmatch((self._read() or b"").decode("latin-1"))
        return match is not None and is_of_the_dead(match[1])

    def _seen_for_s(self, status: os.stat_result) -> float:
        """How long this lock has stood here unrenewed: the wall clock may have been set back since it was made."""
        version, now_s = FileVersion.of(status), self._monotonic()
        if self._seen is None or self._seen[0] != version:
            self._seen = version, now_s
        return now_s - self._seen[1]

    def _read(self) -> bytes | None:
        """What the lock says; None where there is none, or none that can be read."""
        try:
            descriptor = os.open(self._path, READ_FLAGS)
        except OSError:
            return None
        try:
            return os.read(descriptor, CONTENT_BYTES)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what others, killed between the two steps, have set aside."""
        with contextlib.suppress(OSError):
            for aside in self._path.parent.glob(f"{self._path.name}.stale.*"):
                if is_left_behind(aside):
                    aside.unlink(missing_ok=True)


def _write(descriptor: int, content: bytes) -> int:
    try:
        return os.write(descriptor, content)
    except OSError:
        return 0

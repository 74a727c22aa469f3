"""The file of a login: read whole or not at all, replaced whole or not at all.

Other programs share it. A reader of theirs must never see half of it, and a crash at any moment must leave the old
login or the new one: refresh tokens work once, so a lost file is a lost login. Hence a new version is a new file in the
same folder, flushed to the disk and then renamed; a symlink stays, and what it points to is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import NamedTuple

from qproxy.edge.process_mark import PATTERN, is_of_the_dead, own_mark

MAX_FILE_BYTES = 1024 * 1024
MODE = 0o600
FOLDER_MODE = 0o700
LEFT_BEHIND_S = 3600.0  # no writer takes this long
# How much later a new version is: other readers compare times as floating-point milliseconds. Some file systems count
# in steps of two seconds.
LATER_NS = (1_000_000, 2_000_000_000)

_BINARY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # O_BINARY is Windows' own
# Without O_NONBLOCK the open of a named pipe would wait for a writer.
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY

_FOLDERS_WITHOUT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF)
_REASONS = {errno.EBUSY: "it is a mount of its own: mount its folder instead"}


class FileVersion(NamedTuple):
    """What tells one version of a file from the next."""

    mtime_ns: int
    inode: int
    size_bytes: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        return cls(status.st_mtime_ns, status.st_ino, status.st_size)


class FileContent(NamedTuple):
    """What a file held, and the version that it is at least as new as.

    `is_foreign`: it belongs to another user. `is_loose`: others than its owner may read or write it.
    """

    version: FileVersion
    data: bytes
    is_foreign: bool
    is_loose: bool


class TokenFile:
    """One credentials file. Every method blocks for as long as the disk does, and raises OSError where it fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> FileVersion:
        """What is there now."""
        return FileVersion.of(self.path.stat())

    def read(self) -> FileContent:
        """Raises ValueError with a reason for people where there is no regular file of reasonable size."""
        descriptor = os.open(self.path, READ_FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
            data = _read_at_most(descriptor, MAX_FILE_BYTES + 1) if status.st_size <= MAX_FILE_BYTES else b""
        finally:
            os.close(descriptor)
        if max(len(data), status.st_size) > MAX_FILE_BYTES:
            raise ValueError("the file is larger than 1 MiB")
        return FileContent(FileVersion.of(status), data, _is_foreign(status), _is_loose(status))

    def write(self, data: bytes) -> FileVersion:
        """Replace the file, or make it; its folder too. Afterwards it is on the disk, its mode is 0600 and its time is
        later than before. Raises PermissionError for a file of another user."""
        target = Path(os.path.realpath(self.path))
        target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        _sweep(target)
        before_ns = _time_of_replaced_ns(target)
        temporary = target.with_name(f"{target.name}.{own_mark()}-{secrets.token_hex(4)}.tmp")
        try:
            version = _write_new(temporary, data, before_ns)
            temporary.replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)
        return version

    def sweep(self) -> None:
        """Remove the temporary files of writers that were killed."""
        _sweep(Path(os.path.realpath(self.path)))


def is_left_behind(path: Path) -> bool:
    """Whether a file that should live for a moment is so old that nobody can still need it. Raises OSError."""
    return time.time() - path.lstat().st_mtime > LEFT_BEHIND_S


def reason_of(exc: OSError) -> str:
    """Why the disk failed, for people, without the path."""
    return _REASONS.get(exc.errno or 0) or exc.strerror or "the disk failed"


def _read_at_most(descriptor: int, size: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(size)


def _time_of_replaced_ns(target: Path) -> int:
    """The time that the file bears which is to be replaced. Raises OSError where it must not be."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if _is_foreign(status):
        raise PermissionError(errno.EPERM, "it belongs to another user")
    return status.st_mtime_ns


def _write_new(path: Path, data: bytes, before_ns: int) -> FileVersion:
    """A file that is on the disk, and later than `before_ns`."""
    descriptor = os.open(path, WRITE_FLAGS, MODE)
    try:
        # A nearly full tmpfs takes the first page of a longer write and reports no error.
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, MODE)
        _date(path, before_ns)
        os.fsync(descriptor)
        return FileVersion.of(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _date(path: Path, before_ns: int) -> None:
    """Readers take over only what is newer, while clocks are set back, and file times tick slowly."""
    for step_ns in LATER_NS:
        if path.stat().st_mtime_ns >= before_ns + LATER_NS[0]:
            return
        os.utime(path, ns=(before_ns + step_ns, before_ns + step_ns))


def _sync_folder(folder: Path) -> None:
    """Make the rename durable, where a folder can be flushed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | _BINARY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        if exc.errno not in _FOLDERS_WITHOUT_SYNC:
            raise


def _sweep(target: Path) -> None:
    temporary = re.compile(rf"{re.escape(target.name)}\.({PATTERN})-[0-9a-f]{{8}}\.tmp")
    with contextlib.suppress(OSError):
        for entry in list(target.parent.iterdir()):
            match = temporary.fullmatch(entry.name)
            if match is not None and (is_of_the_dead(match[1]) or is_left_behind(entry)):
                entry.unlink(missing_ok=True)


def _is_foreign(status: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and status.st_uid != os.geteuid()


def _is_loose(status: os.stat_result) -> bool:
    return os.name == "posix" and bool(status.st_mode & 0o077)

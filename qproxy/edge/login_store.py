"""Where a login is kept: in its file, in memory, or in a file that stands in for a setting."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from qproxy.core.oauth import json_object
from qproxy.core.token_file import token_file
from qproxy.edge.token_file import FileContent, FileVersion, TokenFile
from qproxy.edge.token_lock import lock_path

ORIGIN = "qproxy_origin"  # the key in a cache file that says which setting it stands in for
_NO_FILE = FileVersion(0, 0, 0)


class LoginStore(Protocol):
    """One login as bytes. Methods block, and raise OSError where the disk fails.

    `source` is for people. `lock`: the file that excludes other processes while the login is renewed. `is_durable`:
    what is written outlives the process.
    """

    source: str
    lock: Path | None
    is_durable: bool

    def version(self) -> FileVersion:
        """Which version is there now. Raises FileNotFoundError where there is none."""
        ...

    def read(self) -> FileContent:
        """Raises ValueError with a reason for people where there is no regular file of reasonable size."""
        ...

    def write(self, data: bytes) -> FileVersion:
        """Replace it, whole or not at all."""
        ...

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        ...


class FileStore(TokenFile):
    """A credentials file that other programs may share."""

    is_durable = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.source = str(path)
        self.lock: Path | None = lock_path(path)


class MemoryStore:
    """A login from a setting: what becomes of it is lost with the process."""

    source = "oauth_creds, in memory only"
    lock: Path | None = None
    is_durable = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._writes = 0

    def version(self) -> FileVersion:
        return FileVersion(0, self._writes, len(self._data))

    def read(self) -> FileContent:
        return FileContent(self.version(), self._data, is_foreign=False, is_loose=False)

    def write(self, data: bytes) -> FileVersion:
        self._data = data
        self._writes += 1
        return self.version()

    def sweep(self) -> None:
        pass


class CacheStore:
    """A login from a setting whose renewed tokens are kept in a file of ours. A new setting wins over the file."""

    is_durable = True

    def __init__(self, path: Path, data: bytes) -> None:
        """Raises ValueError where `data` is no JSON object."""
        self.source = f"oauth_creds, kept in {path}"
        self.lock: Path | None = lock_path(path)
        self._file = TokenFile(path)
        self._origin = hashlib.sha256(data).hexdigest()[:32]
        self._setting = token_file({**json_object(data), ORIGIN: self._origin})

    def version(self) -> FileVersion:
        try:
            return self._file.version()
        except FileNotFoundError:
            return _NO_FILE

    def read(self) -> FileContent:
        try:
            content = self._file.read()
        except FileNotFoundError:
            return FileContent(_NO_FILE, self._setting, is_foreign=False, is_loose=False)
        return content if self._is_of_this_setting(content.data) else content._replace(data=self._setting)

    def write(self, data: bytes) -> FileVersion:
        return self._file.write(data)

    def sweep(self) -> None:
        self._file.sweep()

    def _is_of_this_setting(self, data: bytes) -> bool:
        try:
            return json_object(data).get(ORIGIN) == self._origin
        except ValueError:
            return False

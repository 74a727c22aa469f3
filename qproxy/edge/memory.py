"""New requests are refused shortly before the memory is used up that this process may have: the kernel would end all of
them (`faults.md` P06).

What counts is the working set of the control group, as container platforms count it: what is used without the files
that the kernel can drop at once. Source: the kernel's admin-guide, cgroup-v2 "Memory" and cgroup-v1/memory.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import anyio

from qproxy.edge.drain import Drain
from qproxy.errors import InternalError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
SHORT_AT = 0.92  # of the limit; what is under way needs the rest
ENOUGH_AT = 0.87
ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_NO_LIMIT_BYTES = 1 << 60  # version 1 says "none" with the largest number of whole pages


@dataclass(frozen=True, slots=True)
class _Names:
    """What the files of one version are called."""

    limit: str
    used: str
    droppable: str  # a line of memory.stat


_VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")
_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


class ControlGroup:
    """A control group with a limit."""

    def __init__(self, folder: Path, names: _Names, limit_bytes: int) -> None:
        self._folder = folder
        self._names = names
        self.limit_bytes = limit_bytes

    def used_bytes(self) -> int:
        """The working set. Raises OSError or ValueError where it cannot be read."""
        used_bytes = int((self._folder / self._names.used).read_text())
        for line in (self._folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == self._names.droppable:
                return max(used_bytes - int(value), 0)
        return used_bytes


def tightest_group(root: Path = ROOT, own_groups: Path = OWN_GROUPS) -> ControlGroup | None:
    """The group with the smallest limit of those that this process is in; None where nothing is limited or known."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return None
    found: list[ControlGroup] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += _limited(root, path, _VERSION_2)
        elif "memory" in controllers.split(","):
            found += _limited(root / "memory", path, _VERSION_1)
    return min(found, key=lambda group: group.limit_bytes, default=None)


def _limited(root: Path, path: str, names: _Names) -> list[ControlGroup]:
    """The groups with a limit from `path` up to the root. In a container the path may be that of the world outside."""
    folder = root / path.lstrip("/")
    folders = [each for each in (folder, *folder.parents) if each == root or root in each.parents]
    limits = [(each, _limit_bytes(each / names.limit)) for each in folders]
    return [ControlGroup(each, names, limit) for each, limit in limits if limit is not None]


def _limit_bytes(file: Path) -> int | None:
    try:
        limit_bytes = int(file.read_text())
    except (OSError, ValueError):  # "max" is none
        return None
    return limit_bytes if 0 < limit_bytes < _NO_LIMIT_BYTES else None


class MemoryGuard:
    """Has `drain` refuse new requests while memory is short; what is under way goes on."""

    def __init__(self, group: ControlGroup, drain: Drain) -> None:
        self._group = group
        self._drain = drain
        self._is_short = False

    async def run(self) -> None:
        """Look a few times a second; never returns but where looking fails."""
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            try:
                self.look()
            except (OSError, ValueError) as exc:
                log.warning("the memory in use can no longer be read: %s", type(exc).__name__)
                self._drain.resume()
                return

    def look(self) -> None:
        """Raises OSError or ValueError."""
        share = self._group.used_bytes() / self._group.limit_bytes
        is_short = share > (ENOUGH_AT if self._is_short else SHORT_AT)
        if is_short == self._is_short:
            return
        self._is_short = is_short
        if is_short:
            log.warning("memory is short: %.0f %% of the limit; new requests are refused", share * 100)
            self._drain.pause(_memory_is_short)
        else:
            log.warning("memory suffices again: %.0f %% of the limit", share * 100)
            self._drain.resume()


def _memory_is_short() -> InternalError:
    return InternalError(
        "overloaded", "This server is short of memory and takes no new request now. Try again shortly.", retry_after_s=2
    )

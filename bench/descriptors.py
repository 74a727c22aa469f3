"""What processes hold open: their descriptors, and the TCP connections among them (proc(5))."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LISTENING = "0A"


def descriptors_of(pids: Iterable[int]) -> list[str]:
    """What each of them is, such as `socket:[4711]` or a path."""
    return [link for pid in pids for link in _links(pid)]


def connections_among(descriptors: Iterable[str]) -> list[tuple[int, int]]:
    """Local and remote port of each IPv4 connection."""
    inodes = {link[len("socket:[") : -1] for link in descriptors if link.startswith("socket:[")}
    return [ports for inode, ports in _connections() if inode in inodes]


def _links(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            yield str(entry.readlink())


def _connections() -> Iterator[tuple[str, tuple[int, int]]]:
    """All of this machine, by inode."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] != LISTENING:
            yield fields[9], (_port_of(fields[1]), _port_of(fields[2]))


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2], 16)

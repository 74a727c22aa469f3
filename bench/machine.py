"""The machine: which cores there are, what it is, and how much of it was taken by others while we measured."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the proxy, the mock upstream and the load client run on. All the same where there is only one."""

    proxy: frozenset[int]
    mock: frozenset[int]
    load: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        """Every core that the bench uses."""
        return self.proxy | self.mock | self.load

    @property
    def separate(self) -> bool:
        """Whether the proxy has its cores for itself."""
        return not self.proxy & (self.mock | self.load)


def share_out(available: frozenset[int], *, workers: int = 1) -> Cores:
    """The last `workers` cores for the proxy; mock and load share the first, or have one each where there are more."""
    order = sorted(available)
    if len(order) == 1:
        return Cores(available, available, available)
    proxy = order[max(1, len(order) - workers) :]
    tools = order[: len(order) - len(proxy)]
    return Cores(frozenset(proxy), frozenset(tools[:1]), frozenset(tools[1:2] or tools[:1]))


def available_cores() -> frozenset[int]:
    """The cores this process may use."""
    return frozenset(os.sched_getaffinity(0))


@contextlib.contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """Processes started inside inherit this set of cores from their first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader must know to judge absolute figures."""

    cpu: str
    cores: int
    memory_mb: int
    system: str
    python: str

    def as_dict(self) -> dict[str, str | int]:
        """For the JSON file."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_mb} MB, {self.system}, {self.python}"


def describe() -> Machine:
    """Reads `/proc`."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory_kb = int(_lines("/proc/meminfo")[0].split()[1])
    return Machine(
        cpu=names[0] if names else platform.machine(),
        cores=len(available_cores()),
        memory_mb=memory_kb // 1024,
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


@dataclass(frozen=True, slots=True)
class BusyTimes:
    """Seconds that some cores were busy, and seconds that the host took from them, since the machine started."""

    busy_s: float
    stolen_s: float
    at_s: float

    @classmethod
    def read(cls, cores: frozenset[int]) -> BusyTimes:
        """From `/proc/stat`; its resolution is one clock tick per core."""
        busy = stolen = 0
        wanted = {f"cpu{core}" for core in cores}
        for line in _lines("/proc/stat"):
            name, *fields = line.split()
            if name in wanted:
                user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
                busy += user + nice + system + irq + softirq
                stolen += steal
        return cls(busy / TICKS_PER_S, stolen / TICKS_PER_S, time.monotonic())


def foreign_share(before: BusyTimes, after: BusyTimes, own_s: float, cores: int) -> float:
    """The share (0 to 1) of these cores that neither we nor idleness had between two readings."""
    available_s = (after.at_s - before.at_s) * cores
    foreign_s = after.busy_s - before.busy_s - own_s + after.stolen_s - before.stolen_s
    return min(1.0, max(0.0, foreign_s / available_s)) if available_s > 0 else 0.0

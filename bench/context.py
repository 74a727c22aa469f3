"""What a scenario is given: the tools, the bodies, how long to measure, and the subject."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.bodies import KeyOrder, chat_body
from bench.machine import BusyTimes, Cores, foreign_share
from bench.tools import BUILD, CHAT_PATH, LoadPlan, LoadResult, LoadRun, Mock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.instance import Instance

LEFTOVER_S = 10.0  # how long a slow proxy may work on requests whose clients have left
QUIET_POLL_S = 0.002
FOREIGN_MIN_S = 0.3  # below it the tick of /proc/stat is too coarse to tell


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how large to measure. The figures of `QUICK` show that things work, not how fast they are."""

    rounds: int
    seconds: float
    warmup_s: float
    latency_count: int
    uploads: int  # paced ones of each size
    repeats: int  # of each flat-out stream
    paced_chunks: int
    held: tuple[int, ...]
    open_streams: tuple[int, ...]
    idle_connections: int
    stuck_readers: int
    pairs: int  # of short windows with and without watching
    start_s: float = 3.0  # over which held streams are opened
    long_links: int = 3  # requests of each kind over a long link


FULL = Effort(
    rounds=3, seconds=2.0, warmup_s=0.4, latency_count=2000, uploads=6, repeats=4, paced_chunks=200,
    held=(0, 200, 1000, 3000), open_streams=(500, 3000), idle_connections=5000, stuck_readers=50, pairs=6,
)  # fmt: skip
QUICK = Effort(
    rounds=1, seconds=0.2, warmup_s=0.1, latency_count=200, uploads=1, repeats=1, paced_chunks=25,
    held=(0, 200), open_streams=(500,), idle_connections=500, stuck_readers=10, pairs=1, start_s=0.5, long_links=1,
)  # fmt: skip


class Faulty(Exception):
    """A scenario cannot be measured with this subject; the message is for the table."""


@dataclass(slots=True)
class Measurement:
    """Figures of one scenario by key, and what went wrong on the way."""

    figures: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    foreign_share: float = 0.0

    def check(self, result: LoadResult) -> None:
        """Notes errors, lost and reordered events."""
        if result.errors:
            self.faults.append(f"{result.errors} errors, first: {result.first_error.strip()}")
        if result.disordered:
            self.faults.append(f"{result.disordered} events lost or out of order")


@dataclass(frozen=True, slots=True)
class Target:
    """Where load goes: a rival's instance, or the mock itself (`instance` None)."""

    name: str
    address: str
    headers: tuple[str, ...] = ()
    instance: Instance | None = None

    def groups(self) -> dict[str, list[int]]:
        """Process groups whose CPU time the load client reads."""
        return {} if self.instance is None else {"proxy": self.instance.server.pids()}

    def require_instance(self) -> Instance:
        """For scenarios that make no sense without a proxy."""
        assert self.instance is not None, "this scenario has no direct form"
        return self.instance


class Bench:
    """One mock upstream and one load client, used for one measurement at a time."""

    def __init__(self, cores: Cores, effort: Effort, build: Path = BUILD) -> None:
        self.cores = cores
        self.effort = effort
        self.build = build
        self.mock = Mock(build / "run" / "mock", cores.mock, build)
        self.direct = Target("direct", f"127.0.0.1:{self.mock.port}{CHAT_PATH}")

    def close(self) -> None:
        """Stops the mock."""
        self.mock.server.stop()

    def wait_quiet(self, limit_s: float) -> int:
        """Waits until no proxy holds a stream of the mock any more; how many there are after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while (streams := self.mock.stats().active_streams) and time.monotonic() < deadline:
            time.sleep(QUIET_POLL_S)
        return streams

    def body(self, size_bytes: int, *, stream: bool = False, order: KeyOrder = "messages first") -> Path:
        """The file with a chat request of this size."""
        path = self.build / f"body-{size_bytes}-{'stream' if stream else 'plain'}-{order.split()[0]}.json"
        if not path.exists() or path.stat().st_size != size_bytes:
            path.write_bytes(chat_body(size_bytes, stream=stream, order=order))
        return path

    def load(
        self,
        measurement: Measurement,
        target: Target,
        mode: str,
        body: Path,
        options: Mapping[str, int | float],
        *,
        small: Path | None = None,
        paired: bool = False,
        moments: Mapping[str, Callable[[], None]] | None = None,
    ) -> LoadResult:
        """One run of the load client. `paired` sends every request straight to the mock as well.

        `moments`: what to do when a `hold` run says this line (`LoadRun.wait_for`). Faults and foreign load go into
        `measurement`.
        """
        plan = LoadPlan(
            mode, target.address, body,
            direct=self.direct.address if paired else None,
            small=small, headers=target.headers, options=options,
            groups={"mock": self.mock.server.pids(), **target.groups()},
        )  # fmt: skip
        if target.instance is not None:
            target.instance.server.wait_idle(LEFTOVER_S)
        before, own_before_s = BusyTimes.read(self.cores.all), self._own_cpu_s(target)
        run = LoadRun(plan, self.cores.load, self.build)
        for line, act in (moments or {}).items():
            run.wait_for(line)
            act()
        result = run.result()
        after, own_s = BusyTimes.read(self.cores.all), self._own_cpu_s(target) - own_before_s
        if after.at_s - before.at_s >= FOREIGN_MIN_S:
            share = foreign_share(before, after, own_s, len(self.cores.all))
            measurement.foreign_share = max(measurement.foreign_share, share)
        measurement.check(result)
        return result

    def _own_cpu_s(self, target: Target) -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        proxy_s = target.instance.server.cpu_s() if target.instance else 0.0
        return time.process_time() + children.ru_utime + children.ru_stime + self.mock.server.cpu_s() + proxy_s

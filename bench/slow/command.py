"""The command line of the slow clients, and what is measured beside them."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from bench.bodies import KIB
from bench.context import FULL, Bench, Measurement, Target
from bench.descriptors import connections_among, descriptors_of
from bench.instance import Instance
from bench.machine import available_cores, share_out
from bench.rivals.qproxy import qproxy
from bench.scenarios.base import sampled
from bench.slow.opener import Attack, Opener, Slowness, opener_for
from bench.tables import console_of
from bench.tools import BUILD, LoadResult, build_tools

COUNT = 1000
SECONDS = 5.0
RATIO_GOAL = 2.0
DEADLINE_S = 20.0  # a busy machine takes half of it until a thousand readers are stuck
OPEN_WITHIN_S = 20.0
GRACE_S = 5.0  # goodbyes take 2 s
LOOK_S = 0.1
STREAM_CHUNKS = 20_000  # about 4 MB: more than sockets hold on the way
BURST = 32
REQUESTS = 1_000_000  # more than a measurement has time for
WIDTH = 130
COLUMNS = (
    "slow", "by", "open", "all closed after, s", "p99 before, ms", "beside", "ratio", "direct before", "beside", "ok",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """So many slow clients of each kind, and two measurements of `seconds`. `deadline_s` is the proxy's for all that is
    slow: the second measurement must be over by then."""

    backend: str
    count: int = COUNT
    seconds: float = SECONDS
    deadline_s: float = DEADLINE_S

    def limit_s(self, slowness: Slowness) -> float:
        """When none of them may be open any more, counted from when all were. A reader's stall is looked for once in
        the deadline; and where the kernel has no memory for some, these get on when others are closed, and stall anew.
        """
        return self.deadline_s * (4 if slowness is Slowness.READER else 1) + GRACE_S

    def settings(self) -> dict[str, str]:
        """Environment variables. No client key, since slowhttptest cannot send one."""
        clocks = ("QPROXY_HEAD_S", "QPROXY_BODY_S", "QPROXY_WRITE_STALL_S")
        return {"QPROXY_API_KEY": "", **dict.fromkeys(clocks, str(self.deadline_s))}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of slow client. `held` is how many the proxy still had at the end of the measurement beside them;
    `closed_s` is when it had closed all of them, counted from when all were open; None: it never had.

    Times of the normal client: 99 of 100 of its requests were faster. `direct_*` are those of a client that goes
    straight to the mock, in the same moments: what the machine alone did.
    """

    slowness: str
    opener: str
    held: int
    closed_s: float | None
    before_ms: float
    beside_ms: float
    direct_before_ms: float
    direct_beside_ms: float

    @property
    def ratio(self) -> float:
        return self.beside_ms / self.before_ms

    def ok(self, plan: Plan) -> bool:
        """Whether the normal client was hardly slowed down, beside all of them, and each was closed in time."""
        is_ended = self.closed_s is not None and self.closed_s <= plan.limit_s(Slowness(self.slowness))
        return self.ratio < RATIO_GOAL and self.held >= plan.count and is_ended


def add_options(slow: argparse.ArgumentParser, backends: tuple[str, ...]) -> None:
    """Of `python -m bench slow`."""
    slow.add_argument("--count", type=int, default=COUNT, help="slow clients of each kind: %(default)s")
    slow.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement: %(default)g")
    slow.add_argument("--backend", choices=backends, default=backends[0])
    slow.add_argument("--json", type=Path, metavar="FILE", help="the rows")
    slow.set_defaults(action=slow_command)


def slow_command(options: argparse.Namespace) -> int:
    """1 where the normal client was slowed down, or a slow one was not closed."""
    plan = Plan(options.backend, options.count, options.seconds)
    rows = run(plan, options.build)
    show(plan, rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if all(row.ok(plan) for row in rows) else 1


def run(plan: Plan, build: Path = BUILD) -> list[Row]:
    """One row for each kind. Raises ToolError, StartError, Faulty."""
    build_tools(build)
    effort = replace(FULL, seconds=plan.seconds, latency_count=REQUESTS)
    bench = Bench(share_out(available_cores()), effort, build)
    try:
        return [_measure(bench, plan, slowness) for slowness in Slowness]
    finally:
        bench.close()


def _measure(bench: Bench, plan: Plan, slowness: Slowness) -> Row:
    """With a fresh proxy."""
    instance = Instance(qproxy(plan.backend, extra=plan.settings()), bench.mock.port, bench.cores.proxy, bench.build)
    instance.start()
    try:
        before = _latency(bench, instance)
        bench.mock.profile(chunks=STREAM_CHUNKS, burst=BURST)
        request = instance.request_bytes(bench.body(KIB, stream=slowness is Slowness.READER).read_bytes())
        opener = opener_for(Attack(slowness, instance.site.port, plan.count, request), bench.cores.load)
        with _open(opener):
            _until(lambda: _held(instance) >= plan.count, time.monotonic() + OPEN_WITHIN_S)
            begun = time.monotonic()
            beside = _latency(bench, instance)
            held = _held(instance)
            is_over = _until(lambda: not _held(instance), begun + plan.limit_s(slowness))
            closed_s = time.monotonic() - begun if is_over else None
    finally:
        instance.stop()
    return Row(
        slowness.value, opener.name, held, closed_s, sampled(before.latency_ms, before).p99,
        sampled(beside.latency_ms, beside).p99, sampled(before.direct_ms, before).p99,
        sampled(beside.direct_ms, beside).p99,
    )  # fmt: skip


@contextlib.contextmanager
def _open(opener: Opener) -> Iterator[None]:
    try:
        opener.start()
        yield
    finally:
        opener.stop()


def _held(instance: Instance) -> int:
    """The proxy's connections to clients."""
    connections = connections_among(descriptors_of(instance.server.pids()))
    return sum(local == instance.site.port for local, _ in connections)


def _until(is_so: Callable[[], bool], deadline: float) -> bool:
    """Whether it was so before the deadline; returns as soon as it is."""
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _latency(bench: Bench, instance: Instance) -> LoadResult:
    target = Target(instance.rival.name, instance.target, instance.command.headers, instance)
    effort = bench.effort
    options = {"seconds": effort.seconds, "warmup": effort.warmup_s, "count": effort.latency_count}
    return bench.load(Measurement(), target, "latency", bench.body(KIB), options, paired=True)


def show(plan: Plan, rows: list[Row]) -> None:
    """The short table."""
    table = Table(title=f"a client beside {plan.count:,} slow ones; the proxy's deadlines are {plan.deadline_s:g} s")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.slowness, row.opener, f"{row.held:,}", "-" if row.closed_s is None else f"{row.closed_s:.1f}",
            f"{row.before_ms:.2f}", f"{row.beside_ms:.2f}", f"{row.ratio:.2f}",
            f"{row.direct_before_ms:.2f}", f"{row.direct_beside_ms:.2f}", "ok" if row.ok(plan) else "NO",
        )  # fmt: skip
    console_of(WIDTH).print(table)

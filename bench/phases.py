"""`python -m bench profile`: where the CPU time of a request, or of a chunk, goes.

qproxy runs under `bench.profiled`, which samples its stack; every sample goes to the phase of the innermost function
that `PHASES` knows. The microseconds are the samples' shares of the CPU time per piece, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from bench.bodies import KIB
from bench.context import FULL, Bench, Measurement, Target
from bench.instance import Instance
from bench.machine import available_cores, share_out
from bench.processes import StartError
from bench.rivals.base import Command, Rival, Site
from bench.rivals.qproxy import ThisRepository, serve_argv, serve_env
from bench.scenarios import t1_small, t3_flat_out, t4_paced
from bench.tables import console_of
from bench.tools import LoadResult, ToolError, build_tools

DUMP_S = 20.0
SAMPLES_MIN = 100
PROFILE_WIDTH = 140
T3_REPEATS_PER_S = 5  # about what two cores do
REST = "loop"
Function = tuple[str, str]  # file, qualified name
Stack = tuple[Function, ...]  # innermost first


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """Functions of one file of qproxy, or of all whose paths begin so, that belong to a phase; none named: all that no
    earlier row took."""

    phase: str
    path: str
    functions: frozenset[str] = frozenset()


def _row(phase: str, path: str, functions: str = "") -> PhaseRow:
    return PhaseRow(phase, path, frozenset(functions.split()))


# Shared parts such as Stream.put are left out on purpose: they count for whoever called them. So does a function that
# is missing here: when a name changes, the table errs only in detail.
PHASES: tuple[PhaseRow, ...] = (
    _row("parse", "core/http1.py"),
    _row("parse", "core/known_heads.py"),
    _row("parse", "core/replay.py"),
    _row("parse", "core/jsonscan.py"),
    _row("serialise", "core/splice.py", "apply _patched"),
    _row("parse", "core/splice.py"),
    _row("parse", "edge/connection.py"),
    _row("route", "core/route.py"),
    _row("route", "core/admit.py"),
    _row("route", "core/models.py"),
    _row("route", "edge/attempts"),
    _row("route", "edge/intake.py"),
    _row("route", "edge/proxy.py"),
    _row("lease", "core/account"),
    _row("lease", "core/affinity"),
    _row("lease", "core/rotation"),
    _row("lease", "edge/accounts"),
    _row("lease", "edge/credentials"),
    _row("lease", "edge/pool"),
    _row("lease", "edge/token"),
    _row("lease", "edge/upstreams.py", "_line _pool _base_of"),
    _row("serialise", "core/outgoing.py"),
    _row("serialise", "edge/upstreams.py"),
    _row("send", "edge/http11.py", "handle_async_request _send _send_live _connect"),
    _row("wait", "edge/http11.py", "_read_head _read_one_head"),
    _row("wait", "edge/streams.py", "look_again fill data_received set_clock stop_clock"),
    _row("wait", "edge/runtime", "wait wake"),
    _row("relay", "core/framing.py"),
    _row("relay", "core/sse.py"),
    _row("relay", "core/outcome.py"),
    _row("relay", "edge/pump.py"),
    _row("relay", "edge/http11.py"),
    _row("relay", "edge/delivery.py"),
    _row("settle", "core/counts"),
    _row("settle", "core/exchange.py"),
    _row("settle", "core/usage"),
    _row("settle", "edge/services.py"),
    _row("settle", "edge/log.py"),
)
ORDER = ("parse", "route", "lease", "serialise", "send", "wait", "relay", "settle", REST)


# The functions that run the loops' callbacks and tasks: what stands further out calls everything and explains nothing.
LOOPS = frozenset({
    ("runners.py", "Runner.run"), ("base_events.py", "BaseEventLoop._run_once"), ("_run.py", "unrolled_run"),
})  # fmt: skip


def phase_of(stack: Stack) -> str:
    """That of the innermost function which the table knows, up to the event loop."""
    for file, qualified_name in stack:
        if (Path(file).name, qualified_name) in LOOPS:
            return REST
        phase = _phase_of_function(file, qualified_name)
        if phase is not None:
            return phase
    return REST


def _phase_of_function(file: str, qualified_name: str) -> str | None:
    _, found, inside = file.replace("\\", "/").rpartition("/qproxy/")
    if not found:
        return None
    name = qualified_name.rpartition(".")[2]
    for row in PHASES:
        if inside.startswith(row.path) and (not row.functions or name in row.functions):
            return row.phase
    return None


@dataclass(frozen=True, slots=True)
class Profile:
    """What was sampled while `pieces` requests or chunks took `cpu_s` of the proxy's CPU time."""

    samples: Counter[Stack]
    cpu_s: float
    pieces: int

    @property
    def each_us(self) -> float:
        """Microseconds of CPU time per piece."""
        return self.cpu_s * 1e6 / self.pieces

    def by_phase(self) -> dict[str, Counter[Function]]:
        """Samples by phase, and within it by the function that ran."""
        phases: dict[str, Counter[Function]] = {}
        for stack, count in self.samples.items():
            phases.setdefault(phase_of(stack), Counter())[stack[0] if stack else ("", REST)] += count
        return phases


def read_samples(path: Path) -> Counter[Stack]:
    """The file of `bench.profiled`."""
    rows = json.loads(path.read_text())
    return Counter({tuple((file, name) for file, name in stack): count for count, stack in rows})


def profile_command(options: argparse.Namespace) -> int:
    """1 where qproxy does not start."""
    build_tools(options.build)
    bench = Bench(share_out(available_cores()), replace(FULL, seconds=options.seconds), options.build)
    try:
        profile = _profile(options.scenario, options.backend, bench)
    except StartError as exc:
        print(f"bench: qproxy: {exc}", file=sys.stderr)
        return 1
    finally:
        bench.close()
    _show(profile, "request" if options.scenario == "T1" else "chunk")
    return 0


def _sampled(backend: str, samples_file: Path) -> Rival:
    def command(site: Site) -> Command:
        argv = (sys.executable, "-m", "bench.profiled", str(samples_file), *serve_argv(site, backend))
        return Command(argv, serve_env(site))

    return Rival("qproxy", "sampled", ThisRepository(), command)


def _profile(scenario: str, backend: str, bench: Bench) -> Profile:
    samples_file = bench.build / "samples.json"
    samples_file.unlink(missing_ok=True)
    instance = Instance(_sampled(backend, samples_file), bench.mock.port, bench.cores.proxy, bench.build)
    instance.start()
    try:
        target = Target(instance.rival.name, instance.target, instance.command.headers, instance)
        instance.server.send_signal(signal.SIGUSR1)
        result = _load(scenario, bench, target)
        instance.server.send_signal(signal.SIGUSR2)
        _await_file(samples_file)
    finally:
        instance.stop()
    pieces = result.requests if scenario == "T1" else result.events
    if not pieces:
        raise ToolError(f"nothing came through: {result.first_error}")
    return Profile(read_samples(samples_file), result.cpu_s["proxy"], pieces)


def _load(scenario: str, bench: Bench, target: Target) -> LoadResult:
    into, stream_body, seconds = Measurement(), bench.body(KIB, stream=True), bench.effort.seconds
    if scenario == "T1":
        options = {"connections": t1_small.CONNECTIONS[1], "seconds": seconds, "warmup": bench.effort.warmup_s}
        return bench.load(into, target, "rps", bench.body(KIB), options)
    if scenario == "T3":
        repeats = int(seconds * T3_REPEATS_PER_S)
        bench.mock.profile(chunks=t3_flat_out.CHUNKS)
        options = {
            "connections": t3_flat_out.STREAMS, "repeat": repeats, "chunks": t3_flat_out.CHUNKS,
            "timeout": seconds * 10,
        }  # fmt: skip
        return bench.load(into, target, "streams", stream_body, options)
    chunks = int(seconds * t4_paced.PACE)
    bench.mock.profile(chunks=chunks, pace=t4_paced.PACE)
    options = {"connections": t4_paced.STREAMS, "chunks": chunks, "ramp": t4_paced.RAMP_S, "timeout": seconds * 10}
    return bench.load(into, target, "streams", stream_body, options)


def _await_file(path: Path) -> None:
    deadline = time.monotonic() + DUMP_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise ToolError("the samples were not written")
        time.sleep(0.05)


def _show(profile: Profile, piece: str) -> None:
    phases, total = profile.by_phase(), profile.samples.total()
    if total < SAMPLES_MIN:
        raise ToolError(f"only {total} samples: use more --seconds")
    table = Table(title=f"where the {profile.each_us:.1f} µs of CPU time per {piece} go")
    for name in ("phase", "µs", "±", "share", "most of it in"):
        table.add_column(name, justify="right" if name in ("µs", "±", "share") else "left")
    for phase in ORDER:
        functions = phases.get(phase, Counter())
        share = functions.total() / total
        error = math.sqrt(share * (1 - share) / total)  # of a count of independent samples
        names = ", ".join(f"{_name(*function)} {count / total:.1%}" for function, count in functions.most_common(4))
        table.add_row(phase, f"{share * profile.each_us:.1f}", f"{error * profile.each_us:.1f}", f"{share:.1%}", names)
    console = console_of(PROFILE_WIDTH)
    console.print(table)
    console.print(
        f"From {total} samples of the running proxy; ± is what chance does to them. `{REST}` is the event loop with "
        "the system calls that it makes itself, reading above all, and whatever no phase called."
    )


def _name(file: str, qualified_name: str) -> str:
    _, found, inside = file.rpartition("/qproxy/")
    return f"{inside if found else Path(file).name}:{qualified_name}"

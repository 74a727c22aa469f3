"""`python -m bench profile`: where the CPU time of a request, or of a chunk, goes.

Where qproxy keeps time by phase itself, those figures are shown: with `QPROXY_PROFILE=FILE` it writes, at its end,
{"requests": N, "phases_us": {phase: mean microseconds}}. Else it runs under cProfile, and every function's own time
goes to the phase that `PHASES` gives it; a function that is not there (a builtin, a library) counts for its callers.
"""

from __future__ import annotations

import argparse
import json
import pstats
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.bodies import KIB
from bench.context import FULL, Bench, Measurement, Target
from bench.instance import Instance
from bench.machine import available_cores, share_out
from bench.processes import StartError
from bench.rivals.base import Command, Rival, Site
from bench.rivals.qproxy import ThisRepository, qproxy, serve_argv, serve_env
from bench.scenarios import t1_small, t3_flat_out, t4_paced
from bench.tools import BUILD, LoadResult, ToolError, build_tools

DUMP_S = 20.0
REST = "loop"
PASSES = 30  # longer than any chain of calls below a function of the table
FunctionId = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """Functions of one file of qproxy that belong to a phase; none named: all that no earlier row took."""

    phase: str
    file: str
    functions: frozenset[str] = frozenset()


def _row(phase: str, file: str, functions: str = "") -> PhaseRow:
    return PhaseRow(phase, file, frozenset(functions.split()))


# Shared parts such as Stream.put are left out on purpose: they count for whoever called them.
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
    _row("route", "edge/intake.py"),
    _row("route", "edge/proxy.py"),
    _row("lease", "edge/pool.py"),
    _row("lease", "edge/credentials.py"),
    _row("lease", "edge/upstreams.py", "_line _pool _base_of"),
    _row("serialise", "core/outgoing.py"),
    _row("serialise", "edge/upstreams.py"),
    _row("send", "edge/http11.py", "handle_async_request _send _send_live _connect"),
    _row("wait", "edge/http11.py", "_read_head _read_one_head"),
    _row("wait", "edge/streams.py", "look_again fill data_received set_clock stop_clock"),
    _row("wait", "edge/runtime.py"),
    _row("wait", "edge/runtime_trio.py"),
    _row("relay", "core/framing.py"),
    _row("relay", "core/sse.py"),
    _row("relay", "core/outcome.py"),
    _row("relay", "edge/pump.py"),
    _row("relay", "edge/http11.py"),
    _row("relay", "edge/delivery.py"),
    _row("settle", "core/exchange.py"),
    _row("settle", "edge/services.py"),
    _row("settle", "edge/log.py"),
)
ORDER = ("parse", "route", "lease", "serialise", "send", "wait", "relay", "settle", REST)


def phase_of(function: FunctionId) -> str | None:
    """None where the table does not know it."""
    file, _, name = function
    _, found, inside = file.replace("\\", "/").rpartition("/qproxy/")
    if not found:
        return None
    for row in PHASES:
        if inside == row.file and (not row.functions or name in row.functions):
            return row.phase
    return None


Callers = Mapping[FunctionId, tuple[int, int, float, float]]
Mix = dict[str, float]  # shares of 1, by phase
Stats = Mapping[FunctionId, tuple[int, int, float, float, Callers]]


def by_phase(stats: Stats) -> dict[str, dict[FunctionId, float]]:
    """Seconds of own time, by phase and function."""
    mixes = _mixes(stats)
    phases: dict[str, dict[FunctionId, float]] = {}
    for function, (_, _, own_s, _, _) in stats.items():
        for phase, share in mixes[function].items():
            phases.setdefault(phase, {})[function] = own_s * share
    return phases


def _mixes(stats: Stats) -> dict[FunctionId, Mix]:
    """Which phases a function works for: its own, else those of its callers by the time they spent in it.

    Callers of callers take one pass each; what only calls itself stays with the rest.
    """
    mixes: dict[FunctionId, Mix] = {}
    for function, (_, _, _, _, callers) in stats.items():
        phase = phase_of(function)
        if phase is not None or not callers:
            mixes[function] = {phase or REST: 1.0}
    undecided = [function for function in stats if function not in mixes]
    for _ in range(PASSES):
        for function in undecided:
            mix = _mix_of_callers(stats[function][4], mixes)
            if mix:
                mixes[function] = mix
    return {function: mixes.get(function, {REST: 1.0}) for function in stats}


def _mix_of_callers(callers: Callers, mixes: Mapping[FunctionId, Mix]) -> Mix:
    """Empty where nothing is known of any of them yet."""
    known = {caller: row[2] for caller, row in callers.items() if caller in mixes}
    total_s = sum(known.values())
    if total_s <= 0:
        known, total_s = dict.fromkeys(known, 1.0), float(len(known))
    mix: Mix = {}
    for caller, spent_s in known.items():
        for phase, share in mixes[caller].items():
            mix[phase] = mix.get(phase, 0.0) + share * spent_s / total_s
    return mix


def _name(function: FunctionId) -> str:
    file, line, name = function
    place = file.rpartition("/qproxy/")[2] if "/qproxy/" in file else Path(file).name
    return name if not line else f"{place}:{name}"


def profile_command(options: argparse.Namespace) -> int:
    """1 where qproxy does not start."""
    build_tools()
    cores = share_out(available_cores())
    bench = Bench(cores, replace(FULL, seconds=options.seconds))
    try:
        return _profile(options.scenario, options.backend, bench)
    except StartError as exc:
        print(f"bench: qproxy: {exc}", file=sys.stderr)
        return 1
    finally:
        bench.close()


def _profile(scenario: str, backend: str, bench: Bench) -> int:
    piece = "request" if scenario == "T1" else "chunk"
    own = _own_phases(scenario, backend, bench)
    if own is not None:
        _show_own(own, piece)
        return 0
    plain = _measure(qproxy(backend), scenario, bench)
    stats_file = BUILD / "profile.stats"
    stats_file.unlink(missing_ok=True)
    profiled = _measure(_profiled(backend, stats_file), scenario, bench, stats_file)
    _show_cprofile(stats_file, piece, plain, profiled)
    return 0


def _own_phases(scenario: str, backend: str, bench: Bench) -> dict[str, float] | None:
    """Microseconds by phase; None where qproxy does not know the variable."""
    phases_file = BUILD / "phases.json"
    phases_file.unlink(missing_ok=True)
    try:
        _measure(qproxy(backend, extra={"QPROXY_PROFILE": str(phases_file)}), scenario, bench)
    except StartError:
        return None
    if not phases_file.exists():
        return None
    phases_us: dict[str, float] = json.loads(phases_file.read_text())["phases_us"]
    return phases_us


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of the proxy, and for how many requests or chunks."""

    cpu_s: float
    pieces: int

    @property
    def each_us(self) -> float:
        """Microseconds per piece."""
        return self.cpu_s * 1e6 / self.pieces


def _profiled(backend: str, stats_file: Path) -> Rival:
    def command(site: Site) -> Command:
        argv = (sys.executable, "-m", "bench.profiled", str(stats_file), *serve_argv(site, backend))
        return Command(argv, serve_env({}))

    return Rival("qproxy", "under cProfile", ThisRepository(), command)


def _measure(rival: Rival, scenario: str, bench: Bench, stats_file: Path | None = None) -> Cost:
    """With `stats_file` the profile runs meanwhile."""
    instance = Instance(rival, bench.mock.port, bench.cores.proxy)
    instance.start()
    try:
        target = Target(rival.name, instance.target, instance.command.headers, instance)
        if stats_file is not None:
            instance.server.send_signal(signal.SIGUSR1)
        result = _load(scenario, bench, target)
        if stats_file is not None:
            instance.server.send_signal(signal.SIGUSR2)
            _await_file(stats_file)
    finally:
        instance.stop()
    pieces = result.requests if scenario == "T1" else result.events
    if not pieces:
        raise ToolError(f"nothing came through: {result.first_error}")
    return Cost(result.cpu_s["proxy"], pieces)


def _load(scenario: str, bench: Bench, target: Target) -> LoadResult:
    into, stream_body, seconds = Measurement(), bench.body(KIB, stream=True), bench.effort.seconds
    if scenario == "T1":
        options = {"connections": t1_small.CONNECTIONS[1], "seconds": seconds, "warmup": bench.effort.warmup_s}
        return bench.load(into, target, "rps", bench.body(KIB), options)
    if scenario == "T3":
        bench.mock.profile(chunks=t3_flat_out.CHUNKS)
        options = {"connections": t3_flat_out.STREAMS, "repeat": 10, "chunks": t3_flat_out.CHUNKS, "timeout": 60}
        return bench.load(into, target, "streams", stream_body, options)
    chunks = int(seconds * t4_paced.PACE)
    bench.mock.profile(chunks=chunks, pace=t4_paced.PACE)
    options = {"connections": t4_paced.STREAMS, "chunks": chunks, "ramp": t4_paced.RAMP_S, "timeout": seconds * 10}
    return bench.load(into, target, "streams", stream_body, options)


def _await_file(path: Path) -> None:
    deadline = time.monotonic() + DUMP_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise ToolError("the profile was not written")
        time.sleep(0.05)


def _show_own(phases_us: Mapping[str, float], piece: str) -> None:
    total_us = sum(phases_us.values())
    table = Table(title=f"µs per {piece}, from qproxy's own clocks")
    for name in ("phase", "µs", "share"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase, value in phases_us.items():
        table.add_row(phase, f"{value:.1f}", f"{value / total_us:.1%}")
    Console().print(table)


def _show_cprofile(stats_file: Path, piece: str, plain: Cost, profiled: Cost) -> None:
    raw: Stats = pstats.Stats(str(stats_file)).stats  # type: ignore[attr-defined]
    phases = by_phase(raw)
    total_s = sum(sum(functions.values()) for functions in phases.values())
    table = Table(title=f"where the {plain.each_us:.1f} µs of CPU time per {piece} go")
    for name in ("phase", "share", "≈ µs", "most of it in"):
        table.add_column(name, justify="right" if name in ("share", "≈ µs") else "left")
    for phase in ORDER:
        functions = phases.get(phase, {})
        share = sum(functions.values()) / total_s
        top = sorted(functions, key=lambda function: -functions[function])[:4]
        names = ", ".join(f"{_name(function)} {functions[function] / total_s:.1%}" for function in top)
        table.add_row(phase, f"{share:.1%}", f"{share * plain.each_us:.1f}", names)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Shares are from cProfile, which slowed the {piece} from {plain.each_us:.1f} to {profiled.each_us:.1f} µs: "
        "code of many small calls looks dearer than it is. The µs are those shares of the undisturbed time, so an "
        f"estimate. `{REST}` is the event loop with its system calls, and whatever no phase called; uvloop's own code "
        "is not seen."
    )

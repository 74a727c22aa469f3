"""One run: start the subjects, measure them in turns, round by round, stop them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.context import FULL, Bench, Effort, Faulty, Measurement, Target
from bench.instance import Instance
from bench.machine import Cores, available_cores, describe, share_out
from bench.processes import StartError
from bench.results import DIRECT, Run, Sample, Subject
from bench.rivals.base import Rival
from bench.scenarios import SCENARIOS
from bench.scenarios.base import Scenario
from bench.tools import BUILD, ToolError, build_tools

Report = Callable[[str], None]
QUIET_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    rivals: tuple[Rival, ...]
    scenarios: tuple[str, ...]
    effort: Effort = FULL
    effort_name: str = "full"
    command: str = ""


@dataclass(slots=True)
class _Session:
    """The parts of one run while it goes on."""

    plan: Plan
    bench: Bench
    run: Run
    report: Report
    instances: dict[str, Instance] = field(default_factory=dict)


def execute(plan: Plan, report: Report, build: Path = BUILD) -> Run:
    """Measures everything; whatever was started is stopped, also after an interruption."""
    build_tools(build)
    cores = share_out(available_cores(), workers=max(rival.workers for rival in plan.rivals))
    run = Run(plan.command, describe().as_dict(), _pinning(cores), plan.effort_name)
    run.subjects.append(Subject(DIRECT, "load client straight to the mock upstream", ""))
    bench = Bench(cores, plan.effort, build)
    session = _Session(plan, bench, run, report)
    try:
        for rival in plan.rivals:
            _start(session, rival)
        for round_ in range(plan.effort.rounds):
            _round(session, round_)
    finally:
        for instance in session.instances.values():
            instance.stop()
        bench.close()
    return run


def _pinning(cores: Cores) -> str:
    if not cores.separate:
        return "one core for everything: CPU figures hold, rates and latencies do not"
    names = (("proxy", cores.proxy), ("mock", cores.mock), ("load", cores.load))
    return ", ".join(f"{name} on core {'+'.join(map(str, sorted(group)))}" for name, group in names)


def _start(session: _Session, rival: Rival) -> None:
    """A rival that does not start is kept with its reason. One that waits for its turn is paused."""
    session.report(f"start {rival.name}")
    proxy_cores = frozenset(sorted(session.bench.cores.proxy)[-rival.workers :])
    instance = Instance(rival, session.bench.mock.port, proxy_cores, session.bench.build)
    problem = version = ""
    try:
        instance.start()
        version = rival.packages.version(instance.site.prefix)
        instance.server.pause()
        session.instances[rival.name] = instance
    except StartError as exc:
        problem = str(exc)
        session.report(f"{rival.name} is not measured: {problem}")
    session.run.subjects.append(Subject(rival.name, rival.about, version, problem))


def _round(session: _Session, round_: int) -> None:
    """Every scenario with every subject; who comes first changes from round to round."""
    names = list(session.instances)
    shift = round_ % len(names) if names else 0
    for scenario_name in session.plan.scenarios:
        scenario = SCENARIOS[scenario_name]
        if scenario.has_direct_form:
            _measure(session, round_, scenario, session.bench.direct)
        for name in names[shift:] + names[:shift]:
            _take_turn(session, round_, scenario, session.instances[name])


def _take_turn(session: _Session, round_: int, scenario: Scenario, instance: Instance) -> None:
    name = instance.rival.name
    try:
        if not instance.running:
            instance.restart()
        instance.server.resume()
        _measure(session, round_, scenario, Target(name, instance.target, instance.command.headers, instance))
        if session.bench.wait_quiet(QUIET_S):  # the mock would go on feeding what this proxy has not let go of
            instance.restart()
        if instance.running:
            instance.server.pause()
    except StartError as exc:
        session.run.samples.append(Sample(scenario.name, name, round_, {}, [f"did not start again: {exc}"]))


def _measure(session: _Session, round_: int, scenario: Scenario, target: Target) -> None:
    session.report(
        f"round {round_ + 1} of {session.plan.effort.rounds}: {scenario.name} {scenario.title}, {target.name}"
    )
    into = Measurement()
    try:
        scenario.measure(session.bench, target, into)
    except (Faulty, ToolError, OSError) as exc:
        into.faults.append(str(exc))
    session.run.samples.append(
        Sample(scenario.name, target.name, round_, into.figures, into.faults, round(into.foreign_share, 3))
    )

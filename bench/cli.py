"""`python -m bench run | compare | show | profile | soak | slow | install`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench import charts, lag, tables
from bench.compare import compare, worsened
from bench.context import FULL, QUICK
from bench.goals import judge
from bench.machine import describe
from bench.phases import profile_command
from bench.ratios import RatioSet
from bench.results import QPROXY, Run
from bench.rivals import RIVALS
from bench.rivals.base import InstallError, Rival
from bench.rivals.qproxy import busy_qproxy, judged_qproxy, qproxy
from bench.runner import Plan, execute
from bench.scenarios import SCENARIOS
from bench.slow import command as slow
from bench.soak import command as soak
from bench.tools import BUILD, ToolError

BACKENDS = ("uvloop", "asyncio", "trio")


def main(argv: list[str]) -> int:
    """The exit status: 0, 1 where something got worse or did not run, 2 where the command cannot be carried out."""
    options = parser().parse_args(argv)
    try:
        status: int = options.action(options)
    except (ToolError, ValueError, OSError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    return status


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    built = argparse.ArgumentParser(add_help=False)
    built.add_argument(
        "--build", type=_folder, default=BUILD, metavar="DIR", help="of tools, rivals and logs: %(default)s"
    )
    _run_options(commands.add_parser("run", parents=[built], help="measure qproxy, and rivals beside it"))
    both = commands.add_parser("compare", help="two results or baselines: exit status 1 where a ratio got worse")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    both.set_defaults(action=compare_command)
    show = commands.add_parser("show", help="print the tables of a result again")
    show.add_argument("result", type=Path)
    show.add_argument("--svg", type=Path, metavar="DIR", help="write the charts")
    show.add_argument("--markdown", action="store_true", help="the table of the README instead")
    show.set_defaults(action=show_command)
    profile = commands.add_parser("profile", parents=[built], help="where a request's microseconds go")
    profile.add_argument("scenario", choices=("T1", "T3", "T4"))
    profile.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    profile.add_argument("--seconds", type=float, default=10.0)
    profile.set_defaults(action=profile_command)
    soak.add_options(commands.add_parser("soak", parents=[built], help="faults at random, and what they did"), BACKENDS)
    slow.add_options(commands.add_parser("slow", parents=[built], help="one client beside 1,000 slow ones"), BACKENDS)
    lag.add_options(commands.add_parser("lag", help="the event loop while tokens are counted beside it"), BACKENDS)
    install = commands.add_parser("install", parents=[built], help="fetch rivals")
    install.add_argument("names", nargs="+", choices=("all", *RIVALS))
    install.set_defaults(action=install_command)
    return top


def _run_options(run: argparse.ArgumentParser) -> None:
    what = run.add_argument_group("what to measure")
    names, scenarios = names_of(tuple(RIVALS)), names_of(tuple(SCENARIOS))
    what.add_argument("--against", type=names, default=(), metavar="NAME,...", help=f"all, or {', '.join(RIVALS)}")
    what.add_argument("--scenarios", type=scenarios, default=tuple(SCENARIOS), metavar="T1,...", help="default: all")
    what.add_argument("--quick", action="store_true", help="short: shows that everything works, its times say little")
    what.add_argument("--rounds", type=int, metavar="N", help=f"default: {FULL.rounds}, quick {QUICK.rounds}")
    own = run.add_argument_group("forms of qproxy; the first loop and the first count are judged")
    own.add_argument("--backend", type=names_of(BACKENDS), default=BACKENDS[:1], metavar="LOOP,...")
    own.add_argument("--workers", type=_numbers, default=(1,), metavar="N,...")
    own.add_argument(
        "--variant", type=_variant, action="append", default=[], metavar="NAME:VAR=VALUE,...",
        help="one more qproxy, with these environment variables",
    )  # fmt: skip
    own.add_argument(
        "--everything", action="store_true", help="one more: two sticky accounts, a rename, tokens counted"
    )
    output = run.add_argument_group("output beside the tables")
    output.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    output.add_argument("--ratios", type=Path, metavar="FILE", help="the ratios alone: a baseline for compare")
    output.add_argument("--svg", type=Path, metavar="DIR", help="the charts")
    run.set_defaults(action=run_command)


def _folder(text: str) -> Path:
    """Absolute: what is started works in folders of its own."""
    return Path(text).absolute()


def names_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """An argument type: names separated by commas, or `all`."""

    def names(text: str) -> tuple[str, ...]:
        chosen = known if text == "all" else tuple(part.strip() for part in text.split(",") if part.strip())
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return chosen

    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _variant(text: str) -> tuple[str, dict[str, str]]:
    name, _, assignments = text.partition(":")
    pairs = [part.partition("=") for part in assignments.split(",") if part]
    if not name or not pairs or any(not equals for _, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} does not look like NAME:VAR=VALUE,...")
    return name, {variable: value for variable, _, value in pairs}


def own_subjects(options: argparse.Namespace) -> list[Rival]:
    """Every loop and worker count; the first of both is `qproxy`, variants are like it."""
    first_backend, first_workers = options.backend[0], options.workers[0]
    subjects = [judged_qproxy(first_backend, first_workers)]
    for backend in options.backend:
        for workers in options.workers:
            if (backend, workers) != (first_backend, first_workers):
                name = f"{QPROXY}@{backend}" + (f"*{workers}" if workers != first_workers else "")
                subjects.append(qproxy(backend, name=name, workers=workers))
    for name, extra in options.variant:
        subjects.append(qproxy(first_backend, name=f"{QPROXY}@{name}", workers=first_workers, extra=extra))
    if options.everything:
        subjects.append(busy_qproxy(first_backend, first_workers))
    return subjects


def run_command(options: argparse.Namespace) -> int:
    """1 where qproxy itself could not be measured."""
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = replace(effort, rounds=options.rounds)
    rivals = (*own_subjects(options), *(RIVALS[name] for name in options.against))
    command = "python -m bench " + shlex.join(sys.argv[1:])
    plan = Plan(rivals, options.scenarios, effort, "quick" if options.quick else "full", command)
    run = execute(plan, lambda line: print(line, file=sys.stderr, flush=True), options.build)
    if options.json:
        run.write(options.json)
    if options.ratios:
        RatioSet.of(run).write(options.ratios, command, str(describe()))
    _show(run, options.svg)
    return 0 if _was_measured(run, options.scenarios) else 1


def _was_measured(run: Run, scenarios: tuple[str, ...]) -> bool:
    found = {sample.scenario for sample in run.samples if sample.subject == QPROXY and sample.figures}
    return found >= set(scenarios)


def _show(run: Run, svg: Path | None) -> None:
    console = tables.console_of(tables.figures_width(len(run.measured())))
    console.print(run.command)
    console.print(", ".join(f"{name} {value}" for name, value in run.machine.items()))
    console.print(run.pinning)
    for subject in run.subjects:
        version = f"{subject.version}, " if subject.version else ""
        console.print(f"{subject.name}: {version}{subject.about}", markup=False)
    console.print(tables.figures_table(run))
    console.print(tables.goals_table(judge(run)))
    for line in tables.notes(run):
        console.print(line, markup=False)
    for path in charts.write_charts(run, svg) if svg else []:
        console.print(f"wrote {path}", markup=False)


def show_command(options: argparse.Namespace) -> int:
    """The tables of an earlier run."""
    run = Run.read(options.result)
    if options.markdown:
        print(tables.markdown_table(run))
    else:
        _show(run, options.svg)
    return 0


def compare_command(options: argparse.Namespace) -> int:
    """1 where a ratio got worse by more than its noise, or is gone; 2 where there is nothing to compare."""
    before, after = RatioSet.read(options.before), RatioSet.read(options.after)
    rows = compare(before, after)
    console = tables.console_of(tables.comparison_width())
    console.print(tables.comparison_table(rows))
    if before.effort != after.effort:
        console.print(f"note: {options.before} is a {before.effort} run, {options.after} a {after.effort} one")
    if all(row.change == "new" for row in rows):
        print("bench: nothing to compare", file=sys.stderr)
        return 2
    return 1 if worsened(rows) else 0


def install_command(options: argparse.Namespace) -> int:
    """1 where one of them could not be had."""
    names = list(RIVALS) if "all" in options.names else options.names
    status = 0
    for name in names:
        prefix = options.build / name
        try:
            RIVALS[name].packages.install(prefix)
        except InstallError as exc:
            print(f"{name}: {exc}")
            status = 1
        else:
            print(f"{name}: {RIVALS[name].packages.version(prefix)}")
    return status

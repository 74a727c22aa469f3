"""The command line of the soak."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import anyio

from bench.soak import verdict
from bench.soak.storm import Plan, Soaked, Storm
from bench.tables import console_of

MINUTES = 10.0
SEED = 1
WIDTH = 120


def add_options(soak: argparse.ArgumentParser, backends: tuple[str, ...]) -> None:
    """Of `python -m bench soak`."""
    soak.add_argument("--minutes", type=float, default=MINUTES, help="of storm: %(default)g")
    soak.add_argument("--seed", type=int, default=SEED, help="the same one draws the same requests: %(default)s")
    soak.add_argument("--backend", choices=backends, default=backends[0])
    soak.add_argument("--json", type=Path, metavar="FILE", help="everything that was counted")
    soak.set_defaults(action=soak_command)


def soak_command(options: argparse.Namespace) -> int:
    """1 where anything was not right."""
    folder = options.build / "run" / "soak"
    report = partial(print, file=sys.stderr, flush=True)
    plan = Plan(options.minutes * 60, options.seed, options.backend, folder, report)
    soaked = run(plan)
    show(plan, soaked)
    if options.json:
        options.json.write_text(json.dumps(verdict.as_json(plan, soaked), indent=1) + "\n")
    return 0 if all(check.ok for check in verdict.checks(soaked)) else 1


def run(plan: Plan) -> Soaked:
    """One soak, on a loop of its own."""
    return anyio.run(Storm(plan).run)


def show(plan: Plan, soaked: Soaked) -> None:
    """The short table, and what is known of whatever went wrong."""
    console = console_of(WIDTH)
    for line in verdict.summary(plan, soaked):
        console.print(line, markup=False)
    console.print(verdict.memory_table(soaked))
    console.print(verdict.checks_table(soaked))
    for line in verdict.evidence(soaked):
        console.print(line, markup=False)
    console.print(f"logs: {plan.folder}", markup=False)

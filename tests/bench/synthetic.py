"""Runs that were never run: figures as a test wants them."""

from __future__ import annotations

from collections.abc import Mapping

from bench.figures import FIGURES
from bench.results import Run, Sample, Subject

ROUNDS = 3


def every_figure(value: float) -> dict[str, dict[str, float]]:
    """Scenario -> figure -> the same value everywhere."""
    figures: dict[str, dict[str, float]] = {}
    for figure in FIGURES:
        figures.setdefault(figure.scenario, {})[figure.key] = value
    return figures


def run_of(subjects: Mapping[str, Mapping[str, Mapping[str, float]]], *, wobble: float = 0.0) -> Run:
    """`subjects`: name -> scenario -> figure -> value; round n is (1 + (n - 1) * wobble) times the value."""
    run = Run("python -m bench run", {"cpu": "abacus", "cores": 2}, "proxy on core 1", "full")
    for name, scenarios in subjects.items():
        run.subjects.append(Subject(name, "synthetic", f"{name} 1.0"))
        for scenario, figures in scenarios.items():
            for round_ in range(ROUNDS):
                factor = 1 + (round_ - 1) * wobble
                values = {key: value * factor for key, value in figures.items()}
                run.samples.append(Sample(scenario, name, round_, values))
    return run

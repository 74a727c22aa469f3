"""Ratios: the judged figures. Absolute times do not carry over to another machine, ratios taken in one run do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bench.figures import BY_NAME, CALM, CONTEXT_SIZES, FIGURES, LONG_CONTEXT, Better
from bench.results import DIRECT, QPROXY, Run, Summary

BASELINE_SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Ratio:
    """qproxy's figure divided by another figure of the same rounds. `tolerance` as in `Figure`."""

    better: Better
    median: float
    low: float
    high: float
    tolerance: float = CALM

    @property
    def summary(self) -> Summary:
        """Without the direction."""
        return Summary(self.median, self.low, self.high)

    @property
    def advantage(self) -> float:
        """How many times better qproxy is; below 1 it is worse."""
        return self.median if self.better == "higher" else 1 / self.median


@dataclass(frozen=True, slots=True)
class OwnRatio:
    """Two figures of our own: what must stay flat."""

    name: str
    better: Better
    numerator: tuple[str, str, str]
    denominator: tuple[str, str, str]
    tolerance: float = CALM


def _own(name: str, scenario: str, above: str, below: str) -> OwnRatio:
    tolerance = BY_NAME[f"{scenario} {above}"].tolerance
    return OwnRatio(name, "lower", (QPROXY, scenario, above), (QPROXY, scenario, below), tolerance)


def _trio(name: str, scenario: str, key: str) -> OwnRatio:
    return OwnRatio(name, "lower", (f"{QPROXY}@trio", scenario, key), (QPROXY, scenario, key))


def _proxied(title: str, key: str, size: str) -> OwnRatio:
    """A latency over that of the direct requests of the same moments."""
    name = f"{LONG_CONTEXT} {title}, {size}: proxied / direct"
    return _own(name, LONG_CONTEXT, f"{key}@{size}", f"direct_{key}@{size}")


OWN_RATIOS: tuple[OwnRatio, ...] = (
    _own("T1 cpu_us: 64 / 1 connection", "T1", "cpu_us@64", "cpu_us@1"),
    _own("T1 cpu_us: 1000 / 1 connection", "T1", "cpu_us@1000", "cpu_us@1"),
    _own("T6 added_ms: 200 / 0 held", "T6", "added_ms@200", "added_ms@0"),
    _own("T6 added_ms: 1000 / 0 held", "T6", "added_ms@1000", "added_ms@0"),
    _own("T6 added_ms: 3000 / 0 held", "T6", "added_ms@3000", "added_ms@0"),
    _own("T7 added_ms: after / before", "T7", "added_ms_after", "added_ms_before"),
    _trio("T1 cpu_us@64: trio / first loop", "T1", "cpu_us@64"),
    _trio("T4 cpu_us_per_chunk: trio / first loop", "T4", "cpu_us_per_chunk"),
    *(_proxied("first token", "first_ms", size) for size in CONTEXT_SIZES),
    *(_proxied("plain answer", "whole_ms", size) for size in CONTEXT_SIZES),
)


def against(figure_name: str, rival: str) -> str:
    """The name of the ratio of one figure against one rival."""
    return f"{figure_name}: qproxy / {rival}"


def ratios_of(run: Run) -> dict[str, Ratio]:
    """Every ratio that the run allows, by name."""
    found: dict[str, Ratio] = {}
    rivals = [name for name in run.measured() if name != DIRECT and not name.startswith(QPROXY + "@")]
    for rival in (name for name in rivals if name != QPROXY):
        for figure in (figure for figure in FIGURES if figure.judged):
            summary = run.quotient((QPROXY, figure.scenario, figure.key), (rival, figure.scenario, figure.key))
            if summary is not None and summary.median > 0:
                found[against(figure.name, rival)] = _ratio(figure.better, summary, figure.tolerance)
    return found | _own_ratios_of(run)


def _own_ratios_of(run: Run) -> dict[str, Ratio]:
    pairs = ((own, run.quotient(own.numerator, own.denominator)) for own in OWN_RATIOS)
    return {own.name: _ratio(own.better, summary, own.tolerance) for own, summary in pairs if summary is not None}


def _ratio(better: Better, summary: Summary, tolerance: float) -> Ratio:
    return Ratio(better, summary.median, summary.low, summary.high, tolerance)


@dataclass(frozen=True, slots=True)
class RatioSet:
    """The ratios of a run and what it measured: all that a baseline holds."""

    effort: str
    subjects: list[str]
    scenarios: list[str]
    ratios: dict[str, Ratio]

    @classmethod
    def of(cls, run: Run) -> RatioSet:
        """From a run."""
        return cls(run.effort, run.measured(), sorted({sample.scenario for sample in run.samples}), ratios_of(run))

    def write(self, path: Path, command: str, machine: str) -> None:
        """As JSON: the command that renews the file, and a line per ratio with median, lowest and highest round. No
        time and no name of a machine is in it."""
        head = {
            "schema": BASELINE_SCHEMA, "command": command, "machine": machine, "effort": self.effort,
            "subjects": self.subjects, "scenarios": self.scenarios,
        }  # fmt: skip
        fields = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        rows = [
            f"    {json.dumps(name)}: [{ratio.median:.3g}, {ratio.low:.3g}, {ratio.high:.3g}]"
            for name, ratio in self.ratios.items()
        ]
        path.write_text("{\n" + ",\n".join(fields) + ',\n  "ratios": {\n' + ",\n".join(rows) + "\n  }\n}\n")

    @classmethod
    def read(cls, path: Path) -> RatioSet:
        """From a baseline or from the JSON of a run. Raises ValueError where it is neither."""
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict) or "ratios" not in fields:
            return cls.of(Run.read(path))
        if fields.get("schema") != BASELINE_SCHEMA:
            raise ValueError(f"{path} is a baseline of another form: renew it with {fields.get('command')!r}")
        ratios = {}
        for name, summary in fields["ratios"].items():
            rule = _rule_of(name)
            if rule is None:
                raise ValueError(f"{path}: nothing measures {name!r} any more: renew it with {fields['command']!r}")
            ratios[name] = _ratio(rule[0], Summary(*summary), rule[1])
        return cls(fields["effort"], fields["subjects"], fields["scenarios"], ratios)


def _rule_of(name: str) -> tuple[Better, float] | None:
    """Which way is better and what two calm runs may differ by, from the tables: a baseline has the values alone."""
    figure = BY_NAME.get(name.partition(": qproxy / ")[0])
    if figure is not None:
        return figure.better, figure.tolerance
    return next(((own.better, own.tolerance) for own in OWN_RATIOS if own.name == name), None)

"""Ratios: the judged figures. Absolute times do not carry over to another machine, ratios taken in one run do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.figures import CALM, FIGURES, Better
from bench.results import DIRECT, QPROXY, SCHEMA, Run, Summary


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
    """Two figures of our own: what must stay flat, and how far the tools are ahead."""

    name: str
    better: Better
    numerator: tuple[str, str, str]
    denominator: tuple[str, str, str]


def _own(name: str, scenario: str, above: str, below: str) -> OwnRatio:
    return OwnRatio(name, "lower", (QPROXY, scenario, above), (QPROXY, scenario, below))


def _trio(name: str, scenario: str, key: str) -> OwnRatio:
    return OwnRatio(name, "lower", (f"{QPROXY}@trio", scenario, key), (QPROXY, scenario, key))


OWN_RATIOS: tuple[OwnRatio, ...] = (
    _own("T1 cpu_us: 64 / 1 connection", "T1", "cpu_us@64", "cpu_us@1"),
    _own("T1 cpu_us: 1000 / 1 connection", "T1", "cpu_us@1000", "cpu_us@1"),
    _own("T6 added_ms: 200 / 0 held", "T6", "added_ms@200", "added_ms@0"),
    _own("T6 added_ms: 1000 / 0 held", "T6", "added_ms@1000", "added_ms@0"),
    _own("T6 added_ms: 3000 / 0 held", "T6", "added_ms@3000", "added_ms@0"),
    _own("T7 added_ms: after / before", "T7", "added_ms_after", "added_ms_before"),
    _trio("T1 cpu_us@64: trio / first loop", "T1", "cpu_us@64"),
    _trio("T4 cpu_us_per_chunk: trio / first loop", "T4", "cpu_us_per_chunk"),
)
TOOL_RATIOS: tuple[OwnRatio, ...] = (
    OwnRatio("T1 tools / qproxy", "higher", (DIRECT, "T1", "requests_per_s@64"), (QPROXY, "T1", "requests_per_s@64")),
)


def against(figure_name: str, rival: str) -> str:
    """The name of the ratio of one figure against one rival."""
    return f"{figure_name}: qproxy / {rival}"


def ratios_of(run: Run) -> dict[str, Ratio]:
    """Every ratio that the run allows, by name; those of the tools are not among them."""
    found: dict[str, Ratio] = {}
    rivals = [name for name in run.measured() if name != DIRECT and not name.startswith(QPROXY + "@")]
    for rival in (name for name in rivals if name != QPROXY):
        for figure in (figure for figure in FIGURES if figure.judged):
            summary = run.quotient((QPROXY, figure.scenario, figure.key), (rival, figure.scenario, figure.key))
            if summary is not None and summary.median > 0:
                found[against(figure.name, rival)] = _ratio(figure.better, summary, figure.tolerance)
    return found | own_ratios_of(run, OWN_RATIOS)


def own_ratios_of(run: Run, table: tuple[OwnRatio, ...]) -> dict[str, Ratio]:
    """Those of a table that the run allows."""
    pairs = ((own, run.quotient(own.numerator, own.denominator)) for own in table)
    return {own.name: _ratio(own.better, summary) for own, summary in pairs if summary is not None}


def _ratio(better: Better, summary: Summary, tolerance: float = CALM) -> Ratio:
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

    def write(self, path: Path, command: str) -> None:
        """As JSON, with the command that renews the file; numbers are rounded, so that a renewal is readable."""
        rounded = {
            name: {field: round(value, 3) if isinstance(value, float) else value for field, value in row.items()}
            for name, row in ((name, asdict(ratio)) for name, ratio in self.ratios.items())
        }
        fields = {
            "schema": SCHEMA, "command": command, "effort": self.effort, "subjects": self.subjects,
            "scenarios": self.scenarios, "ratios": rounded,
        }  # fmt: skip
        path.write_text(json.dumps(fields, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> RatioSet:
        """From a baseline or from the JSON of a run. Raises ValueError where it is neither."""
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict) or "ratios" not in fields:
            return cls.of(Run.read(path))
        ratios = {name: Ratio(**ratio) for name, ratio in fields["ratios"].items()}
        return cls(fields["effort"], fields["subjects"], fields["scenarios"], ratios)

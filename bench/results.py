"""What a run leaves: samples by scenario, subject and round, and the JSON file they are kept in."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

SCHEMA = 1
QPROXY = "qproxy"
DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of the rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary | None:
        """None where there is no value."""
        kept = list(values)
        return cls(statistics.median(kept), min(kept), max(kept)) if kept else None

    @property
    def spread(self) -> float:
        """How far a round lay from the median, at most."""
        return max(self.high - self.median, self.median - self.low)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured. `problem` says why it was not; it is shown beside the table."""

    name: str
    about: str
    version: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One scenario with one subject in one round. `foreign_share`: of the cores, taken by others meanwhile."""

    scenario: str
    subject: str
    round: int
    figures: dict[str, float]
    faults: list[str] = field(default_factory=list)
    foreign_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one `bench run` found."""

    command: str
    machine: dict[str, str | int]
    pinning: str
    effort: str
    subjects: list[Subject] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def measured(self) -> list[str]:
        """The names of the subjects that have samples, in their order."""
        with_samples = {sample.subject for sample in self.samples}
        return [subject.name for subject in self.subjects if subject.name in with_samples]

    def by_round(self, subject: str, scenario: str, key: str) -> dict[int, float]:
        """One figure of one subject, by round."""
        return {
            sample.round: sample.figures[key]
            for sample in self.samples
            if sample.subject == subject and sample.scenario == scenario and key in sample.figures
        }

    def summary(self, subject: str, scenario: str, key: str) -> Summary | None:
        """Over the rounds."""
        return Summary.of(self.by_round(subject, scenario, key).values())

    def quotient(self, numerator: tuple[str, str, str], denominator: tuple[str, str, str]) -> Summary | None:
        """Of two figures, each (subject, scenario, key), taken in the same round; a round where one is missing or the
        lower one is not positive does not count."""
        above, below = self.by_round(*numerator), self.by_round(*denominator)
        return Summary.of(above[n] / below[n] for n in above if below.get(n, 0.0) > 0)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises ValueError where the file is not such a run."""
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict) or fields.pop("schema", None) != SCHEMA or "samples" not in fields:
            raise ValueError(f"{path} is not a result of bench run")
        subjects = [Subject(**subject) for subject in fields.pop("subjects")]
        samples = [Sample(**sample) for sample in fields.pop("samples")]
        return cls(**fields, subjects=subjects, samples=samples)

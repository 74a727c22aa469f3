"""Two runs, or a baseline and a run: did a ratio get worse by more than its noise?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.ratios import Ratio, RatioSet

Change = Literal["same", "better", "worse", "gone", "new"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ratio before and after. `noise` is how far `after` may lie from `before`."""

    name: str
    change: Change
    before: Ratio | None
    after: Ratio | None
    noise: float


def compare(before: RatioSet, after: RatioSet) -> list[Comparison]:
    """Every ratio of both. A ratio whose subject and scenario were not measured again is left out."""
    names = list(before.ratios) + [name for name in after.ratios if name not in before.ratios]
    rows = (_row(name, before, after) for name in names)
    return [row for row in rows if row is not None]


def worsened(rows: list[Comparison]) -> list[Comparison]:
    """Those that must fail a build: worse, or gone although its subjects ran."""
    return [row for row in rows if row.change in ("worse", "gone")]


def _row(name: str, before: RatioSet, after: RatioSet) -> Comparison | None:
    old, new = before.ratios.get(name), after.ratios.get(name)
    if old is None:
        return Comparison(name, "new", None, new, 0.0)
    if new is None:
        return Comparison(name, "gone", old, None, 0.0) if _was_measured(name, after) else None
    noise = old.summary.spread + new.summary.spread + old.tolerance * old.median
    return Comparison(name, _change(old, new, noise), old, new, noise)


def _change(old: Ratio, new: Ratio, noise: float) -> Change:
    difference = new.median - old.median
    if abs(difference) <= noise:
        return "same"
    return "better" if (difference > 0) == (new.better == "higher") else "worse"


def _was_measured(name: str, after: RatioSet) -> bool:
    """Whether the scenario and the rival that a ratio names were there."""
    scenario = name.split(maxsplit=1)[0]
    rival = name.rpartition(" / ")[2] if ": qproxy / " in name else "qproxy"
    if ": trio / " in name:
        rival = "qproxy@trio"
    return scenario in after.scenarios and rival in after.subjects

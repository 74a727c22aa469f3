"""The table of goals, judged on runs made up for it."""

from __future__ import annotations

import pytest

from bench.goals import GOALS, judge
from bench.ratios import OWN_RATIOS, ratios_of
from bench.results import Run
from bench.rivals import GATEWAYS
from bench.scenarios import SCENARIOS
from tests.bench.synthetic import every_figure, run_of

RIVALS = ("nginx", "aiohttp", *GATEWAYS)


def full_run(qproxy: float, rivals: float) -> Run:
    subjects = {name: every_figure(rivals) for name in RIVALS}
    return run_of(subjects | {"qproxy": every_figure(qproxy), "qproxy@trio": every_figure(qproxy)})


def states(run: Run) -> dict[str, bool | None]:
    return {verdict.title: verdict.ok for verdict in judge(run)}


def test_every_goal_names_something_that_a_run_can_have() -> None:
    run = full_run(1.0, 1.0)
    known = set(ratios_of(run)) | {own.name for own in OWN_RATIOS}
    scenarios = tuple(f"{name} " for name in SCENARIOS)
    for goal in GOALS:
        assert goal.ratio in known if goal.ratio else goal.figure.startswith(scenarios), goal.title


@pytest.mark.parametrize(("qproxy", "ok"), [(14.0, True), (14.2, False)])
def test_a_goal_against_a_rival_holds_up_to_its_limit(qproxy: float, ok: bool) -> None:
    assert states(full_run(qproxy, 10.0))["T4 CPU per chunk against nginx"] is ok


@pytest.mark.parametrize(("qproxy", "ok"), [(11.6, True), (11.4, False)])
def test_a_goal_that_wants_more_holds_from_its_limit_on(qproxy: float, ok: bool) -> None:
    assert states(full_run(qproxy, 10.0))["T1 requests/s against aiohttp"] is ok


@pytest.mark.parametrize(("p99_ms", "ok"), [(1.9, True), (2.1, False)])
def test_an_absolute_goal(p99_ms: float, ok: bool) -> None:
    run = run_of({"qproxy": {"T4": {"added_first_p99_ms": p99_ms}}})
    assert states(run)["T4 added first token p99, ms"] is ok


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    verdicts = judge(run_of({"qproxy": {"T1": {"cpu_us@64": 10.0, "cpu_us@1": 10.0}}}))
    measured = [verdict.title for verdict in verdicts if verdict.ok is not None]
    assert measured == ["T1 CPU per request, 64 / 1 connection"]
    assert all(verdict.got == "not measured" for verdict in verdicts if verdict.ok is None)


def test_one_row_behind_a_gateway_is_enough_to_miss() -> None:
    figures = every_figure(10.0)
    figures["T1"]["requests_per_s@64"] = 1000.0
    gateway = every_figure(100.0)
    assert states(run_of({"qproxy": figures, "litellm": gateway}))["ahead of litellm in every row"] is True
    gateway["T5"]["idle_mb"] = 9.0
    run = run_of({"qproxy": figures, "litellm": gateway})
    assert states(run)["ahead of litellm in every row"] is False
    assert "idle" in next(verdict.got for verdict in judge(run) if "litellm" in verdict.title)


def test_a_row_that_a_gateway_cannot_do_does_not_count() -> None:
    gateway = every_figure(100.0)
    del gateway["T3"]
    gateway["T1"] |= {"requests_per_s@64": 1.0}
    assert states(run_of({"qproxy": every_figure(10.0), "litellm": gateway}))["ahead of litellm in every row"] is True

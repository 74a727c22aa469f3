"""Samples, their summaries and quotients, and the files they are kept in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.ratios import RatioSet, ratios_of
from bench.results import Run, Sample, Subject, Summary
from tests.bench.synthetic import every_figure, run_of

T1 = "T1"
KEY = "cpu_us@64"


def test_a_summary_is_the_median_with_its_range() -> None:
    assert Summary.of([5.0, 1.0, 2.0]) == Summary(2.0, 1.0, 5.0)
    assert Summary(2.0, 1.0, 5.0).spread == 3.0
    assert Summary.of([]) is None


def test_a_quotient_is_built_within_a_round() -> None:
    run = run_of({"qproxy": {T1: {KEY: 30.0}}, "nginx": {T1: {KEY: 10.0}}}, wobble=0.5)
    assert run.quotient(("qproxy", T1, KEY), ("nginx", T1, KEY)) == Summary(3.0, 3.0, 3.0)


def test_a_round_without_one_of_the_two_does_not_count() -> None:
    run = Run("", {}, "", "full")
    run.samples[:] = [
        Sample(T1, "qproxy", 0, {KEY: 4.0}),
        Sample(T1, "nginx", 0, {KEY: 2.0}),
        Sample(T1, "qproxy", 1, {KEY: 9.0}),
        Sample(T1, "nginx", 2, {KEY: 1.0}),
        Sample(T1, "qproxy", 3, {KEY: 9.0}),
        Sample(T1, "nginx", 3, {KEY: -0.1}),  # added latency can come out below zero
    ]
    assert run.quotient(("qproxy", T1, KEY), ("nginx", T1, KEY)) == Summary(2.0, 2.0, 2.0)


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = run_of({"qproxy": {T1: {KEY: 30.0}}})
    run.subjects.append(Subject("litellm", "gateway", "", "not installed"))
    run.samples.append(Sample("T2", "qproxy", 0, {}, ["3 errors"], 0.25))
    run.write(tmp_path / "run.json")
    assert Run.read(tmp_path / "run.json") == run


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": 1}', '{"schema": 99, "samples": []}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        Run.read(path)


def test_a_baseline_has_ratios_and_no_absolute_figure(tmp_path: Path) -> None:
    run = run_of({"qproxy": {T1: {KEY: 31234.0}}, "nginx": {T1: {KEY: 15617.0}}})
    path = tmp_path / "baseline.json"
    RatioSet.of(run).write(path, "python -m bench run --ratios baseline.json", "abacus, 2 cores")
    text = path.read_text()
    assert "31234" not in text
    assert '\n    "T1 cpu_us@64: qproxy / nginx": [2, 2, 2]\n' in text
    assert json.loads(text)["command"] == "python -m bench run --ratios baseline.json"
    assert RatioSet.read(path) == RatioSet.of(run)


def test_a_baseline_keeps_what_each_ratio_tolerates_and_which_way_is_better(tmp_path: Path) -> None:
    run = run_of({name: every_figure(2.0) for name in ("qproxy", "qproxy@trio", "nginx")})
    RatioSet.of(run).write(tmp_path / "baseline.json", "command", "machine")
    assert RatioSet.read(tmp_path / "baseline.json").ratios == ratios_of(run)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema": 1, "ratios": {}, "command": "renew me"}, "renew me"),
        ({"schema": 2, "ratios": {"T1 colour: qproxy / nginx": [1, 1, 1]}, "command": "renew me"}, "T1 colour"),
    ],
)
def test_a_baseline_that_cannot_be_judged_says_how_to_renew_it(
    tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=said):
        RatioSet.read(path)


def test_ratios_know_which_way_is_better() -> None:
    figures = {KEY: 10.0, "requests_per_s@64": 10.0}
    run = run_of({"qproxy": {T1: figures}, "nginx": {T1: {KEY: 40.0, "requests_per_s@64": 40.0}}})
    ratios = ratios_of(run)
    assert ratios["T1 cpu_us@64: qproxy / nginx"].advantage == 4.0
    assert ratios["T1 requests_per_s@64: qproxy / nginx"].advantage == 0.25


def test_forms_of_qproxy_are_no_rivals() -> None:
    run = run_of({name: {T1: {KEY: 10.0}} for name in ("direct", "qproxy", "qproxy@trio")})
    assert list(ratios_of(run)) == ["T1 cpu_us@64: trio / first loop"]

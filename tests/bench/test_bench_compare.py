"""`bench compare`: which changes fail a build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.ratios import RatioSet
from bench.results import Run
from tests.bench.synthetic import every_figure, run_of


def saved(folder: Path, name: str, qproxy: float, *, nginx: float = 10.0, wobble: float = 0.0) -> Path:
    """A run in which every figure of qproxy has one value, and every figure of nginx another."""
    path = folder / name
    run = run_of({"qproxy": every_figure(qproxy), "nginx": every_figure(nginx)}, wobble=wobble)
    if wobble:  # rounds of qproxy alone lie apart: the noise of the ratio
        calm = run_of({"nginx": every_figure(nginx)})
        run.samples[:] = [sample for sample in run.samples if sample.subject == "qproxy"] + calm.samples
    run.write(path)
    return path


def test_the_same_run_is_clean(tmp_path: Path) -> None:
    run = saved(tmp_path, "a.json", 20.0)
    assert main(["compare", str(run), str(run)]) == 0


def test_a_change_within_the_tolerance_is_clean(tmp_path: Path) -> None:
    before, after = saved(tmp_path, "a.json", 20.0), saved(tmp_path, "b.json", 21.5)
    assert main(["compare", str(before), str(after)]) == 0


@pytest.mark.parametrize("qproxy", [30.0, 10.0])  # dearer CPU, or fewer requests per second
def test_a_worse_ratio_fails(tmp_path: Path, qproxy: float, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = saved(tmp_path, "a.json", 20.0), saved(tmp_path, "b.json", qproxy)
    assert main(["compare", str(before), str(after)]) == 1
    name = "T1 cpu_us@64: qproxy / nginx" if qproxy > 20 else "T1 requests_per_s@64: qproxy / nginx"
    worse = [line for line in capsys.readouterr().out.splitlines() if "worse" in line]
    assert any(name in line for line in worse)


def test_a_worse_ratio_within_the_spread_of_its_rounds_is_clean(tmp_path: Path) -> None:
    before, after = saved(tmp_path, "a.json", 20.0), saved(tmp_path, "b.json", 25.0, wobble=0.3)
    assert main(["compare", str(before), str(after)]) == 0


def test_a_better_machine_changes_nothing(tmp_path: Path) -> None:
    before, after = saved(tmp_path, "a.json", 20.0), saved(tmp_path, "b.json", 2.0, nginx=1.0)
    assert main(["compare", str(before), str(after)]) == 0


def test_a_figure_that_is_gone_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = saved(tmp_path, "a.json", 20.0)
    run = Run.read(before)
    for sample in run.samples:
        sample.figures.pop("cpu_us@64", None)
    run.write(tmp_path / "b.json")
    assert main(["compare", str(before), str(tmp_path / "b.json")]) == 1
    assert "gone" in capsys.readouterr().out


def test_a_rival_that_was_not_measured_again_does_not_fail(tmp_path: Path) -> None:
    both = run_of({name: every_figure(10.0) for name in ("qproxy", "nginx", "aiohttp")})
    both.write(tmp_path / "a.json")
    after = saved(tmp_path, "b.json", 10.0)
    assert main(["compare", str(tmp_path / "a.json"), str(after)]) == 0


def test_a_baseline_compares_with_a_run(tmp_path: Path) -> None:
    run = saved(tmp_path, "a.json", 20.0)
    baseline = tmp_path / "baseline.json"
    RatioSet.of(Run.read(run)).write(baseline, "command", "machine")
    assert main(["compare", str(baseline), str(run)]) == 0
    assert main(["compare", str(baseline), str(saved(tmp_path, "b.json", 40.0))]) == 1


def test_nothing_in_common_is_not_a_success(tmp_path: Path) -> None:
    run_of({"qproxy": {"T1": {"cpu_us@64": 1.0}}}).write(tmp_path / "a.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 2


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"schema": 1})])
def test_a_file_that_is_no_result_is_not_a_success(tmp_path: Path, text: str) -> None:
    run = saved(tmp_path, "a.json", 20.0)
    (tmp_path / "b.json").write_text(text)
    assert main(["compare", str(run), str(tmp_path / "b.json")]) == 2
    assert main(["compare", str(run), str(tmp_path / "missing.json")]) == 2

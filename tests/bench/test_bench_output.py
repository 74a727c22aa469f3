"""Tables and charts: complete, well-formed, legible."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from bench.charts import overview_chart, write_charts
from bench.cli import main
from bench.figures import FIGURES
from bench.goals import judge
from bench.results import Run, Sample, Subject
from bench.svg import INK, PALETTE, WIDTH, Panel, line_chart, log_scale, number, panel_chart
from bench.tables import README_ROWS, figures_table, goals_table, notes
from tests.bench.synthetic import every_figure, run_of

SVG = "{http://www.w3.org/2000/svg}"
VALUES = st.floats(min_value=1e-3, max_value=1e6)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


def rendered(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def sample_run() -> Run:
    run = run_of({name: every_figure(float(n + 1)) for n, name in enumerate(("direct", "nginx", "qproxy"))}, wobble=0.1)
    run.subjects.append(Subject("litellm", "gateway", "", "not installed: python -m bench install litellm"))
    run.samples.append(Sample("T3", "nginx", 0, {}, ["40 of 50 streams complete"], 0.4))
    run.samples.append(Sample("T3", "nginx", 1, {}, ["40 of 50 streams complete"], 0.0))
    return run


def test_the_table_has_every_figure_of_every_subject() -> None:
    text = rendered(figures_table(sample_run()))
    for figure in FIGURES:
        assert f"{figure.scenario} {figure.title}" in text
    assert "3.00 ±10%" in text


def test_a_figure_that_nobody_has_makes_no_row() -> None:
    text = rendered(figures_table(run_of({"qproxy": {"T1": {"cpu_us@64": 5.0}}})))
    assert "CPU per request, 64 connections" in text
    assert "T2" not in text


def test_the_goals_say_must_got_and_ok() -> None:
    text = rendered(goals_table(judge(sample_run())))
    line = next(line for line in text.splitlines() if "T3 CPU per chunk against nginx" in line)
    assert "≤ 1.4x" in line
    assert "1.50x" in line
    assert "NO" in line


def test_notes_name_what_did_not_run_what_went_wrong_and_foreign_load() -> None:
    lines = notes(sample_run())
    assert lines[0] == "litellm: not measured: not installed: python -m bench install litellm"
    assert lines[1] == "nginx, T3: 40 of 50 streams complete (2 times)"
    assert "up to 40% of the cores, nginx T3" in lines[2]


def test_charts_are_written_and_show_prints_the_tables_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample_run().write(tmp_path / "run.json")
    assert main(["show", str(tmp_path / "run.json"), "--svg", str(tmp_path / "charts")]) == 0
    assert "T7 CPU per exchange" in capsys.readouterr().out
    for name in ("overview.svg", "added-latency.svg"):
        root = ET.parse(tmp_path / "charts" / name).getroot()
        assert root.tag == f"{SVG}svg"
        assert "nginx" in "".join(root.itertext())


def test_a_run_without_the_figures_of_a_chart_writes_none(tmp_path: Path) -> None:
    assert write_charts(run_of({"qproxy": {"T6": {"added_ms@0": 1.0}}}), tmp_path) == []


def test_the_table_for_the_readme_has_qproxy_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample_run().write(tmp_path / "run.json")
    assert main(["show", str(tmp_path / "run.json"), "--markdown"]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert (head, rule) == ("| | qproxy | nginx |", "|---|--:|--:|")
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(README_ROWS.values())
    assert rows[0].endswith("| 3 | 2 |")


@given(
    panels=st.lists(
        st.dictionaries(NAMES, st.none() | VALUES, max_size=6).map(lambda values: Panel("a <b>", "c & d", values)),
        max_size=5,
    )
)
def test_every_chart_of_panels_is_well_formed_and_inside_its_frame(panels: list[Panel]) -> None:
    colours = {label: PALETTE[0] for panel in panels for label in panel.values}
    root = ET.fromstring(panel_chart("a <b>", "c & d", panels, colours, {"ours": PALETTE[0]}))
    bars = list(root.iter(f"{SVG}rect"))
    shown = [value for panel in panels for value in panel.values.values() if value is not None]
    assert len(bars) == 1 + len(shown)  # and the legend's
    for bar in bars:
        x, y, width, height = (float(bar.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + width <= WIDTH
        assert 0 <= y < y + height <= float(root.attrib["height"])


def test_the_better_a_figure_the_higher_its_bar_stands() -> None:
    root = ET.fromstring(overview_chart(sample_run()))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    requests, first_token = texts.index("Small requests per second"), texts.index("First token later by, ms")
    assert texts.index("qproxy", requests) < texts.index("nginx", requests)
    assert texts.index("nginx", first_token) < texts.index("qproxy", first_token)


@given(
    lines=st.dictionaries(
        NAMES, st.dictionaries(st.sampled_from(["1KB", "100KB", "4MB"]), VALUES, min_size=1), min_size=1, max_size=6
    )
)
def test_every_line_chart_is_well_formed_and_inside_its_frame(lines: dict[str, dict[str, float]]) -> None:
    root = ET.fromstring(line_chart("title", 'sub "title"', lines))
    height = float(root.attrib["height"])
    circles = list(root.iter(f"{SVG}circle"))
    assert len(circles) == sum(len(points) for points in lines.values())
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= WIDTH
        assert 0 <= float(circle.attrib["cy"]) <= height


@given(values=st.lists(VALUES, min_size=1), at=VALUES)
def test_a_log_scale_grows_and_stays_on_its_line(values: list[float], at: float) -> None:
    scale = log_scale(values, 0, 100)
    assert 0 <= scale.at(at) <= 100
    assert scale.at(min(values)) <= scale.at(max(values))
    assert scale.ticks()


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, "0.01"), (1.234, "1.23"), (12.0, "12"), (989.4, "989"), (1e6, "1,000,000")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def contrast(colour: str, background: str) -> float:
    """WCAG 2, 1.4.3."""

    def luminance(text: str) -> float:
        parts = [int(text[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
@pytest.mark.parametrize("colour", [INK, *PALETTE])
def test_every_colour_stands_out_on_a_light_and_on_a_dark_page(colour: str, background: str) -> None:
    assert contrast(colour, background) >= 3.0

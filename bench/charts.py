"""The two charts of a run."""

from __future__ import annotations

from pathlib import Path

from bench.results import DIRECT, QPROXY, Run
from bench.svg import bar_chart, line_chart

BARS = {
    "CPU per request (T1)": ("T1", "cpu_us@64"),
    "CPU per chunk, flat out (T3)": ("T3", "cpu_us_per_chunk"),
    "CPU per chunk, paced (T4)": ("T4", "cpu_us_per_chunk"),
}
SIZES = ("1KB", "100KB", "600KB", "4MB")


def write_charts(run: Run, folder: Path) -> list[Path]:
    """`cpu.svg` and `added-latency.svg`, each only where the run has its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"cpu.svg": cpu_chart(run), "added-latency.svg": added_latency_chart(run)}
    for name, text in texts.items():
        if text:
            (folder / name).write_text(text)
    return [folder / name for name, text in texts.items() if text]


def _subjects(run: Run) -> list[str]:
    """qproxy first."""
    names = [name for name in run.measured() if name != DIRECT]
    return sorted(names, key=lambda name: (name != QPROXY, names.index(name)))


def cpu_chart(run: Run) -> str:
    """CPU time of every rival, as a multiple of qproxy's. Empty where there is nothing to compare."""
    rows: dict[str, dict[str, float]] = {}
    for name in _subjects(run):
        if name == QPROXY:
            continue
        bars = {
            title: quotient.median
            for title, (scenario, key) in BARS.items()
            if (quotient := run.quotient((name, scenario, key), (QPROXY, scenario, key)))
        }
        if bars:
            rows[name] = bars
    subtitle = "CPU time of the proxy, qproxy = 1x, lower is better, logarithmic"
    return bar_chart("What a request and a chunk cost", subtitle, rows) if rows else ""


def added_latency_chart(run: Run) -> str:
    """Added median latency over the size of the request body."""
    lines: dict[str, dict[str, float]] = {}
    for name in _subjects(run):
        summaries = {size: run.summary(name, "T2", f"added_ms@{size}") for size in SIZES}
        points = {size: summary.median for size, summary in summaries.items() if summary and summary.median > 0}
        if points:
            lines[name] = points
    title, subtitle = "Added latency by request size", "median, one request at a time, lower is better, logarithmic"
    return line_chart(title, subtitle, lines) if lines else ""

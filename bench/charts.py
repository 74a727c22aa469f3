"""The charts of a run."""

from __future__ import annotations

from pathlib import Path

from bench.figures import BY_NAME, CONTEXT_SIZES, LONG_CONTEXT
from bench.results import DIRECT, QPROXY, Run
from bench.rivals import GATEWAYS, LABELS, RELAYS
from bench.svg import PALETTE, Panel, line_chart, panel_chart

# Title and note of each figure that the overview shows.
PANELS = {
    "T1 requests_per_s@64": ("Small requests per second", "64 connections, one core; more is better"),
    "T4 added_first_p50_ms": ("First token later by, ms", "200 streams of 50 events a second, median; less is better"),
    "T2 added_ms@600KB": ("Added to a prompt of 600 KB, ms", "median; less is better"),
    "T2 added_ms@4MB": ("Added to a prompt of 4 MB, ms", "about a million tokens, median; less is better"),
    "T3 cpu_us_per_chunk": ("Processor time per event, flat out, µs", "50 streams; less is better"),
    "T4 cpu_us_per_chunk": ("Processor time per event, paced, µs", "200 streams of 50 a second; less is better"),
}
GROUPS = {
    "qproxy": PALETTE[0],
    "gateways for language models": PALETTE[1],
    "relays of some 70 lines, Python": PALETTE[2],
    "reverse proxies in C, which do none of the job": PALETTE[7],
}
SIZES = ("1KB", "100KB", "600KB", "4MB")


def write_charts(run: Run, folder: Path) -> list[Path]:
    """`overview.svg` and `added-latency.svg`, each only where the run has its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"overview.svg": overview_chart(run), "added-latency.svg": added_latency_chart(run)}
    for name, text in texts.items():
        if text:
            (folder / name).write_text(text)
    return [folder / name for name, text in texts.items() if text]


def _subjects(run: Run) -> list[str]:
    """qproxy first; other forms of it are left out."""
    names = [name for name in run.measured() if name != DIRECT and not name.startswith(QPROXY + "@")]
    return sorted(names, key=lambda name: (name != QPROXY, names.index(name)))


def _group(name: str) -> str:
    colours = list(GROUPS)
    if name == QPROXY:
        return colours[0]
    return colours[1] if name in GATEWAYS else colours[2] if name in RELAYS else colours[3]


def overview_chart(run: Run) -> str:
    """What a user feels and what a core pays, beside every rival. Empty where there is nothing to show."""
    panels = [panel for name in PANELS if (panel := _panel(name, run)) is not None]
    colours = {LABELS.get(name, name): GROUPS[_group(name)] for name in _subjects(run)}
    legend = {group: colour for group, colour in GROUPS.items() if colour in colours.values()}
    subtitle = "Bars are logarithmic: from one line to the next it is ten times as much."
    return panel_chart("qproxy beside other proxies", subtitle, panels, colours, legend) if panels else ""


def _panel(name: str, run: Run) -> Panel | None:
    """Best first; at the end those that were measured without coming through, or that added less than can be told."""
    figure = BY_NAME[name]
    summaries = {subject: run.summary(subject, figure.scenario, figure.key) for subject in _subjects(run)}
    values = {subject: summary.median for subject, summary in summaries.items() if summary and summary.median > 0}
    if not values:
        return None
    best_first = sorted(values, key=lambda subject: values[subject], reverse=figure.better == "higher")
    missing = [subject for subject in summaries if subject not in values]
    return Panel(*PANELS[name], {LABELS.get(subject, subject): values.get(subject) for subject in best_first + missing})


def long_context_chart(run: Run) -> str:
    """What a proxy adds to the first token of a stream, over the tokens of the prompt. Empty where there is nothing to
    show."""
    lines: dict[str, dict[str, float]] = {}
    for name in _subjects(run):
        summaries = {size: run.summary(name, LONG_CONTEXT, f"added_first_ms@{size}") for size in CONTEXT_SIZES}
        points = {size: summary.median for size, summary in summaries.items() if summary and summary.median > 0}
        if points:
            lines[LABELS.get(name, name)] = points
    title = "Added to the first token, by length of the prompt"
    subtitle = "tokens of four bytes each, median of pairs, one request at a time, lower is better, logarithmic"
    return line_chart(title, subtitle, lines) if lines else ""


def added_latency_chart(run: Run) -> str:
    """Added median latency over the size of the request body."""
    lines: dict[str, dict[str, float]] = {}
    for name in _subjects(run):
        summaries = {size: run.summary(name, "T2", f"added_ms@{size}") for size in SIZES}
        points = {size: summary.median for size, summary in summaries.items() if summary and summary.median > 0}
        if points:
            lines[LABELS.get(name, name)] = points
    title, subtitle = "Added latency by request size", "median, one request at a time, lower is better, logarithmic"
    return line_chart(title, subtitle, lines) if lines else ""

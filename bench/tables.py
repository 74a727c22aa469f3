"""The text that a run and a comparison print."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.compare import Comparison
from bench.figures import BY_NAME, FIGURES, Figure
from bench.goals import Verdict
from bench.ratios import Ratio
from bench.results import DIRECT, QPROXY, Run, Summary
from bench.rivals import LABELS

# The rows of the table in the README.
README_ROWS = {
    "T1 requests_per_s@64": "small requests a second, 64 connections",
    "T1 cpu_us@64": "processor time of one, µs",
    "T2 added_ms@1KB": "added to the first byte, 1 KB prompt, ms",
    "T2 added_ms@100KB": "… 100 KB",
    "T2 added_ms@600KB": "… 600 KB",
    "T2 added_ms@4MB": "… 4 MB, about a million tokens",
    "T4 added_first_p50_ms": "added to the first token, 200 streams of 50 events a second, ms",
    "T4 added_first_p99_ms": "… 99 of 100 are below",
    "T4 cpu_us_per_chunk": "processor time of one such event, µs",
    "T3 cpu_us_per_chunk": "… 50 streams flat out",
    "T5 idle_mb": "memory idle, MB",
    "T5 per_stream_kib@3000": "memory of one open stream of 3,000, KiB",
    "T6 added_ms@3000": "added to a small request beside 3,000 open streams, ms",
}
FOREIGN_NOTE = 0.1
COLUMN_WIDTH = 15
FIRST_COLUMN_WIDTH = 50
RATIO_WIDTH = 24


def console_of(width: int) -> Console:
    """At least so wide where there is no terminal that says how wide it is."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=max(console.width, width), highlight=False)


def figures_width(subjects: int) -> int:
    """What the table of figures needs."""
    return max(FIRST_COLUMN_WIDTH + subjects * COLUMN_WIDTH, 120)


def comparison_width() -> int:
    """What the table of a comparison needs."""
    return FIRST_COLUMN_WIDTH + 4 * RATIO_WIDTH


def figures_table(run: Run) -> Table:
    """Rows are figures, columns are subjects: median and how far the rounds lay from it."""
    subjects = run.measured()
    table = Table(title=f"medians of the rounds ({run.effort})")
    table.add_column("")
    for name in subjects:
        table.add_column(name, justify="right")
    scenario = ""
    for figure in FIGURES:
        cells = [_cell(figure, run.summary(name, figure.scenario, figure.key)) for name in subjects]
        if not any(cells):
            continue
        if figure.scenario != scenario:
            table.add_section()
        scenario = figure.scenario
        table.add_row(f"{scenario} {figure.title}", *(cell or "-" for cell in cells))
    return table


def _cell(figure: Figure, summary: Summary | None) -> str:
    if summary is None:
        return ""
    text = f"{summary.median:,.{figure.digits}f}"
    return f"{text} ±{summary.spread / abs(summary.median):.0%}" if summary.median and summary.spread else text


def markdown_table(run: Run) -> str:
    """For the README: medians, qproxy first, without direct figures and other forms of qproxy."""
    others = [name for name in run.measured() if name not in (DIRECT, QPROXY) and not name.startswith(QPROXY + "@")]
    subjects = [QPROXY, *others]
    lines = ["| | " + " | ".join(LABELS.get(name, name) for name in subjects) + " |", "|---|" + "--:|" * len(subjects)]
    for name, title in README_ROWS.items():
        figure = BY_NAME[name]
        summaries = [run.summary(subject, figure.scenario, figure.key) for subject in subjects]
        cells = [f"{summary.median:,.{min(figure.digits, 2)}f}" if summary else "-" for summary in summaries]
        if any(summaries):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def goals_table(verdicts: list[Verdict]) -> Table:
    """must, aim, got, ok."""
    table = Table(title="goals")
    for name in ("goal", "must", "aim", "got", "ok"):
        table.add_column(name)
    for verdict in verdicts:
        state = "-" if verdict.ok is None else "aim" if verdict.reached_aim else "ok" if verdict.ok else "NO"
        table.add_row(verdict.title, verdict.must, verdict.aim, verdict.got, state)
    return table


def notes(run: Run) -> list[str]:
    """What a reader has to know beside the figures: what did not run, what went wrong, who else used the machine."""
    lines = [f"{subject.name}: not measured: {subject.problem}" for subject in run.subjects if subject.problem]
    faults: dict[str, int] = {}
    for sample in run.samples:
        for fault in sample.faults:
            line = f"{sample.subject}, {sample.scenario}: {fault}"
            faults[line] = faults.get(line, 0) + 1
    lines += [line if count == 1 else f"{line} ({count} times)" for line, count in faults.items()]
    busy = [sample for sample in run.samples if sample.foreign_share > FOREIGN_NOTE]
    if busy:
        worst = max(busy, key=lambda sample: sample.foreign_share)
        lines.append(
            f"foreign load was high in {len(busy)} of {len(run.samples)} measurements "
            f"(up to {worst.foreign_share:.0%} of the cores, {worst.subject} {worst.scenario}): repeat when calm"
        )
    return lines


def comparison_table(rows: list[Comparison]) -> Table:
    """Every ratio that changed, and how many did not."""
    same = sum(row.change == "same" for row in rows)
    table = Table(title=f"ratios that changed ({same} did not)")
    for name in ("ratio", "better", "before", "after", "noise", "change"):
        table.add_column(name)
    for row in rows:
        if row.change != "same":
            better = row.after.better if row.after else row.before.better if row.before else ""
            table.add_row(row.name, better, _ratio(row.before), _ratio(row.after), f"{row.noise:.2f}", row.change)
    return table


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"

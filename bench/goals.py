"""The goals: which ratios and figures must hold, and what to aim for beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.figures import BY_NAME
from bench.ratios import Ratio, against, ratios_of
from bench.results import QPROXY, Run, Summary
from bench.rivals import GATEWAYS

Sense = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Goal:
    """`ratio` names a ratio, or `figure` a figure of qproxy's own ("T4 added_first_p99_ms")."""

    title: str
    sense: Sense
    must: float
    aim: float
    ratio: str = ""
    figure: str = ""


def _nginx(title: str, figure: str, must: float, aim: float) -> Goal:
    return Goal(title, "at most", must, aim, ratio=against(figure, "nginx"))


GOALS: tuple[Goal, ...] = (
    Goal("T1 requests/s against aiohttp", "at least", 1.15, 1.4, ratio=against("T1 requests_per_s@64", "aiohttp")),
    Goal("T1 CPU per request, 64 / 1 connection", "at most", 1.25, 1.1, ratio="T1 cpu_us: 64 / 1 connection"),
    Goal("T1 CPU per request, 1,000 / 1 connection", "at most", 1.25, 1.1, ratio="T1 cpu_us: 1000 / 1 connection"),
    _nginx("T2 added p50 at 1 KB against nginx", "T2 added_ms@1KB", 2.5, 1.7),
    _nginx("T2 added p50 at 100 KB against nginx", "T2 added_ms@100KB", 2.5, 1.7),
    _nginx("T2 added p50 at 600 KB against nginx", "T2 added_ms@600KB", 2.2, 1.7),
    _nginx("T2 added p50 at 4 MB against nginx", "T2 added_ms@4MB", 2.8, 1.7),
    Goal("T2 paced upload, last byte up after, worst size, ms", "at most", 2.0, 1.0, figure="T2 last_byte_ms@worst"),
    _nginx("T3 CPU per chunk against nginx", "T3 cpu_us_per_chunk", 1.4, 1.1),
    _nginx("T4 CPU per chunk against nginx", "T4 cpu_us_per_chunk", 1.4, 1.1),
    Goal("T4 added first token p99, ms", "at most", 2.0, 1.0, figure="T4 added_first_p99_ms"),
    Goal("T5 idle, MB", "at most", 60, 40, figure="T5 idle_mb"),
    Goal("T5 per idle connection, KiB", "at most", 32, 16, figure="T5 per_idle_connection_kib@5000"),
    Goal("T5 per open stream of 500, KiB", "at most", 48, 24, figure="T5 per_stream_kib@500"),
    Goal("T5 per open stream of 3,000, KiB", "at most", 48, 24, figure="T5 per_stream_kib@3000"),
    Goal("T5 per client that does not read, KiB", "at most", 512, 256, figure="T5 per_stuck_reader_kib"),
    Goal("T5 peak with 16 x 4 MB, x bodies", "at most", 1.5, 1.2, figure="T5 peak_growth_of_bodies"),
    Goal("T6 one more request, 3,000 / 0 held", "at most", 2.0, 1.2, ratio="T6 added_ms: 3000 / 0 held"),
    Goal("T6 events of 3,000 held streams lost", "at most", 0, 0, figure="T6 lost@3000"),
    Goal("trio: T1 CPU against the first loop", "at most", 3.0, 2.0, ratio="T1 cpu_us@64: trio / first loop"),
    Goal("trio: T4 CPU against the first loop", "at most", 3.0, 2.0, ratio="T4 cpu_us_per_chunk: trio / first loop"),
    Goal("watching: T1 CPU on / off, x", "at most", 1.05, 1.02, figure="T8 watched@T1"),
    Goal("watching: T4 CPU on / off, x", "at most", 1.05, 1.02, figure="T8 watched@T4"),
    Goal("T9 long link, kept: proxied / direct, x", "at most", 1.1, 1.03, figure="T9 kept_over_direct"),
    Goal("T1 mock and load client, each ahead by, x", "at least", 3.0, 5.0, figure="T1 tools_lead@64"),
    Goal("T3 mock and load client, each ahead by, x", "at least", 3.0, 5.0, figure="T3 tools_lead@burst"),
)
GATEWAY_MUST, GATEWAY_AIM = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table of goals. `ok` is None where the run did not measure it."""

    title: str
    must: str
    aim: str
    got: str
    ok: bool | None
    reached_aim: bool = False


def judge(run: Run) -> list[Verdict]:
    """Every goal, then one line per gateway of the same job."""
    ratios = ratios_of(run)
    return [_judge_goal(goal, run, ratios) for goal in GOALS] + [_judge_gateway(name, ratios) for name in GATEWAYS]


def _judge_goal(goal: Goal, run: Run, ratios: dict[str, Ratio]) -> Verdict:
    unit = "x" if goal.ratio else ""
    sign = "≥" if goal.sense == "at least" else "≤"
    must, aim = f"{sign} {goal.must:g}{unit}", f"{sign} {goal.aim:g}{unit}"
    got = ratios[goal.ratio].summary if goal.ratio in ratios else _figure(goal.figure, run)
    if got is None:
        return Verdict(goal.title, must, aim, "not measured", None)
    return Verdict(
        goal.title, must, aim, f"{got.median:.2f}{unit} ({got.low:.2f} to {got.high:.2f})",
        _holds(goal.sense, got.median, goal.must), _holds(goal.sense, got.median, goal.aim),
    )  # fmt: skip


def _figure(name: str, run: Run) -> Summary | None:
    scenario, _, key = name.partition(" ")
    return run.summary(QPROXY, scenario, key)


def _holds(sense: Sense, value: float, limit: float) -> bool:
    return value >= limit if sense == "at least" else value <= limit


def _judge_gateway(name: str, ratios: dict[str, Ratio]) -> Verdict:
    """The row in which qproxy is least ahead decides."""
    title = f"ahead of {name} in every row"
    must, aim = f"≥ {GATEWAY_MUST:g}x", f"≥ {GATEWAY_AIM:g}x"
    rows = {
        figure.title: ratios[against(figure.name, name)].advantage
        for figure in BY_NAME.values()
        if figure.ranked and against(figure.name, name) in ratios
    }
    if not rows:
        return Verdict(title, must, aim, "not measured", None)
    worst = min(rows, key=lambda row: rows[row])
    got = f"{rows[worst]:.1f}x ({worst.strip('… ')})"
    return Verdict(title, must, aim, got, rows[worst] >= GATEWAY_MUST, rows[worst] >= GATEWAY_AIM)

"""The profile: functions to phases, and the time of everything else to its callers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench.phases import ORDER, PHASES, REST, FunctionId, PhaseRow, by_phase, phase_of

PACKAGE = Path(__file__).parents[2] / "qproxy"


def ours(file: str, name: str) -> FunctionId:
    return (f"/somewhere/qproxy/{file}", 1, name)


HEAD = ours("core/http1.py", "parse_request_head")
DELIVER = ours("edge/delivery.py", "deliver")
PUT = ours("edge/streams.py", "put")
SEND = ("~", 0, "<method 'send' of '_socket.socket' objects>")
LOOP = ("/usr/lib/python3/asyncio/base_events.py", 1, "_run_once")
Row = tuple[int, int, float, float]


def row(
    own_s: float, callers: dict[FunctionId, float] | None = None
) -> tuple[int, int, float, float, dict[FunctionId, Row]]:
    return (1, 1, own_s, own_s, {caller: (1, 1, spent_s, spent_s) for caller, spent_s in (callers or {}).items()})


def seconds(phases: dict[str, dict[FunctionId, float]]) -> dict[str, float]:
    return {phase: round(sum(functions.values()), 6) for phase, functions in phases.items()}


def test_a_function_belongs_to_the_row_that_names_it_before_that_of_its_file() -> None:
    assert phase_of(ours("edge/http11.py", "_send")) == "send"
    assert phase_of(ours("edge/http11.py", "_read_head")) == "wait"
    assert phase_of(ours("edge/http11.py", "relay")) == "relay"
    assert phase_of(PUT) is None
    assert phase_of(LOOP) is None


def test_shared_and_foreign_code_counts_for_its_callers_by_the_time_they_spent() -> None:
    stats = {
        LOOP: row(0.5),
        HEAD: row(1.0, {LOOP: 1.0}),
        DELIVER: row(2.0, {LOOP: 2.0}),
        PUT: row(0.4, {HEAD: 0.1, DELIVER: 0.3}),
        SEND: row(4.0, {PUT: 4.0}),
    }
    assert seconds(by_phase(stats)) == {REST: 0.5, "parse": 1.0 + 0.1 + 1.0, "relay": 2.0 + 0.3 + 3.0}


def test_code_that_calls_itself_ends_with_its_callers() -> None:
    again = ("/lib/json.py", 1, "scan")
    once = ("/lib/json.py", 2, "scan_once")
    stats = {HEAD: row(1.0), again: row(1.0, {HEAD: 0.5, once: 0.5}), once: row(1.0, {again: 1.0})}
    phases = seconds(by_phase(stats))
    assert phases["parse"] == 3.0


def test_no_time_is_lost() -> None:
    stats = {LOOP: row(0.25), PUT: row(0.5, {LOOP: 0.5}), SEND: row(1.0, {PUT: 1.0})}
    assert seconds(by_phase(stats)) == {REST: 1.75}


@pytest.mark.parametrize("entry", PHASES, ids=lambda entry: f"{entry.phase} {entry.file}")
def test_the_table_names_what_exists(entry: PhaseRow) -> None:
    assert entry.phase in ORDER
    tree = ast.parse((PACKAGE / entry.file).read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert entry.functions <= defined

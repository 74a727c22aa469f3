"""The profile: stacks as they are sampled, and the phase each belongs to."""

from __future__ import annotations

import ast
import ctypes
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

from bench import profiled
from bench.phases import ORDER, PHASES, REST, Function, Profile, Stack, phase_of, read_samples

PACKAGE = Path(__file__).parents[2] / "qproxy"


def ours(file: str, name: str) -> Function:
    return (f"/somewhere/qproxy/{file}", name)


SERVE = ours("edge/connection.py", "Connection._serve_one")
HEAD = ours("core/http1.py", "parse_request_head")
DELIVER = ours("edge/delivery.py", "deliver")
PUT = ours("edge/streams.py", "Stream.put")
LIBRARY = ("/usr/lib/python3/json/decoder.py", "JSONDecoder.decode")
RUN = ours("edge/runtime.py", "run")
LOOP = ("/usr/lib/python3/asyncio/runners.py", "Runner.run")


@pytest.mark.parametrize(
    ("stack", "phase"),
    [
        ((HEAD, SERVE, LOOP), "parse"),
        ((PUT, DELIVER, SERVE, LOOP), "relay"),  # shared code counts for its caller
        ((LIBRARY, HEAD, SERVE, LOOP), "parse"),
        ((ours("edge/http11.py", "UpstreamConnection._send"), SERVE, LOOP), "send"),  # a row that names the function
        ((ours("edge/http11.py", "UpstreamConnection._read_head"), SERVE, LOOP), "wait"),
        ((ours("edge/http11.py", "any other"), SERVE, LOOP), "relay"),  # before that of its file
        ((ours("core/rotation/sticky.py", "choose"), SERVE, LOOP), "lease"),  # a row for a folder
        ((LOOP, HEAD), REST),  # what calls everything explains nothing
        ((PUT, LOOP, SERVE), REST),
        ((LIBRARY,), REST),
        ((), REST),
    ],
)
def test_a_sample_belongs_to_the_innermost_function_that_the_table_knows(stack: Stack, phase: str) -> None:
    assert phase_of(stack) == phase


def test_no_sample_is_lost_and_each_names_the_function_that_ran() -> None:
    profile = Profile(Counter({(PUT, DELIVER, LOOP): 3, (HEAD, LOOP): 2, (LOOP,): 1, (): 1}), cpu_s=1.0, pieces=4)
    phases = profile.by_phase()
    assert phases["relay"] == {PUT: 3}
    assert {phase: functions.total() for phase, functions in phases.items()} == {"relay": 3, "parse": 2, REST: 2}
    assert profile.each_us == 250_000


@pytest.mark.parametrize("phase", [phase for phase in ORDER if phase != REST])
def test_the_package_has_a_function_for_every_phase(phase: str) -> None:
    """The table may lag behind a new name, but no phase may fall silent."""
    defined = [
        ours(str(file.relative_to(PACKAGE)), node.name)
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert phase in {row.phase for row in PHASES}
    assert any(phase_of((function,)) == phase for function in defined)


def test_samples_survive_their_file(tmp_path: Path) -> None:
    code = test_samples_survive_their_file.__code__
    profiled.write(Counter({(code, code): 7, (): 1}), tmp_path / "samples.json")
    assert json.loads((tmp_path / "samples.json").read_text())[0][0] == 7
    function = (__file__, "test_samples_survive_their_file")
    assert read_samples(tmp_path / "samples.json") == {(function, function): 7, (): 1}


def test_a_stack_begins_with_the_function_that_runs() -> None:
    stack = profiled.stack_of(sys._getframe())
    assert stack[0] is test_a_stack_begins_with_the_function_that_runs.__code__
    assert len(stack) > 3


def test_time_before_a_function_is_entered_is_its_callers() -> None:
    """The signal comes while C code is about to call `entered`, which is where the interpreter finds it. libc's own
    `raise`, since Python's functions for it look for signals themselves."""
    frames: list[str] = []
    stacks: list[profiled.Stack] = []

    def take(_signal: int, frame: FrameType | None) -> None:
        assert frame is not None
        frames.append(frame.f_code.co_name)
        stacks.append(profiled.stack_of(frame))

    before = signal.signal(signal.SIGUSR1, take)
    try:
        list(map(entered, map(ctypes.PyDLL(None)["raise"], [signal.SIGUSR1.value])))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert frames == ["entered"]
    assert stacks[0][0] is test_time_before_a_function_is_entered_is_its_callers.__code__


def entered(_: int) -> None:
    """Does nothing."""

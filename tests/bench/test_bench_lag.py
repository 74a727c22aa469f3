"""`python -m bench lag`."""

from __future__ import annotations

import sys

import pytest

from bench.cli import main


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_state_has_a_line(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    before_s = sys.getswitchinterval()
    assert main(["lag", "--backend", backend, "--tokens", "20000"]) in (0, 1)
    assert sys.getswitchinterval() == before_s
    lines = capsys.readouterr().out.splitlines()
    assert backend in lines[0]
    assert [line.partition(":")[0].partition("  ")[0] for line in lines[1:]] == [
        "nothing counted",
        "the first one, which builds the tokenizer",
        "switching after 5 ms",
        "the same again",
        "switching after 0.5 ms",
        "the same again",
    ]

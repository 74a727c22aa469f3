"""`qproxy tokens` tells, and uses, what a server has learned of a model."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from qproxy.core.token_ratio import RatioRow
from qproxy.edge.state_file import open_state_file
from tests.support.shell import Shell

MODEL = "qwen3.7-max"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    with closing(open_state_file(tmp_path / "state")) as file:
        file.write([], None, [RatioRow(MODEL, 3.75, 12, 2.0, 3), RatioRow("qwen3-max", 3.5, 1)])
    (shell.cwd / "text.txt").write_text("one two three", encoding="utf-8")
    return shell


def test_an_estimate_is_corrected(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("tokens", "text.txt", "--model", MODEL, "--home", str(tmp_path / "state"))
    assert done.stdout == f"about 6 tokens for {MODEL}\n"
    assert done.stderr == (
        f"qproxy: {MODEL}: 3.75 bytes of a request a token, learned from 12 requests; its upstream counts 2.000 tokens "
        "for one of ours, in 3 requests\n"
    )


def test_an_exact_count_is_not(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("tokens", "text.txt", "--model", "qwen3-max", "--home", str(tmp_path / "state"), "--json")
    assert json.loads(done.stdout) == {"tokens": 3, "exact": True, "model": "qwen3-max"}
    assert done.stderr == "qproxy: qwen3-max: 3.50 bytes of a request a token, learned from 1 request\n"


def test_settings_that_are_wrong_cost_the_ratio_alone(shell: Shell) -> None:
    (shell.cwd / "qproxy.toml").write_text("port = 'x'\n", encoding="utf-8")
    done = shell.run("tokens", "text.txt", "--model", MODEL)
    assert (done.returncode, done.stdout) == (0, f"about 3 tokens for {MODEL}\n")
    assert done.stderr.startswith("qproxy: what was learned of the model is not known: port in qproxy.toml")

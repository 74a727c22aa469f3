"""`qproxy tokens`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.shell import COMMAND, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_text(shell: Shell) -> None:
    (shell.cwd / "text.txt").write_text("one two three", encoding="utf-8")
    done = shell.run("tokens", "text.txt")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 tokens for qwen3-coder-plus\n", "")
    assert shell.run("tokens", "text.txt", "--model", "qwen3.5-plus").stdout == "about 3 tokens for qwen3.5-plus\n"


def test_a_request(shell: Shell) -> None:
    messages = [{"role": "user", "content": "one two three"}]
    for request in ({"messages": messages}, {"messages": messages, "model": "qwen3-8b"}):
        (shell.cwd / "chat.json").write_text(json.dumps(request), encoding="utf-8")
        found = json.loads(shell.run("tokens", "chat.json", "--json").stdout)
        assert found == {"tokens": 11, "exact": True, "model": request.get("model", "qwen3-coder-plus")}


def test_other_json_is_text(shell: Shell) -> None:
    (shell.cwd / "other.json").write_text('{"a": 1}', encoding="utf-8")
    assert shell.run("tokens", "other.json").stdout == "6 tokens for qwen3-coder-plus\n"


def test_stdin(shell: Shell) -> None:
    command = [*COMMAND, "tokens", "-"]
    done = subprocess.run(command, input=b"one two three", capture_output=True, check=True, timeout=40)
    assert done.stdout == b"3 tokens for qwen3-coder-plus\n"


def test_no_such_file(shell: Shell) -> None:
    done = shell.run("tokens", "missing.txt")
    assert done.returncode == 2
    assert "missing.txt" in done.stderr

"""`qproxy demo`: the first command that anybody runs."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.shell import TIMEOUT_S, Shell, get, stop


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_once_ends_after_the_table(shell: Shell) -> None:
    result = shell.run("demo", "--once")
    assert (result.returncode, result.stderr) == (0, "")
    for part in ("Qwen simulator", "1024 dimensions", "direct", "through qproxy", "added", "curl -N http://127."):
        assert part in result.stdout


def test_a_second_account_takes_over(shell: Shell) -> None:
    shown = shell.run("demo", "--once").stdout
    assert "quota is used up" in shown
    accounts = {
        fields[0]: (int(fields[1]), " ".join(fields[2:]))
        for fields in map(str.split, shown.splitlines())
        if fields and fields[0] in ("key-1", "key-2")
    }
    (first, first_state), second = accounts["key-1"], accounts["key-2"]
    assert first > 2
    assert re.fullmatch(r"cooling down for (60|5\d) s: quota", first_state)
    assert second == (1, "ready")


def test_nothing_of_the_users_own_settings_is_used(shell: Shell) -> None:
    (shell.cwd / "qproxy.toml").write_text("port = 'x'")
    (shell.cwd / ".env").write_text("QPROXY_NONSENSE=1")
    shell.environ |= {"QPROXY_PORT": "x", "DASHSCOPE_API_KEY": "sk-mine"}
    assert shell.run("demo", "--once").returncode == 0


def test_a_terminal_without_unicode(shell: Shell) -> None:
    shell.environ["PYTHONIOENCODING"] = "ascii"
    result = shell.run("demo", "--once")
    assert result.returncode == 0
    assert "simulator: ????" in result.stdout


def test_a_reader_that_has_gone_stops_nothing(shell: Shell) -> None:
    with shell.unread("demo", "--once") as process:
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stderr) == (0, "")


def test_it_serves_until_ctrl_c(shell: Shell) -> None:
    with shell.popen("demo") as process:
        assert process.stdout is not None
        lines = []
        while "Serving until Ctrl-C." not in (line := process.stdout.readline()):
            lines.append(line)
        url = next(line.strip() for line in lines if line.startswith("  http://"))
        assert "qwen3-coder-plus" in get(f"{url}/models")
        status, stderr = stop(process, signal.SIGINT)
    assert (status, stderr.strip()) == (130, "")


def test_the_curl_line_works(shell: Shell) -> None:
    with shell.popen("demo") as process:
        assert process.stdout is not None
        lines = []
        while "Serving until Ctrl-C." not in (line := process.stdout.readline()):
            lines.append(line)
        script = "".join(lines).partition("curl -N")
        curl = subprocess.run(["sh", "-c", script[1] + script[2]], capture_output=True, text=True, check=False)
        assert stop(process, signal.SIGINT)[0] == 130
    if curl.returncode == 127:
        pytest.skip("no curl here")
    assert curl.stdout.rstrip().endswith("data: [DONE]")

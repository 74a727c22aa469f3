"""`qproxy serve`, and what holds for every command: usage, settings, output, exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import qproxy
from qproxy.cli.serve import serve
from qproxy.config.options import BASIC
from tests.support.shell import BACKENDS, COMMAND, ROOT, Shell, get, simulated, stop, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with simulated() as url:
        yield url


def test_every_setting_has_its_flag() -> None:
    flags = {parameter.name: parameter.opts for parameter in serve.params}
    assert flags == {option.name: [f"--{option.flag}"] for option in BASIC}


def test_version_and_help(shell: Shell) -> None:
    assert shell.run("--version").stdout == f"qproxy {qproxy.__version__}\n"
    helped = shell.run("serve", "--help")
    assert helped.returncode == 0
    assert [option.flag for option in BASIC if f"--{option.flag}" not in helped.stdout] == []


@pytest.mark.parametrize("arguments", [["serve", "--prot", "1"], ["sevre"], ["demo", "--port", "99999"]])
def test_wrong_usage_is_status_2(shell: Shell, arguments: list[str]) -> None:
    assert shell.run(*arguments).returncode == 2


@pytest.mark.parametrize("command", ["serve", "models", "check"])
def test_wrong_settings_are_one_line_and_status_2(shell: Shell, command: str) -> None:
    result = shell.run(command, "--port", "http")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "qproxy: --port = 'http': must be a whole number from 0 to 65535\n"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(shell: Shell, backend: str, signal_number: int) -> None:
    with shell.serving("--backend", backend) as (url, process):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert json.loads(get(f"{url}/health"))["version"] == qproxy.__version__
        assert stop(process, signal_number) == (0, "")


def test_a_port_that_is_taken(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = shell.run("serve", "--port", str(port))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_notices_go_to_stderr(shell: Shell) -> None:
    shell.environ["STREAM"] = "true"
    with shell.serving() as (_, process):
        status, stderr = stop(process, signal.SIGTERM)
    assert status == 0
    assert stderr.startswith("qproxy: STREAM has no effect")


def test_a_reader_that_has_gone_stops_nothing(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with shell.unread("serve", "--port", str(port)) as process:
        wait_for(f"http://127.0.0.1:{port}/livez")
        assert stop(process, signal.SIGINT)[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_standard_descriptors_may_be_closed(shell: Shell, upstream: str, closed: str, backend: str) -> None:
    arguments = shlex.join([*COMMAND, "check", "--backend", backend, "--upstream", upstream])
    environ = {"PATH": os.environ["PATH"], "HOME": str(shell.cwd), "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run(["sh", "-c", f"{arguments} {closed}"], cwd=shell.cwd, env=environ, check=False).returncode == 0
    )

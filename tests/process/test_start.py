"""A server that cannot start (`faults.md` P10): one clear line, an exit status, and no secret in either."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.shell import BACKENDS, Shell

CANARY = "sk-never-shown"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, {"QPROXY_UPSTREAM_KEY": CANARY, "QPROXY_UPSTREAM": "dashscope-intl"})


def assert_one_line(shell: Shell, *arguments: str, status: int, line: str) -> None:
    result = shell.run("serve", *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (status, "", f"{line}\n")
    assert CANARY not in result.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_port_in_use(shell: Shell, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"
        assert_one_line(shell, "--port", port, "--backend", backend, status=1, line=line)


def test_a_socket_in_use(shell: Shell) -> None:
    path = shell.cwd / "q.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        line = f"Error: cannot listen on {path}: another process listens there"
        assert_one_line(shell, "--host", f"unix:{path}", status=1, line=line)
    assert path.exists()


def test_a_folder_that_is_not_there(shell: Shell) -> None:
    path = shell.cwd / "missing" / "q.sock"
    line = f"Error: cannot listen on {path}: No such file or directory"
    assert_one_line(shell, "--host", f"unix:{path}", status=1, line=line)


def test_an_address_of_another_machine(shell: Shell) -> None:
    line = "Error: cannot listen on 192.0.2.1:0: Cannot assign requested address"
    assert_one_line(shell, "--host", "192.0.2.1", "--port", "0", "--api-key", CANARY, status=1, line=line)


def test_a_public_address_without_a_key(shell: Shell) -> None:
    result = shell.run("serve", "--host", "0.0.0.0")
    assert result.returncode == 2
    assert result.stderr.startswith("qproxy: --host = '0.0.0.0': must be a loopback address")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [f'upstream_key = "{CANARY}', f'upstream_key = ["{CANARY}"]', f'api_keys = "{CANARY}"', f'[{CANARY}]\nkey = "k"'],
    ids=["no TOML", "a wrong type", "a list expected", "an unknown table"],
)
def test_a_settings_file_that_cannot_be_used(shell: Shell, text: str) -> None:
    del shell.environ["QPROXY_UPSTREAM_KEY"]
    (shell.cwd / "qproxy.toml").write_text(text)
    result = shell.run("serve")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("qproxy: ")
    assert result.stderr.count("\n") == 1
    assert CANARY not in result.stderr or text.startswith("[")


def test_a_key_file_that_cannot_be_read(shell: Shell) -> None:
    shell.environ["QPROXY_UPSTREAM_KEY"] = "file:missing.key"
    result = shell.run("serve")
    assert (result.returncode, result.stdout) == (2, "")
    assert "missing.key" in result.stderr
    assert result.stderr.count("\n") == 1

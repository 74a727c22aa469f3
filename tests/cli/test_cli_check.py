"""`qproxy check` and `qproxy models`."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qproxy import simulator
from tests.support.shell import BACKENDS, Shell, simulated, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

FREE_TIER = "The free tier behind this login ended on 2026-04-15"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with simulated() as url:
        yield url


class TestModels:
    def test_the_upstreams_own_list(self, shell: Shell, upstream: str) -> None:
        result = shell.run("models", "--upstream", upstream)
        assert result.returncode == 0
        assert re.search(r"qwen3-coder-plus +default +upstream", result.stdout)

    def test_the_built_in_table_is_marked(self, shell: Shell) -> None:
        result = shell.run("models", "--upstream", "qwen-oauth")
        assert result.returncode == 0
        assert re.search(r"coder-model +qwen-oauth +built-in table", result.stdout)

    def test_without_an_upstream(self, shell: Shell) -> None:
        result = shell.run("models")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("qproxy: No upstream is configured.")


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """State and detail of each check of a JSON report; its verdict must agree with the exit status."""
    report = json.loads(result.stdout)
    assert report["ok"] == (result.returncode == 0)
    assert report["ok"] == all(found["state"] != "failed" for found in report["checks"])
    return {found["check"]: (found["state"], found["detail"]) for found in report["checks"]}


class TestCheck:
    def test_everything_works(self, shell: Shell, upstream: str) -> None:
        result = shell.run("check", "--upstream", upstream)
        assert result.returncode == 0
        assert "Everything works." in result.stdout
        found = findings(shell.run("check", "--json", "--upstream", upstream))
        assert {name: state for name, (state, _) in found.items()} == dict.fromkeys(
            ("credential", "tcp", "key", "clock"), "ok"
        )
        assert found["key"][1] == f"accepted, {len(simulator.Options().models)} models"

    def test_a_unix_socket(self, shell: Shell, tmp_path: Path) -> None:
        with simulated(socket_path=str(tmp_path / "sim.sock")) as url:
            found = findings(shell.run("check", "--json", "--upstream", url))
        assert found["key"][0] == "ok"
        assert "tcp" not in found

    def test_a_wrong_key(self, shell: Shell) -> None:
        with simulated(simulator.Options(keys=frozenset({"right"}))) as url:
            for key, state in (("wrong", "failed"), ("right", "ok")):
                found = findings(shell.run("check", "--json", "--upstream", url, "--upstream-key", key))
                assert found["key"][0] == state
        assert "wrong" not in found["key"][1]

    @pytest.mark.parametrize(
        ("url", "check", "detail"),
        [
            ("http://127.0.0.1:1/v1", "tcp", "127.0.0.1:1 cannot be reached (Connection refused)"),
            (f"http://{'a' * 64}.example/v1", "dns", "aaaaaaaa"),  # no label is that long: no resolver is asked
            ("http+unix:///nowhere.sock", "key", "no answer to GET /models"),
        ],
    )
    def test_an_upstream_that_is_not_there(self, shell: Shell, url: str, check: str, detail: str) -> None:
        shell.environ["QPROXY_CONNECT_S"] = "20"
        found = findings(shell.run("check", "--json", "--upstream", url))
        assert found[check][0] == "failed"
        assert found[check][1].startswith(detail)
        assert list(found)[-1] == check

    def test_a_server_that_does_not_speak_tls(self, shell: Shell, upstream: str) -> None:
        shell.environ |= {"QPROXY_CONNECT_S": "1.5", "QPROXY_TLS_S": "0.2"}
        found = findings(shell.run("check", "--json", "--upstream", upstream.replace("http:", "https:")))
        assert found["tls"][0] == "failed"

    def test_a_url_that_is_not_the_apis_base(self, shell: Shell, upstream: str) -> None:
        found = findings(shell.run("check", "--json", "--upstream", upstream.removesuffix("/v1") + "/nowhere"))
        assert found["key"][0] == "warning"

    def test_a_clock_that_is_off(self, shell: Shell) -> None:
        with simulated(simulator.Options(clock_skew_s=-90)) as url:
            state, detail = findings(shell.run("check", "--json", "--upstream", url))["clock"]
        assert state == "warning"
        assert re.fullmatch(r"this clock is \d+ s ahead of the upstream's", detail)

    def test_no_upstream_names_what_to_use(self, shell: Shell) -> None:
        result = shell.run("check")
        assert result.returncode == 1
        assert "No upstream is configured" in result.stdout
        assert FREE_TIER in result.stdout

    def test_a_missing_login(self, shell: Shell) -> None:
        state, detail = findings(shell.run("check", "--json", "--upstream", "qwen-oauth"))["credential"]
        assert state == "failed"
        assert "Log in" in detail
        assert FREE_TIER in detail

    def test_a_login_its_file_and_its_modes(self, shell: Shell, upstream: str) -> None:
        login = shell.cwd / ".qwen" / "oauth_creds.json"
        login.parent.mkdir(mode=0o700)
        expiry_ms = (time.time() + 3600) * 1000
        login.write_text(json.dumps({"access_token": "hush", "resource_url": upstream, "expiry_date": expiry_ms}))
        login.chmod(0o644)
        result = shell.run("check", "--upstream", "qwen-oauth")
        assert result.returncode == 0
        for part in ("valid 59 min", FREE_TIER, "chmod 0600", "Everything works."):
            assert part in result.stdout
        assert "hush" not in result.stdout
        login.chmod(0o600)
        assert "chmod" not in shell.run("check", "--upstream", "qwen-oauth").stdout

    def test_notices_are_part_of_the_report(self, shell: Shell, upstream: str) -> None:
        shell.environ["STREAM"] = "1"
        found = findings(shell.run("check", "--json", "--upstream", upstream))
        assert found["settings"][0] == "warning"
        assert found["settings"][1].startswith("STREAM has no effect")

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_ctrl_c_ends_it_quietly(self, shell: Shell, backend: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
            with shell.popen("check", "--backend", backend, "--upstream", url) as process:
                silent.accept()[0].close()  # the look whether anybody is there
                with silent.accept()[0] as connection:
                    assert connection.recv(1) == b"G"
                    status, stderr = stop(process, signal.SIGINT)
        assert (status, stderr.strip()) == (130, "")

    def test_a_prompt_straight_and_through_the_proxy(self, shell: Shell, upstream: str) -> None:
        (shell.cwd / "prompt").write_text("Grüß dich")
        found = findings(
            shell.run("check", "--json", "--upstream", upstream, "--chat", "prompt", "--api-key", "own-key")
        )
        straight, proxied = found["chat, straight"], found["chat, proxied"]
        assert (straight[0], proxied[0]) == ("ok", "ok")
        assert straight[1].partition(" ms, ")[2] == proxied[1].partition(" ms, ")[2]

    def test_a_prompt_that_the_upstream_refuses(self, shell: Shell) -> None:
        (shell.cwd / "prompt").write_text("Hello")
        with simulated(simulator.Options(keys=frozenset({"right"}))) as url:
            found = findings(
                shell.run(
                    "check",
                    "--json",
                    "--upstream",
                    url,
                    "--upstream-key",
                    "wrong",
                    "--chat",
                    "prompt",
                    "--default-model",
                    "m",
                )
            )
        assert found["chat, straight"][0] == "failed"
        assert found["chat, proxied"][0] == "failed"
        assert "401" in found["chat, proxied"][1]

    def test_a_prompt_file_that_cannot_be_read(self, shell: Shell) -> None:
        (shell.cwd / "binary").write_bytes(b"\xff")
        for name in ("nowhere", "binary", "."):
            assert shell.run("check", "--chat", name).returncode == 2

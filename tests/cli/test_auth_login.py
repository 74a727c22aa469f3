"""`qproxy auth login` and `add`, in real processes and real terminals, against the simulator."""

from __future__ import annotations

import json
import re
import signal
import stat
import time
from typing import TYPE_CHECKING

import pytest

from qproxy.simulator import Options
from tests.support.live_simulator import LiveSimulator, live_simulator
from tests.support.shell import TIMEOUT_S, Shell
from tests.support.tty import decoded, qr_rows, tty

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "/oauth2/token"
DEVICE = "/device/code"
SECRETS = re.compile("sim-access|sim-refresh|device_code|code_verifier")


@pytest.fixture
def sim() -> Iterator[LiveSimulator]:
    with live_simulator(Options(poll_interval_s=0.05)) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, sim: LiveSimulator) -> Shell:
    return Shell(tmp_path, {"QWEN_BASE_URL": sim.url})


def user_code(process: subprocess.Popen[str]) -> str:
    """From the lines that a login prints first."""
    assert process.stdout is not None
    for line in process.stdout:
        match = re.search(r"The code there is (\w+)\.", line)
        if match:
            return match[1]
    raise AssertionError("no code was printed")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, the rest of stdout, stderr; no secret is in either."""
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in stderr
    assert not SECRETS.search(stdout + stderr)
    return process.returncode, stdout, stderr


def logged_in(shell: Shell, name: str = "oauth_creds.json") -> dict[str, object]:
    path = shell.cwd / ".qwen" / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


def approved(shell: Shell, sim: LiveSimulator, *arguments: str) -> tuple[int, str, str]:
    with shell.popen("auth", *arguments) as process:
        sim.approve(user_code(process))
        return finish(process)


class TestSuccess:
    def test_the_login_is_kept_where_the_cli_looks_for_it(self, shell: Shell, sim: LiveSimulator) -> None:
        status, stdout, stderr = approved(shell, sim, "login")
        assert status == 0
        assert stdout.startswith("default is logged in. The token is valid for 59 min, until 20")
        assert "free tier behind this login ended" in stderr
        assert re.search(r"Waiting for approval, at most (10:00|9:5\d) minutes", stderr)
        login = logged_in(shell)
        assert sim.account_of(str(login["access_token"])) == "user"
        assert (login["token_type"], type(login["expiry_date"])) == ("Bearer", int)

    def test_another_account_has_a_file_of_its_own(self, shell: Shell, sim: LiveSimulator) -> None:
        assert approved(shell, sim, "add", "work")[0] == 0
        assert approved(shell, sim, "login", "--account", "home.2")[0] == 0
        assert logged_in(shell, "oauth_creds_work.json") != logged_in(shell, "oauth_creds_home.2.json")
        assert not (shell.cwd / ".qwen" / "oauth_creds.json").exists()

    def test_who_is_logged_in_is_told_until_when(self, shell: Shell, sim: LiveSimulator) -> None:
        approved(shell, sim, "login")
        before = logged_in(shell)
        result = shell.run("auth", "login")
        assert (result.returncode, result.stderr) == (0, "")
        assert re.fullmatch(
            r"default is logged in already; --force does it again\. "
            r"The token is valid for \d+ min, until 20[0-9T:-]+Z\.\n",
            result.stdout,
        )
        told = json.loads(shell.run("auth", "login", "--json").stdout)
        assert (told["event"], told["account"]) == ("already", "default")
        assert logged_in(shell) == before
        assert approved(shell, sim, "login", "--force")[0] == 0
        assert logged_in(shell) != before

    @pytest.mark.parametrize("content", ["", "{", '{"access_token": "t", "expiry_date": 1}'])
    def test_a_login_that_is_over_or_broken_is_made_anew(self, shell: Shell, sim: LiveSimulator, content: str) -> None:
        folder = shell.cwd / ".qwen"
        folder.mkdir(mode=0o700)
        (folder / "oauth_creds.json").write_text(content)
        assert approved(shell, sim, "login")[0] == 0
        assert "refresh_token" in logged_in(shell)

    def test_gateways_and_losses_on_the_way_are_told(self, shell: Shell, sim: LiveSimulator) -> None:
        sim.fail_next("504", "cut-before-head", "html-waf", path=TOKEN)
        with shell.popen("auth", "login", "--json") as process:
            assert process.stdout is not None
            events = [json.loads(process.stdout.readline()) for _ in range(4)]
            sim.approve(events[0]["user_code"])
            assert finish(process)[0] == 0
        assert [event.get("message", "") for event in events[1:]] == [
            "Not the login server but something before it answered (504); still trying.",
            "The login server broke off before its answer was complete. Still trying.",
            "Not the login server but something before it answered (200); still trying.",
        ]

    def test_for_people_they_are_lines(self, shell: Shell, sim: LiveSimulator) -> None:
        sim.fail_next("504", path=TOKEN)
        status, _, stderr = approved(shell, sim, "login")
        assert status == 0
        assert "Not the login server but something before it answered (504); still trying." in stderr

    def test_for_programs_there_is_a_json_object_a_line(self, shell: Shell, sim: LiveSimulator) -> None:
        with shell.popen("auth", "login", "--json") as process:
            assert process.stdout is not None
            code = json.loads(process.stdout.readline())
            assert json.loads(process.stdout.readline()) == {"event": "pending", "account": "default", "interval": 0.05}
            sim.approve(code.pop("user_code"))
            status, stdout, stderr = finish(process)
        assert (status, stderr) == (0, "")
        assert sorted(code) == [
            "account", "event", "expires_in", "interval", "verification_uri", "verification_uri_complete",
        ]  # fmt: skip
        end = json.loads(stdout.splitlines()[-1])
        assert (end["event"], end["account"]) == ("done", "default")
        assert end["expires_at"].endswith("Z")


class TestOtherEnds:
    def test_the_user_says_no(self, shell: Shell, sim: LiveSimulator) -> None:
        with shell.popen("auth", "login") as process:
            sim.deny(user_code(process))
            status, _, stderr = finish(process)
        assert status == 3
        assert stderr.endswith("qproxy: The login was refused on its page. Nothing was changed.\n")
        assert not (shell.cwd / ".qwen").exists()

    def test_nobody_approves(self, tmp_path: Path) -> None:
        with live_simulator(Options(poll_interval_s=0.05, device_lifetime_s=0.2)) as sim:
            result = Shell(tmp_path, {"QWEN_BASE_URL": sim.url}).run("auth", "login")
        assert result.returncode == 4
        assert "Nobody approved the login before its code expired." in result.stderr

    @pytest.mark.parametrize(
        ("scenario", "path", "status", "message"),
        [
            ("oauth-invalid-grant", TOKEN, 1, "The login server answered invalid_grant"),
            ("oauth-error-200", DEVICE, 1, "The login server began no login: server_error"),
            ("504", DEVICE, 1, "The login server began no login: it answered 504 without JSON"),
            ("cut-before-head", DEVICE, 5, "The login server broke off"),
            ("oauth-401", TOKEN, 4, "before its code expired"),
        ],
    )
    def test_the_server_decides(
        self, shell: Shell, sim: LiveSimulator, scenario: str, path: str, status: int, message: str
    ) -> None:
        sim.fail_next(scenario, path=path)
        result = shell.run("auth", "login")
        assert result.returncode == status
        assert message in result.stderr
        assert not SECRETS.search(result.stdout + result.stderr)

    def test_a_token_for_a_foreign_host_is_not_kept(self, shell: Shell, sim: LiveSimulator) -> None:
        sim.simulator.oauth.answer_fields = {"resource_url": "evil.example"}
        status, _, stderr = approved(shell, sim, "login")
        assert status == 1
        assert "names a host that is not on the list" in stderr
        assert not (shell.cwd / ".qwen").exists()

    def test_nobody_is_there(self, tmp_path: Path) -> None:
        result = Shell(tmp_path, {"QWEN_BASE_URL": "http://127.0.0.1:1"}).run("auth", "login", "--json")
        assert (result.returncode, result.stderr) == (5, "")
        assert json.loads(result.stdout) == {
            "event": "unreachable",
            "account": "default",
            "message": "The login server cannot be reached.",
        }

    def test_the_folder_cannot_be_made(self, shell: Shell, sim: LiveSimulator) -> None:
        (shell.cwd / ".qwen").write_text("a file")
        status, _, stderr = approved(shell, sim, "login")
        assert status == 6
        assert stderr.endswith("/.qwen/oauth_creds.json cannot be written: File exists.\n")

    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
    def test_it_is_stopped(self, shell: Shell, backend: str, stop: signal.Signals) -> None:
        shell.environ["QPROXY_BACKEND"] = backend
        with shell.popen("auth", "login") as process:
            user_code(process)
            time.sleep(0.1)  # into the wait
            process.send_signal(stop)
            status, _, stderr = finish(process)
        assert status == 130
        assert stderr.endswith("qproxy: The login was stopped. Nothing was changed.\n")
        assert not (shell.cwd / ".qwen").exists()

    @pytest.mark.parametrize("account", ["", "../up"])
    def test_a_name_that_is_none(self, shell: Shell, account: str) -> None:
        for arguments in (("add", "--", account), ("login", "--account", account)):
            result = shell.run("auth", *arguments)
            assert result.returncode == 2
            assert "up to 64 letters" in " ".join(result.stderr.split())


class TestTerminal:
    def test_the_code_that_is_printed_leads_to_the_page(self, tmp_path: Path, sim: LiveSimulator) -> None:
        with tty(["auth", "login", "--oauth-base-url", sim.url], tmp_path) as terminal:
            terminal.read_until("The code there is ")
            page = re.search(r"http://\S+", terminal.output)
            assert page is not None
            for light in (False, True):
                assert decoded(qr_rows(terminal.output), light_terminal=light) == [page[0]]
            terminal.read_until("Waiting for approval: 9:5")
            sim.approve(page[0].partition("user_code=")[2].partition("&")[0])
            assert terminal.finish() == 0
        assert "default is logged in." in terminal.output
        assert not SECRETS.search(terminal.output)

    @pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_without_colours_it_is_for_dark_terminals(
        self, tmp_path: Path, sim: LiveSimulator, environ: dict[str, str]
    ) -> None:
        with tty(["auth", "login", "--oauth-base-url", sim.url], tmp_path, environ) as terminal:
            terminal.read_until("The code there is ")
        assert "\x1b[40" not in terminal.output
        (page,) = decoded(qr_rows(terminal.output))
        assert page.startswith(f"{sim.url}/authorize?user_code=")

    @pytest.mark.parametrize(("columns", "lines"), [(30, 40), (100, 20)])
    def test_a_small_terminal_has_the_address_alone(
        self, tmp_path: Path, sim: LiveSimulator, columns: int, lines: int
    ) -> None:
        arguments = ["auth", "login", "--oauth-base-url", sim.url]
        with tty(arguments, tmp_path, columns=columns, lines=lines) as terminal:
            terminal.read_until("The code there is ")
        assert "This terminal has no room for a QR code" in " ".join(terminal.output.split())
        assert qr_rows(terminal.output) == []

    def test_it_can_be_left_out(self, tmp_path: Path, sim: LiveSimulator) -> None:
        with tty(["auth", "login", "--no-qr", "--oauth-base-url", sim.url], tmp_path) as terminal:
            terminal.read_until("The code there is ")
        assert qr_rows(terminal.output) == []
        assert "no room" not in terminal.output

    def test_notes_stand_above_the_countdown(self, tmp_path: Path, sim: LiveSimulator) -> None:
        sim.fail_next("oauth-slow-down", path=TOKEN)
        with tty(["auth", "login", "--no-qr", "--oauth-base-url", sim.url], tmp_path) as terminal:
            terminal.read_until("The login server wants fewer questions: the next one is in 5 s.")
            terminal.read_until("Waiting for approval")

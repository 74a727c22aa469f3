"""`qproxy auth list`, `remove`, `import` and `export`."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.shell import COMMAND, ROOT, TIMEOUT_S, Shell
from tests.support.tty import tty

if TYPE_CHECKING:
    from pathlib import Path

IN_2100_MS = 4_102_444_800_000


def login(token: str, **more: object) -> dict[str, object]:
    document = {"access_token": token, "refresh_token": f"refresh-{token}", "token_type": "Bearer"}
    return {**document, "expiry_date": IN_2100_MS, **more}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def put(shell: Shell, name: str, content: object) -> Path:
    path = shell.cwd / ".qwen" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def printed(shell: Shell, *arguments: str) -> dict[str, Any]:
    result = shell.run("auth", *arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


class TestList:
    def test_nobody(self, shell: Shell) -> None:
        assert shell.run("auth", "list").stdout == "Nobody is logged in. `qproxy auth login` does it.\n"
        assert printed(shell, "list") == {"accounts": []}

    @pytest.mark.parametrize("command", [("auth", "list"), ("auth:list",)])
    def test_the_accounts_and_their_tokens(self, shell: Shell, command: tuple[str, ...]) -> None:
        put(shell, "oauth_creds.json", login("hush"))
        put(shell, "oauth_creds_over.json", login("hush", expiry_date=5))
        put(shell, "oauth_creds_end.json", login("hush", expiry_date=5, refresh_token=None))
        put(shell, "oauth_creds_half.json", '{"access_token": "hush')
        put(shell, "oauth_creds_evil.json", login("hush", resource_url="https://evil.example"))
        result = shell.run(*command)
        assert (result.returncode, result.stderr) == (0, "")
        assert "hush" not in result.stdout
        rows = [re.split(" {2,}", line.strip()) for line in result.stdout.splitlines() if ".json" in line]
        assert [row[0] for row in rows] == ["default", "end", "evil", "half", "over"]
        assert re.fullmatch(r"valid \d+ h \d+ min", rows[0][1])
        assert [row[1] for row in rows[1:]] == [
            "expired",
            "unusable: resource_url names a host that is not on the list of hosts that may get a token",
            "unusable: the file is not JSON (line 1, column 23)",
            "expired, can be renewed",
        ]

    def test_for_programs(self, shell: Shell) -> None:
        path = put(shell, "oauth_creds_work.json", login("hush", expiry_date=IN_2100_MS))
        (found,) = printed(shell, "list")["accounts"]
        assert found.pop("state").startswith("valid ")
        assert found == {"account": "work", "file": str(path), "expires_at": "2100-01-01T00:00:00Z"}

    def test_another_folder(self, shell: Shell) -> None:
        folder = shell.cwd / "elsewhere"
        folder.mkdir()
        (folder / "oauth_creds.json").write_text(json.dumps(login("hush")))
        assert "default" in shell.run("auth", "list", "--qwen-home", str(folder)).stdout
        folder = put(shell, "oauth_creds.json", login("hush"))
        result = shell.run("auth", "list", "--qwen-home", str(folder))
        assert result.returncode == 1
        assert result.stderr.endswith("oauth_creds.json cannot be looked into: Not a directory.\n")


class TestRemove:
    @pytest.mark.parametrize("command", [("auth", "remove"), ("auth:remove",)])
    def test_one_account(self, shell: Shell, command: tuple[str, ...]) -> None:
        kept, gone = put(shell, "oauth_creds.json", login("a")), put(shell, "oauth_creds_work.json", login("b"))
        result = shell.run(*command, "work")
        assert (result.returncode, result.stdout, result.stderr) == (0, "Removed work.\n", "")
        assert (kept.exists(), gone.exists()) == (True, False)

    def test_the_default_account_is_the_clis_own(self, shell: Shell) -> None:
        put(shell, "oauth_creds.json", login("a"))
        result = shell.run("auth", "remove", "default")
        assert (result.returncode, result.stdout) == (0, "Removed default.\n")
        assert result.stderr == "This was the login of the Qwen Code CLI as well.\n"

    def test_at_once(self, shell: Shell) -> None:
        path = put(shell, "oauth_creds_work.json", login("a"))
        with shell.popen("auth", "remove", "work", "--now", "--json") as process:
            while path.exists():
                time.sleep(0.01)
            assert path.with_suffix(".cut").exists()
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, stderr) == (0, "")
        assert json.loads(stdout) == {"removed": "work", "file": str(path)}
        assert list(path.parent.iterdir()) == []

    def test_nobody_of_that_name(self, shell: Shell) -> None:
        put(shell, "oauth_creds_work.json", login("a"))
        result = shell.run("auth", "remove", "home")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "qproxy: There is no account home. Logged in: work.\n"


def bring_in(shell: Shell, name: str, content: object, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = shell.cwd / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    result = shell.run("auth", "import", str(path), *arguments)
    assert "hush" not in result.stdout + result.stderr
    return result


class TestImport:
    def test_a_file_of_the_cli(self, shell: Shell) -> None:
        result = bring_in(shell, "oauth_creds.json", login("hush", scope="openid"))
        assert result.returncode == 0
        assert re.fullmatch(r"Imported as default: the token is valid \d+ h \d+ min\.\n", result.stdout)
        assert "A refresh token works once" in result.stderr
        path = shell.cwd / ".qwen" / "oauth_creds.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_text()) == login("hush", scope="openid")

    def test_a_file_of_cliproxyapi(self, shell: Shell) -> None:
        content = {
            "access_token": "hush",
            "refresh_token": "hush-r",
            "resource_url": "portal.qwen.ai",
            "email": "bob@mail.example",
            "type": "qwen",
            "expired": "2100-01-01T08:00:00+08:00",
        }
        assert bring_in(shell, "qwen-bob@mail.example.json", content).returncode == 0
        kept = json.loads((shell.cwd / ".qwen" / "oauth_creds_bob-mail.example.json").read_text())
        assert kept == {
            "access_token": "hush",
            "refresh_token": "hush-r",
            "resource_url": "portal.qwen.ai",
            "token_type": "Bearer",
            "expiry_date": IN_2100_MS,
        }

    def test_under_another_name(self, shell: Shell) -> None:
        assert bring_in(shell, "oauth_creds.json", login("hush"), "--account", "work").returncode == 0
        assert [account["account"] for account in printed(shell, "list")["accounts"]] == ["work"]

    def test_a_login_is_not_replaced_unasked(self, shell: Shell) -> None:
        path = put(shell, "oauth_creds.json", login("old"))
        result = bring_in(shell, "oauth_creds.json", login("hush"))
        assert result.returncode == 1
        assert "default is logged in already" in result.stderr
        assert json.loads(path.read_text()) == login("old")
        assert bring_in(shell, "oauth_creds.json", login("hush"), "--force").returncode == 0
        assert json.loads(path.read_text()) == login("hush")

    def test_without_a_refresh_token_it_is_told(self, shell: Shell) -> None:
        result = bring_in(shell, "oauth_creds.json", login("hush", refresh_token=None))
        assert result.returncode == 0
        assert "no refresh token" in result.stderr

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("", "the file is empty"),
            ('{"access_token": "hush', "the file is not JSON"),
            ("[]", "the file holds no JSON object"),
            ({"access_token": "hush"}, "expiry_date is not a time"),
            ({"access_token": "hush", "expired": "tomorrow"}, "expired is not a time"),
            (login("hush", resource_url="evil.example"), "names a host that is not on the list"),
        ],
    )
    def test_what_is_no_login(self, shell: Shell, content: object, reason: str) -> None:
        result = bring_in(shell, "oauth_creds.json", content)
        assert result.returncode == 1
        assert reason in result.stderr
        assert not (shell.cwd / ".qwen").exists()

    def test_files_that_are_not_there_or_have_no_name(self, shell: Shell) -> None:
        result = shell.run("auth", "import", "missing.json")
        assert result.returncode == 1
        assert result.stderr == "qproxy: missing.json: No such file or directory.\n"
        result = shell.run("auth", "import", "@.json")
        assert result.returncode == 2
        assert "--account" in result.stderr

    def test_from_stdin(self, shell: Shell) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": str(shell.cwd), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*COMMAND, "auth", "import", "-", "--json"],
            input=json.dumps(login("hush")),
            env=environ,
            cwd=shell.cwd,
            text=True,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        assert json.loads(done.stdout)["account"] == "default"
        assert "hush" not in done.stdout


class TestExport:
    def test_what_is_exported_can_be_imported(self, shell: Shell) -> None:
        put(shell, "oauth_creds_work.json", login("hush", resource_url="portal.qwen.ai", own="key"))
        result = shell.run("auth", "export", "work")
        assert (result.returncode, result.stderr) == (0, "")
        assert json.loads(result.stdout) == login("hush", resource_url="portal.qwen.ai", own="key")
        assert printed(shell, "export", "work") == json.loads(result.stdout)
        assert bring_in(shell, "copy.json", result.stdout).returncode == 0

    def test_a_terminal_does_not_show_it_unasked(self, shell: Shell) -> None:
        put(shell, "oauth_creds.json", login("hush"))
        with tty(["auth", "export", "default"], shell.cwd) as terminal:
            assert terminal.finish() == 1
        assert "hush" not in terminal.output
        assert "--force-tty" in terminal.output
        with tty(["auth", "export", "default", "--force-tty"], shell.cwd) as terminal:
            assert terminal.finish() == 0
        assert "hush" in terminal.output

    def test_what_cannot_be_exported(self, shell: Shell) -> None:
        assert shell.run("auth", "export", "work").stderr == "qproxy: There is no account work. Logged in: none.\n"
        put(shell, "oauth_creds_work.json", "{")
        result = shell.run("auth", "export", "work")
        assert result.returncode == 1
        assert result.stderr.endswith("oauth_creds_work.json is no login: the file is not JSON (line 1, column 2).\n")

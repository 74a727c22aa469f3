"""`qproxy auth status` and `qproxy auth counts`, over a state file as a server leaves it."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from qproxy.core.counts import CountRow
from qproxy.core.health import StateRow
from qproxy.edge.state_file import FILE_NAME, open_state_file
from qproxy.edge.store import day_of
from tests.support.shell import Shell

if TYPE_CHECKING:
    from pathlib import Path

LOGIN = {"access_token": "hush", "refresh_token": "hush-r", "token_type": "Bearer", "expiry_date": 4_102_444_800_000}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, {"QPROXY_HOME": str(tmp_path / "state")})
    (tmp_path / ".qwen").mkdir()
    return shell


def put_login(shell: Shell, name: str) -> Path:
    path = shell.cwd / ".qwen" / name
    path.write_text(json.dumps(LOGIN))
    return path


def leave(shell: Shell, counts: list[CountRow], states: list[StateRow]) -> None:
    """What a server that ran here would have written."""
    file = open_state_file(shell.cwd / "state")
    file.write(counts, states)
    file.close()


def printed(shell: Shell, *arguments: str) -> dict[str, Any]:
    result = shell.run("auth", *arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def cells(text: str, first: str) -> list[list[str]]:
    """The rows of a table that begin with that cell."""
    rows = [re.split(" {2,}", line.strip()) for line in text.splitlines()]
    return [row for row in rows if row[0] == first]


class TestStatus:
    def test_nobody(self, shell: Shell) -> None:
        assert shell.run("auth", "status").stdout == "There is no account: neither a login nor a key.\n"
        assert printed(shell, "status") == {"accounts": []}

    def test_logins_and_keys_and_where_they_come_from(self, shell: Shell) -> None:
        default, work = put_login(shell, "oauth_creds.json"), put_login(shell, "oauth_creds_work.json")
        (shell.cwd / "qproxy.toml").write_text(
            "[upstreams.cloud]\npreset = 'dashscope-intl'\nkeys = ['hush-1', 'hush-2']\n"
            "[upstreams.one]\nurl = 'http://127.0.0.1:9/v1'\nkey = 'hush-3'\n"
            "[upstreams.none]\nurl = 'http://127.0.0.1:9/v1'\n"
        )
        result = shell.run("auth", "status")
        assert (result.returncode, result.stderr) == (0, "")
        assert "hush" not in result.stdout
        found = printed(shell, "status")["accounts"]
        assert all(account.pop("state") == "ready" for account in found)
        days = found[0]["credential"]
        assert re.fullmatch(r"valid \d+ h \d+ min", days)
        expires_at = "2100-01-01T00:00:00Z"
        login = {"upstream": "qwen-oauth", "credential": days, "expires_at": expires_at}
        key = {"source": "settings", "credential": "key", "expires_at": None}
        assert found == [
            {"account": "default", "source": str(default), **login},
            {"account": "work", "source": str(work), **login},
            {"account": "key-1", "upstream": "cloud", **key},
            {"account": "key-2", "upstream": "cloud", **key},
            {"account": "key", "upstream": "one", **key},
        ]

    def test_what_a_server_has_found_out(self, shell: Shell) -> None:
        for name in ("oauth_creds.json", "oauth_creds_a.json", "oauth_creds_b.json", "oauth_creds_c.json"):
            put_login(shell, name)
        upstream, now_s = "qwen-oauth", time.time()
        leave(
            shell,
            [],
            [
                StateRow(upstream, "default", "", "COOLING", "QUOTA", now_s, 7325.0, ""),
                StateRow(upstream, "a", "qwen3-max", "COOLING", "RATE", now_s, 3540.0, ""),
                StateRow(upstream, "b", "", "LOGIN_NEEDED", "", now_s, 0.0, "qproxy auth login --account b"),
                StateRow(upstream, "c", "", "COOLING", "RATE", now_s - 90.0, 60.0, ""),
                StateRow("elsewhere", "c", "", "CLOSED", "", now_s, 0.0, "over"),
            ],
        )
        states = {account["account"]: account["state"] for account in printed(shell, "status")["accounts"]}
        assert re.fullmatch(r"cooling down 2 h [12] min: the allowance of a day.*", states["default"])
        assert re.fullmatch(r"cooling down 5[0-9] min for qwen3-max: too many requests or tokens a minute", states["a"])
        assert states["b"] == "login needed: qproxy auth login --account b"
        assert states["c"] == "ready"

    def test_a_login_from_a_setting(self, shell: Shell) -> None:
        put_login(shell, "oauth_creds.json")
        shell.environ["QWEN_OAUTH_CREDS"] = json.dumps(LOGIN)
        (found,) = printed(shell, "status")["accounts"]
        assert (found["account"], found["source"], found["credential"]) == (
            "default",
            "oauth_creds",
            "given by a setting",
        )

    def test_without_a_readable_state_the_rest_is_shown(self, shell: Shell) -> None:
        put_login(shell, "oauth_creds.json")
        (shell.cwd / "state").mkdir()
        (shell.cwd / "state" / FILE_NAME).write_text("no database" * 1000)
        result = shell.run("auth", "status")
        assert result.returncode == 0
        assert "cannot be read" in result.stderr
        assert cells(result.stdout, "default")


class TestCounts:
    def test_a_quiet_day(self, shell: Shell) -> None:
        for state in ("missing", "there"):
            if state == "there":
                leave(shell, [], [])
            assert re.fullmatch(r"No requests today\. The day ends in .+\.\n", shell.run("auth", "counts").stdout)
        document = printed(shell, "counts")
        assert document["counts"] == []
        assert document["day"] in (day_of(time.time() - 60), day_of(time.time()))
        assert 0 <= document["resets_in_s"] <= 86_400

    @pytest.mark.parametrize("command", [("auth", "counts"), ("auth:counts",)])
    def test_a_busy_one(self, shell: Shell, command: tuple[str, ...]) -> None:
        today, yesterday = day_of(time.time()), day_of(time.time() - 86_400)
        leave(
            shell,
            [
                CountRow(today, "qwen-oauth", "work", "qwen3-coder-plus", 1234, 5, 60_000, 7_000, 67_000, 800),
                CountRow(today, "cloud", "key", "qwen3-max", 1, 0, 2, 3, 5, 0),
                CountRow(yesterday, "cloud", "key", "old", 9, 0, 9, 9, 18, 0),
            ],
            [],
        )
        result = shell.run(*command)
        assert (result.returncode, result.stderr) == (0, "")
        assert cells(result.stdout, "qwen-oauth") == [
            ["qwen-oauth", "work", "qwen3-coder-plus", "1,234", "5", "60,000", "800", "7,000", "67,000"]
        ]
        assert cells(result.stdout, "cloud") == [["cloud", "key", "qwen3-max", "1", "0", "2", "0", "3", "5"]]
        assert f"Of {today}. They begin anew in " in result.stdout
        first = printed(shell, "counts")["counts"][0]
        assert first == {
            "day": today,
            "upstream": "cloud",
            "account": "key",
            "model": "qwen3-max",
            "requests": 1,
            "errors": 0,
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "cached_tokens": 0,
        }

    def test_the_day_begins_when_the_setting_says(self, shell: Shell) -> None:
        for starts_at, offset_s in (("00:00+08:00", 57_600), ("06:30", 23_400)):
            document = printed(shell, "counts", "--day-starts-at", starts_at)
            assert document["day"] in (day_of(time.time() - 60, offset_s), day_of(time.time(), offset_s))
            reset = re.search(r"T(\d\d):(\d\d):", document["resets_at"])
            assert reset is not None
            seconds = int(reset[1]) * 3600 + int(reset[2]) * 60
            assert abs(seconds - offset_s) <= 60

    def test_counts_that_cannot_be_read(self, shell: Shell) -> None:
        (shell.cwd / "state").mkdir()
        (shell.cwd / "state" / FILE_NAME).write_text("no database" * 1000)
        result = shell.run("auth", "counts")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("qproxy: The counts cannot be read: ")

    def test_names_from_requests_cannot_steer_the_terminal(self, shell: Shell) -> None:
        leave(shell, [CountRow(day_of(time.time()), "cloud", "key", "\x1b[31m[red]evil", 1)], [])
        assert "\x1b" not in shell.run("auth", "counts").stdout

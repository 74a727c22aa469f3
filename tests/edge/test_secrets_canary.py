"""Marked secrets through every feature of a real server and of the commands, and a search for them in all that came
out: files, logs, answers, process titles."""

from __future__ import annotations

import base64
import http.client
import json
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote_plus, urlsplit

import pytest

from qproxy.config import load
from qproxy.simulator import Options
from tests.support.account_stage import login_path, put_login
from tests.support.canary import Canaries, disguises
from tests.support.live_simulator import LiveSimulator, live_simulator
from tests.support.shell import TIMEOUT_S, Shell

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

TOKEN = "/oauth2/token"
MODEL = "qwen3-coder-plus"
CHAT = "/v1/chat/completions"
SETTINGS = """
upstream = "mine"
access_log = "access.log"
rotation = "fill_first"
[upstreams.mine]
url = "{url}/v1"
keys = ["file:one.key", "env:TWO_KEY"]
headers = {{ X-Team = "{header}" }}
[upstreams.wrong]
url = "{url}/v1"
key = "env:WRONG_KEY"
[models]
"portal/*" = "qwen-oauth:*"
"wrong/*" = "wrong:*"
"""
KEPT_HERE = ("one.key", "admin.key", "cpa.json", "cache.json", "exported.json")
"""The files that hold secrets because they are for that, beside the logins themselves."""


class TestTheSearch:
    """It finds what it is for."""

    @pytest.mark.parametrize("disguise", disguises("canary+secret/0a1b2c3d4e5f="))
    def test_every_disguise(self, disguise: str) -> None:
        canaries = Canaries()
        canaries.add("key", "canary+secret/0a1b2c3d4e5f=")
        canaries.collect("log", b"before " + disguises("canary+secret/0a1b2c3d4e5f=")[disguise] + b" behind")
        assert any(disguise in leak for leak in canaries.leaks())

    @pytest.mark.parametrize("before", [b"", b"a", b"ab"])
    @pytest.mark.parametrize("behind", [b"", b"y", b"yz"])
    def test_base64_with_neighbours(self, before: bytes, behind: bytes) -> None:
        canaries = Canaries()
        canaries.add("key", "canary+secret/0a1b2c3d4e5f=")
        canaries.collect("log", base64.b64encode(before + b"canary+secret/0a1b2c3d4e5f=" + behind))
        assert canaries.leaks()

    def test_what_is_not_there(self) -> None:
        canaries = Canaries()
        canaries.add("key", "canary+secret/0a1b2c3d4e5f=")
        canaries.collect("log", b"canary secret 0a1b2c3d4e5 canary+secret", base64.b64encode(b"canary+secret/"))
        assert canaries.leaks() == []


@dataclass
class Place:
    """A user's folder with everything that is secret in it."""

    shell: Shell
    sim: LiveSimulator
    canaries: Canaries = field(default_factory=Canaries)

    @property
    def folder(self) -> Path:
        return self.shell.cwd

    @property
    def home(self) -> Path:
        return self.folder / ".qwen"

    def run(self, *arguments: str, status: int = 0) -> None:
        ended = self.shell.run(*arguments)
        self.canaries.collect(f"the output of {' '.join(arguments)}", ended.stdout, ended.stderr)
        assert ended.returncode == status, ended.stderr

    def log_in(self, account: str, lifetime_s: float = 3600) -> None:
        document = self.sim.portal.call(self.sim.simulator.login, account).credentials(self.sim.url, lifetime_s)
        put_login(self.home, document, account)

    def look_at_process(self, process: subprocess.Popen[str]) -> None:
        """What everybody on this machine sees of it."""
        for name in ("cmdline", "comm", "status"):
            self.canaries.collect(f"/proc/PID/{name}", Path(f"/proc/{process.pid}/{name}").read_bytes())

    def end(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        self.canaries.collect("the output of serve", stdout, stderr)
        assert "Traceback" not in stderr

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[Caller]:
        with self.shell.popen("serve", "--port", "0", *arguments) as process:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("qproxy listening on ").strip()
            try:
                self.look_at_process(process)
                yield Caller(url, self.canaries)
                self.end(process)
            finally:
                process.kill()

    def take_stock(self) -> None:
        """Every file that is there now, and every secret that the login's server gave or got."""
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self.canaries.collect(str(path.relative_to(self.folder)), path.read_bytes())
        for number, login in enumerate(self.sim.simulator.oauth._by_access.values()):
            self.canaries.add(f"access token {number}", login.access_token)
            self.canaries.add(f"refresh token {number}", login.refresh_token)
        for request in self.sim.simulator.requests:
            if request.path.endswith(TOKEN):
                form = parse_qs(request.body.decode())
                for name in ("device_code", "code_verifier"):
                    for value in form.get(name, ()):
                        self.canaries.add(f"{name} {value[:4]}", value)


@dataclass
class Caller:
    """A client that keeps every byte of every answer."""

    url: str
    canaries: Canaries

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_S)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        try:
            content = response.read()
        except http.client.IncompleteRead as broken:
            content = broken.partial
        connection.close()
        self.canaries.collect(f"the answer to {method} {path}", str(response.getheaders()), content)
        return response.status, content

    def chat(self, key: str, model: str = MODEL, stream: bool = False, **headers: str) -> int:
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", CHAT, body, {"Authorization": f"Bearer {key}", **sent})[0]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The simulator's API takes the two good keys alone."""
    canaries = Canaries()
    one, two = (
        canaries.add("key one", "sk-canary+one/48d004dc9b3fe3="),
        canaries.add("key two", "sk-canary+two/b3e8512c2cb1b1="),
    )
    options = Options(tokens=3, keys=frozenset({one, two}), poll_interval_s=0.05)
    with live_simulator(options) as sim:
        environ = {
            "CLIENT_KEY": canaries.add("client key", "canary+client/2fb5216a3c4306="),
            "TWO_KEY": two,
            "WRONG_KEY": canaries.add("refused key", "sk-canary+wrong/57dc37af6256cd="),
            "QWEN_CLIENT_SECRET": canaries.add("client secret", "canary+oauth/client/75877ad3a965aa="),
            "QWEN_BASE_URL": sim.url,
            "QPROXY_HOME": str(tmp_path / "state"),
        }
        (tmp_path / "one.key").write_text(one)
        (tmp_path / "admin.key").write_text(canaries.add("admin key", "canary+admin/7f7963b6de38b0="))
        header = canaries.add("header", "canary+header/06e84818bd9343=")
        (tmp_path / "qproxy.toml").write_text(SETTINGS.format(url=sim.url, header=header))
        yield Place(Shell(tmp_path, environ), sim, canaries)


def use_the_api(place: Place, caller: Caller) -> None:
    """Good and bad requests of all kinds, with keys and logins that are good, limited, refused and dead."""
    sim, secrets = place.sim, place.canaries.secrets
    key = secrets["client key"]
    bearer = {"Authorization": f"Bearer {key}"}
    assert caller.chat(key) == 200
    assert caller.chat(key, stream=True) == 200
    sim.portal.call(sim.simulator.account(secrets["key one"]).answer_next, "429-rate")
    assert caller.chat(key) == 200
    for scenario in ("400", "500-html", "504", "401", "cut", "error-in-stream", "cut-before-head", "truncate"):
        sim.portal.call(sim.simulator.account(secrets["key two"]).answer_next, scenario)
        caller.chat(key, stream=True, x_qwen_account="key-2")
    assert caller.chat(key, "wrong/model") == 401
    assert caller.chat(place.canaries.add("stranger's key", "canary+stranger/121261a0d9baee=")) == 401
    assert caller.chat("", x_api_key=key) in (200, 429, 503)
    assert caller.chat(key, x_qwen_account=key) == 400
    assert caller.ask("POST", f"{CHAT}?key={quote_plus(key)}", {"model": MODEL, "messages": []}, bearer)[0]
    assert caller.ask("POST", CHAT, b'{"api_key": "%b", ' % key.encode(), bearer)[0] == 400
    assert caller.ask("POST", "/v1/embeddings", {"model": "text-embedding-v4", "input": "a"}, bearer)[0]
    assert caller.ask("POST", "/v1/files", b"a file", {**bearer, "Content-Type": "text/plain"})[0]
    for path in ("/v1/models", f"/v1/models?key={quote_plus(key)}", "/health", "/livez", "/readyz", "/nowhere", "/"):
        caller.ask("GET", path, None, bearer)
    caller.ask("GET", "/v1/models", None, {"Authorization": key, "Cookie": f"key={key}", "X-Api-Key": key + "x"})


def use_the_logins(place: Place, caller: Caller) -> None:
    """Renewed, refused, denied, broken, taken away; each told in the log."""
    sim, key = place.sim, place.canaries.secrets["client key"]
    assert caller.chat(key, "portal/qwen", x_qwen_account="default") == 200
    assert caller.chat(key, "portal/qwen", x_qwen_account="old") == 200, "it is renewed"
    sim.portal.call(sim.simulator.oauth.expire, json.loads(login_path(place.home).read_text())["access_token"])
    assert caller.chat(key, "portal/qwen", x_qwen_account="default") == 200, "it is renewed"
    sim.portal.call(sim.simulator.oauth.revoke, "dead")
    assert caller.chat(key, "portal/qwen", x_qwen_account="dead") == 503
    sim.fail_next("oauth-garbage", path=TOKEN)
    for account in ("dead", "stale", "broken", "odd", "away"):
        assert caller.chat(key, "portal/qwen", x_qwen_account=account) == 503


def use_the_admin_side(place: Place, caller: Caller) -> None:
    """A login from beginning to end, and what is shown of the others."""
    secrets = place.canaries.secrets
    admin = {"Authorization": f"Bearer {secrets['admin key']}"}
    for prefix in ("", "/v1/debug"):
        account = {"account": f"by-admin{len(prefix)}"}
        status, content = caller.ask("POST", f"{prefix}/auth/initiate", account, admin)
        assert status == 200
        begun = json.loads(content)
        place.sim.approve(begun["user_code"], "by-admin")
        state = ""
        while state != "done":
            content = caller.ask("POST", f"{prefix}/auth/poll", {"handle": begun["handle"]}, admin)[1]
            state = json.loads(content)["state"]
            assert state in ("pending", "slow_down", "done"), content
    assert caller.ask("GET", "/v1/debug/token", None, admin)[0] == 200
    assert caller.ask("GET", "/v1/debug/auth/test", None, admin)[0] == 200
    for path in ("/v1/debug/token", "/v1/debug/auth/test"):
        caller.ask("GET", path, None, {"Authorization": f"Bearer {secrets['client key']}"})
    caller.ask("POST", "/auth/poll", {"handle": secrets["admin key"]}, admin)


def use_the_commands(place: Place) -> None:
    """All that look at accounts, and the login itself, while no server runs."""
    sim = place.sim
    for options in ((), ("--json",)):
        for command in ("list", "status", "counts"):
            place.run("auth", command, *options)
    place.run("models")
    place.run("check", status=1)
    place.run("check", "--json", status=1)
    for arguments, status in ((("login", "--account", "by-hand"), 0), (("add", "refused", "--json"), 3)):
        with place.shell.popen("auth", *arguments, "--no-browser") as process:
            assert process.stdout is not None
            lines: list[str] = []
            while not (found := re.search(r"user_code[=\": ]+(\w+)", "".join(lines))):
                lines.append(process.stdout.readline())
                assert lines[-1], process.communicate()
            place.look_at_process(process)
            (sim.approve if status == 0 else sim.deny)(found[1])
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
            place.canaries.collect(f"the output of auth {arguments[0]}", *lines, stdout, stderr)
            assert process.returncode == status, stderr
    (place.folder / "cpa.json").write_text(json.dumps(imported(place)))
    place.run("auth", "import", "cpa.json", "--account", "imported")
    place.run("auth", "import", "cpa.json", "--account", "imported", status=1)
    place.run("auth", "import", str(login_path(place.home, "broken")), "--account", "again", status=1)
    exported = place.shell.run("auth", "export", "imported")
    place.canaries.collect("the errors of auth export", exported.stderr)
    (place.folder / "exported.json").write_text(exported.stdout)
    place.run("auth", "export", "broken", status=1)
    place.run("auth", "remove", "imported")


def imported(place: Place) -> dict[str, object]:
    """A login as another program keeps it."""
    return {
        "access_token": place.canaries.add("imported access token", "canary+imported/access/a94fb63de8be34="),
        "refresh_token": place.canaries.add("imported refresh token", "canary+imported/refresh/937a9c0bbeacec="),
        "type": "qwen",
        "expired": "2099-01-01T00:00:00Z",
    }


def make_mistakes(place: Place) -> None:
    """Settings that cannot be used, with the secret in the middle of what is wrong."""
    spaced = place.canaries.add("key with a space", "canary spaced 55aa01f3c7d9e2")
    mistakes: tuple[tuple[dict[str, str], tuple[str, ...]], ...] = (
        ({"QPROXY_API_KEY": spaced}, ()),
        ({"QPROXY_ADMIN_KEY": spaced}, ()),
        ({"QPROXY_UPSTREAM_KEY": spaced, "QPROXY_UPSTREAM": "dashscope"}, ()),
        ({"DASHSCOPE_API_KEY": spaced}, ("--upstream", "dashscope")),
        ({"QWEN_CLIENT_SECRET": spaced}, ()),
        ({"QWEN_OAUTH_CREDS": json.dumps(imported(place))[:-1]}, ()),
        ({"QWEN_OAUTH_CREDS": json.dumps({**imported(place), "expiry_date": "never"})}, ()),
        ({"CLIENT_KEY": ""}, ("--api-key", "env:CLIENT_KEY")),
    )
    before = dict(place.shell.environ)
    for changes, arguments in mistakes:
        place.shell.environ = {**before, **changes}
        ended = place.shell.run("serve", "--port", "0", *arguments)
        place.canaries.collect("the output of a start that fails", ended.stdout, ended.stderr)
        assert ended.returncode == 2, (changes, ended.stderr)
    place.shell.environ = before


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc here")
@pytest.mark.timeout(240)
def test_no_secret_gets_out(place: Place) -> None:
    canaries = place.canaries
    for account, lifetime_s in (("default", 3600), ("old", -60), ("dead", -60), ("stale", -60), ("gone", 3600)):
        place.log_in(account, lifetime_s)
    half = json.dumps(imported(place)).encode()[:-10]
    put_login(
        place.home, {**imported(place), "token_type": canaries.add("odd type", "canary+type/751c5bc4c52952=")}, "odd"
    )
    login_path(place.home, "broken").write_bytes(half)
    away = {**imported(place), "expiry_date": 4_102_444_800_000, "resource_url": "https://evil.example"}
    put_login(place.home, away, "away")
    login_path(place.home, "gone").chmod(0o644)

    with place.serving("--api-key", "env:CLIENT_KEY", "--admin-key", "file:admin.key") as caller:
        use_the_api(place, caller)
        use_the_logins(place, caller)
        use_the_admin_side(place, caller)
        login_path(place.home, "gone").unlink()
        for path in ("/health", "/v1/debug/token"):
            caller.ask("GET", path, None, {"Authorization": f"Bearer {canaries.secrets['admin key']}"})
    use_the_commands(place)
    make_mistakes(place)
    place.shell.environ |= {
        "QWEN_OAUTH_CREDS": json.dumps(json.loads(login_path(place.home).read_text())),
        "QWEN_OAUTH_CACHE": "cache.json",
    }
    with place.serving("--access-log", "stderr", "--api-key", "env:CLIENT_KEY") as caller:
        given = json.loads(login_path(place.home).read_text())["access_token"]
        place.sim.portal.call(place.sim.simulator.oauth.expire, given)
        for _ in range(2):
            assert caller.chat(canaries.secrets["client key"], "portal/qwen", x_qwen_account="default") == 200
    settings = load({}, place.shell.environ, place.folder, place.folder)
    canaries.collect("repr of the settings", repr(settings), str(settings))

    place.take_stock()
    kept = {str(path.relative_to(place.folder)) for path in place.home.glob("*.json")} | set(KEPT_HERE)
    assert {"access.log", "state/qproxy.sqlite3", "the output of serve", "/proc/PID/cmdline"} <= set(canaries.output)
    assert {"device_code", "code_verifier"} <= {name.partition(" ")[0] for name in canaries.secrets}
    found = canaries.leaks(kept)
    assert found == ["header in qproxy.toml (clear)", "header in qproxy.toml (its core)"], "where the user wrote it"
    assert len(canaries.leaks()) > len(found) + 10, "the search sees the files that are exempt"

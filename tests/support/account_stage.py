"""A proxy with several accounts in front of the simulator, and what its access log says of each request."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio

from qproxy import app
from qproxy.config.values import Secret
from qproxy.simulator import Options, Simulator, running
from tests.support.http_client import Answer, Client, http_client
from tests.support.live import settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qproxy.config import Settings
    from qproxy.core.account import AccountView
    from qproxy.simulator import Login

MODEL = "qwen3-coder-plus"
CHAT = "/v1/chat/completions"
NOTICED_S = 10.0
"""For what a server notices by itself, about once a second."""


def chat_body(model: str = MODEL, **fields: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}


def error_of(answered: Answer) -> tuple[int, str, str]:
    """Status, code and message."""
    error = answered.json()["error"]
    return answered.status, error["code"], error["message"]


def with_keys(settings: Settings, *keys: str) -> Settings:
    """The same settings with these keys of every upstream that takes one; the accounts are `key-1`, `key-2` ..."""
    secrets = tuple(map(Secret, keys))
    changed = {
        name: replace(each, keys=secrets) if each.upstream.base is not None else each
        for name, each in settings.upstreams.items()
    }
    return replace(settings, upstreams=changed)


def key_settings(simulator: Simulator, *keys: str, **flags: object) -> Settings:
    """Accounts in the order of the keys, the first one used until it is out."""
    return with_keys(settings_for(simulator.base_url, None, **{"rotation": "fill_first", **flags}), *keys)


def login_settings(simulator: Simulator, home: Path, **flags: object) -> Settings:
    """Accounts from the files in `home`, the default one first; the login's server is the simulator."""
    environ = {"QWEN_BASE_URL": simulator.url, "QWEN_HOME": str(home)}
    return settings_for("qwen-oauth", environ, **{"rotation": "fill_first", **flags})


def login_path(home: Path, account: str = "default") -> Path:
    return home / ("oauth_creds.json" if account == "default" else f"oauth_creds_{account}.json")


def put_login(home: Path, document: dict[str, object], account: str = "default") -> Path:
    """A login's file, as the CLI would have written it."""
    home.mkdir(mode=0o700, exist_ok=True)
    path = login_path(home, account)
    temporary = path.with_suffix(".putting")
    temporary.write_text(json.dumps(document, indent=2))
    temporary.chmod(0o600)
    temporary.replace(path)
    return path


def log_in(
    simulator: Simulator, home: Path, account: str = "default", *, user: str = "", lifetime_s: float = 3600
) -> Login:
    """A login in the account's file. The simulator knows its user by the account's name, where none is given."""
    login = simulator.login(user or account)
    put_login(home, login.credentials(simulator.url, lifetime_s), account)
    return login


def make_older(path: Path, seconds: float) -> None:
    """As if the file had been written so long ago."""
    written = path.stat()
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns - int(seconds * 1e9)))


@dataclass
class AccountStage:
    """`client` talks to the proxy; `log` is its access log."""

    simulator: Simulator
    proxy: app.Running
    client: Client
    log: Path

    async def chat(self, model: str = MODEL, **headers: str) -> Answer:
        return await self.client.post(CHAT, chat_body(model), **headers)

    async def stream(self, model: str = MODEL, **headers: str) -> Answer:
        return await self.client.post(CHAT, chat_body(model, stream=True), **headers)

    def bearers(self) -> list[str]:
        """The credential of each request that the API got, in order."""
        return [request.head.bearer for request in self.simulator.requests if request.path.startswith("/v1/")]

    async def lines(self) -> list[dict[str, str]]:
        """The fields of each access line, when no request is under way."""
        await self.at_rest()
        self.proxy.app.access_log.flush()
        text = self.log.read_text() if self.log.exists() else ""
        return [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in text.splitlines()]

    async def used(self) -> tuple[str, int]:
        """The account and the attempts of the last request."""
        last = (await self.lines())[-1]
        return last["account"], int(last["attempts"])

    async def at_rest(self) -> None:
        """Returns when every lease is back; a client may have its answer a moment before that."""
        await until_noticed(lambda: self.in_flight() == 0)

    def view(self, account: str) -> AccountView:
        return next(each for each in self.proxy.app.accounts.views() if each.account_id == account)

    def in_flight(self) -> int:
        return sum(each.in_flight for each in self.proxy.app.accounts.views())

    @property
    def token_posts(self) -> int:
        return self.simulator.oauth.token_posts


@asynccontextmanager
async def account_stage(simulator: Simulator, settings: Settings, folder: Path) -> AsyncIterator[AccountStage]:
    """At its end every lease must be back."""
    log = folder / "access.log"
    async with (
        app.running(replace(settings, access_log=str(log))) as proxy,
        http_client(proxy.url) as client,
    ):
        stage = AccountStage(simulator, proxy, client, log)
        yield stage
        await stage.at_rest()


@asynccontextmanager
async def key_stage(
    folder: Path, *keys: str, options: Options | None = None, **flags: object
) -> AsyncIterator[AccountStage]:
    """Keys of one upstream, which is the simulator."""
    async with (
        running(options or Options(tokens=4)) as simulator,
        account_stage(simulator, key_settings(simulator, *keys, **flags), folder) as stage,
    ):
        yield stage


async def until_noticed(condition: object) -> None:
    """Returns when `condition()` is true, which the server brings about by itself."""
    assert callable(condition)
    with anyio.fail_after(NOTICED_S):
        while not condition():
            await anyio.sleep(0.02)

"""A keeper of tokens with a real file, the simulator as the login's server, and clocks that a test can move."""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from qproxy.edge.login_store import FileStore, LoginStore
from qproxy.edge.token_file import FileVersion
from qproxy.edge.token_lock import lock_path
from qproxy.edge.token_renewal import RenewalSettings
from qproxy.edge.tokens import KeeperSettings, TokenKeeper
from qproxy.errors import AccountError
from qproxy.simulator import Options, Simulator, running
from tests.support.login_server import CLIENT, TOKENS, token_endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

    from qproxy.core.upstream import Credential
    from qproxy.edge.token_endpoint import TokenEndpoint
    from qproxy.simulator import Login

TOKEN_PATH = "/oauth2/token"
RENEWAL = RenewalSettings(CLIENT, lock_first_wait_s=0.002)
SETTINGS = KeeperSettings(RENEWAL, look_s=0.0, young_s=0.0)


@dataclass
class Clocks:
    """The real ones, and what a test adds."""

    wall_ahead_s: float = 0.0
    monotonic_ahead_s: float = 0.0

    def wall(self) -> float:
        return time.time() + self.wall_ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self.monotonic_ahead_s


@dataclass
class LoginStage:
    """One account's file and all that is about it. `said` is what the operator was told."""

    simulator: Simulator
    endpoint: TokenEndpoint
    tasks: TaskGroup
    path: Path
    clocks: Clocks = field(default_factory=Clocks)
    said: list[str] = field(default_factory=list)

    def log_in(self, lifetime_s: float = 3600, account: str = "user", **others: object) -> Login:
        """A login in the file, as the CLI would have written it."""
        login = self.simulator.login(account)
        self.put({**login.credentials(self.simulator.url, lifetime_s), **others})
        return login

    def put(self, document: dict[str, object] | bytes) -> None:
        """Replace the file; its time only goes forward."""
        before_ns = self.path.stat().st_mtime_ns if self.path.exists() else 0
        temporary = self.path.with_suffix(".putting")
        temporary.write_bytes(document if isinstance(document, bytes) else json.dumps(document, indent=2).encode())
        temporary.chmod(0o600)
        if temporary.stat().st_mtime_ns <= before_ns:
            os.utime(temporary, ns=(before_ns + 1_000_000,) * 2)
        temporary.replace(self.path)

    def document(self) -> dict[str, Any]:
        """What the file says."""
        document: dict[str, Any] = json.loads(self.path.read_bytes())
        return document

    def expires_in_s(self) -> float:
        return float(self.document()["expiry_date"]) / 1000 - time.time()

    def keeper(
        self,
        settings: KeeperSettings = SETTINGS,
        *,
        store: LoginStore | None = None,
        account: str = "default",
        chance: float = 0.0,
        tasks: TaskGroup | None = None,
        **renewal: Any,
    ) -> TokenKeeper:
        """A server's keeper of this login; `renewal` changes settings of the renewal."""
        return TokenKeeper(
            account,
            store or FileStore(self.path),
            self.endpoint,
            tasks or self.tasks,
            replace(settings, renewal=replace(settings.renewal, **renewal)),
            wall_clock=self.clocks.wall,
            monotonic=self.clocks.monotonic,
            chance=lambda: chance,
            report=self.said.append,
        )

    @property
    def posts(self) -> int:
        return self.simulator.oauth.token_posts

    @property
    def lock(self) -> Path:
        return lock_path(self.path)

    def accepts(self, access_token: str) -> bool:
        """Whether the API takes the token."""
        return self.simulator.oauth.accepts(access_token, anyio.current_time())

    def fail_next(self, scenario: str, times: int = 1) -> None:
        """What the token endpoint does next."""
        self.simulator.fail_next(scenario, times=times, path=TOKEN_PATH)


@asynccontextmanager
async def login_stage(folder: Path, options: Options | None = None) -> AsyncIterator[LoginStage]:
    async with running(options) as simulator, token_endpoint(simulator.url + TOKENS) as endpoint:
        async with anyio.create_task_group() as tasks:
            yield LoginStage(simulator, endpoint, tasks, folder / "oauth_creds.json")
            simulator.release()
            tasks.cancel_scope.cancel()


class BrokenDisk(FileStore):
    """A file that can be read, and for a while not written."""

    is_broken = True

    def write(self, data: bytes) -> FileVersion:
        if self.is_broken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def written_an_hour_ago(stage: LoginStage) -> None:
    """The last minutes of the login's life are then no longer half of it."""
    os.utime(stage.path, (time.time() - 3600,) * 2)


async def failure(keeper: TokenKeeper) -> AccountError:
    """Why there is no token."""
    with pytest.raises(AccountError) as caught:
        await keeper.fresh()
    return caught.value


async def refusal(keeper: TokenKeeper, credential: Credential) -> AccountError:
    """Why there is no token but this one."""
    with pytest.raises(AccountError) as caught:
        await keeper.refused(credential)
    return caught.value


async def landed(keeper: TokenKeeper) -> None:
    """Returns when no renewal is under way."""
    while keeper._flight is not None:
        await anyio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Of the loop."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()

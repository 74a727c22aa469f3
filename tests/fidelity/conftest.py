"""The whole proxy in front of a recording simulator, both on the loop of the test, for the length of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from qproxy import app
from qproxy.config import Settings, load
from qproxy.simulator import Options, Simulator, running
from tests.support.live import NOWHERE, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(scope="module")
async def simulator(anyio_backend: object) -> AsyncIterator[Simulator]:
    async with running(Options(tokens=4, record=4)) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def proxy(simulator: Simulator) -> AsyncIterator[app.Running]:
    async with app.running(settings_for(simulator.base_url)) as running_proxy:
        yield running_proxy


class Configure(Protocol):
    """Settings from the text of a settings file, and flags."""

    def __call__(self, toml: str, **flags: object) -> Settings: ...


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    def settings(toml: str, **flags: object) -> Settings:
        path = tmp_path / "qproxy.toml"
        path.write_text(toml, encoding="utf-8")
        given = {"port": 0, "access_log": "off", "config": str(path), **flags}
        return load(given, {}, NOWHERE, NOWHERE)

    return settings

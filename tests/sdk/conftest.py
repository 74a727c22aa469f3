"""For every loop a proxy that lives as long as a test module, and clients of the official SDK."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.sdk_stage import CLIENT_KEY, Stage, keyed, stage_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from qproxy.config import Settings

LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@pytest.fixture(scope="session", autouse=True)
def _plain_environment() -> Iterator[None]:
    """Without variables that make the SDK, or the HTTP client below it, talk to somebody else."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="module", params=LOOPS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def anyio_backend(backend: str) -> object:
    """An async client runs on the same kind of loop as the proxy, in another thread."""
    return LOOPS[backend]


def _patient(upstream: str) -> Settings:
    """However late a simulator in another thread says or breaks off the first event, it is waited for."""
    return keyed(upstream, peek_s=60.0)


@pytest.fixture(scope="module")
def stage(backend: str) -> Iterator[Stage]:
    with stage_on(backend, settings=_patient) as running_stage:
        yield running_stage


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stage.base_url, api_key=CLIENT_KEY, max_retries=0) as sync_client:
        yield sync_client


@pytest.fixture
async def async_client(stage: Stage) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stage.base_url, api_key=CLIENT_KEY, max_retries=0) as client:
        yield client

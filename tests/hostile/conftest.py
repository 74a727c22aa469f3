"""The whole proxy in front of an upstream that keeps every byte, both on the loop of the test, for a whole module."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from tests.support.leaks import turns
from tests.support.live import settings_for
from tests.support.scripted_upstream import (
    Connection,
    ScriptedUpstream,
    answer,
    chunk,
    event,
    expect_request,
    scripted_upstream,
    stream_head,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

KEEPALIVE_S = 0.03
JSON = (b"content-type", b"application/json")
FIRST_EVENT = event(b'{"choices":[{"delta":{"content":"a"}}]}')
DONE = event(b"[DONE]")


@dataclass
class Recorder:
    """An upstream that answers every whole request, and what it has seen.

    The model says how: `wait` never answers, `stall` begins a stream and says no more, `flood` never ends one; all
    others get `{}`. `requests` are the whole ones, as they came.
    """

    requests: list[bytes] = field(default_factory=list)
    waiting: int = 0
    left: int = 0
    scripted: ScriptedUpstream | None = None

    @property
    def url(self) -> str:
        assert self.scripted is not None
        return self.scripted.url + "/v1"

    @property
    def received_bytes(self) -> int:
        assert self.scripted is not None
        return sum(len(connection.received) for connection in self.scripted.connections)

    @property
    def open_connections(self) -> int:
        assert self.scripted is not None
        return sum(not connection.finished.is_set() for connection in self.scripted.connections)

    async def serve(self, connection: Connection) -> None:
        """The script of every connection."""
        expect = expect_request()
        begun = 0
        try:
            while True:
                await expect(connection)
                request = connection.received[begun : connection._consumed]
                begun = connection._consumed
                self.requests.append(request)
                await self._answer(connection, request)
        finally:
            self.left += 1

    async def _answer(self, connection: Connection, request: bytes) -> None:
        if b'"wait"' in request:
            await self._hold(connection)
        elif b'"stall"' in request:
            await connection.wire.send(stream_head() + chunk(FIRST_EVENT))
            await self._hold(connection)
        elif b'"flood"' in request:
            await connection.wire.send(stream_head())
            while True:
                await connection.wire.send(chunk(FIRST_EVENT) * 500)
        await connection.wire.send(answer(200, [JSON], b"{}"))

    async def _hold(self, connection: Connection) -> None:
        self.waiting += 1
        try:
            await wait_for(anyio.Event())(connection)
        finally:
            self.waiting -= 1

    async def until_waiting(self, count: int = 1) -> None:
        while self.waiting < count:
            await turns(1)

    async def until_idle(self) -> None:
        """No connection is open."""
        while self.open_connections:
            await anyio.sleep(0.002)


@asynccontextmanager
async def recording() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with scripted_upstream([recorder.serve]) as scripted:
        recorder.scripted = scripted
        yield recorder


@asynccontextmanager
async def guarded(
    upstream_url: str,
    *,
    timeouts: dict[str, float] | None = None,
    limits: dict[str, int] | None = None,
    **flags: object,
) -> AsyncIterator[app.Running]:
    """A proxy whose clocks and sizes are those of the test; its idle connections to the upstream soon expire."""
    settings = settings_for(upstream_url, None, **flags)
    settings = replace(
        settings,
        timeouts=replace(settings.timeouts, **(timeouts or {})),
        limits=replace(settings.limits, **(limits or {})),
        upstreams={
            name: replace(each, upstream=replace(each.upstream, keepalive_s=KEEPALIVE_S))
            for name, each in settings.upstreams.items()
        },
    )
    async with app.running(settings) as proxy:
        yield proxy


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
async def recorder(anyio_backend: object) -> AsyncIterator[Recorder]:
    async with recording() as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def proxy(recorder: Recorder) -> AsyncIterator[app.Running]:
    async with guarded(recorder.url) as running_proxy:
        yield running_proxy


@pytest.fixture(autouse=True)
def nothing_of_it_is_our_own_fault(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a peer does is no internal error."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []

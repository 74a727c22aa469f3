"""A proxy that can be told to leave, in front of an upstream whose answers wait for the test."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio

from qproxy import app
from tests.support.http_client import port_of
from tests.support.leaks import nothing_left, turns
from tests.support.live import settings_for
from tests.support.raw_client import End, post
from tests.support.scripted_upstream import chunk, event, expect_request, scripted_upstream, send, stream_head, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

    from tests.support.raw_client import Answer, RawClient
    from tests.support.scripted_upstream import Connection, Step

CHAT = "/v1/chat/completions"
ASK = post(CHAT, b'{"model":"m"}')
ASK_STREAM = post(CHAT, b'{"model":"m","stream":true}')
FIRST = event(b'{"choices":[{"delta":{"content":"a"}}]}')
LAST = event(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}') + event(b"[DONE]")
LONG_S = 60.0


@dataclass
class Stage:
    """The upstream begins each stream with `FIRST`, and ends it with `LAST` once `go_on` is set."""

    proxy: app.Running
    tasks: TaskGroup
    go_on: anyio.Event
    is_drained: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return self.proxy.url

    def drain(self) -> None:
        """Begin to leave."""
        self.tasks.start_soon(self._drain)

    async def _drain(self) -> None:
        await self.proxy.drain()
        self.is_drained.set()

    async def until_leaving(self) -> None:
        while self.proxy.app.drain.obstacle() is None:
            await turns(1)

    async def until_closed(self) -> None:
        """No new connection is taken."""
        while not await refuses(self.url):
            await turns(1)


async def refuses(url: str) -> bool:
    """Whether a new connection is refused."""
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port_of(url))
    except OSError:
        return True
    await stream.aclose()
    return False


async def begin_stream(client: RawClient, request: bytes = ASK_STREAM) -> Answer:
    """A stream whose first event has come."""
    await client.send(request)
    got = await client.begin()
    await client.until(got, FIRST)
    return got


async def whole(client: RawClient, got: Answer) -> Answer:
    """The answer to its end."""
    while got.end is End.OPEN:
        await client.more(got)
    return got


def streaming(go_on: anyio.Event) -> Step:
    """Every request of a connection gets a stream in two parts."""

    async def step(connection: Connection) -> None:
        while not connection.wire.closed:
            await expect_request()(connection)
            await send(stream_head() + chunk(FIRST))(connection)
            await wait_for(go_on)(connection)
            await send(chunk(LAST) + chunk(b""))(connection)

    return step


@asynccontextmanager
async def drain_stage(
    *script: Step,
    drain_s: float = LONG_S,
    drain_delay_s: float = 0.0,
    keepalive_after_s: float = LONG_S,
    go_on: anyio.Event | None = None,
    **flags: object,
) -> AsyncIterator[Stage]:
    """`script` is that of every upstream connection, where it is not the usual one."""
    go_on = go_on or anyio.Event()
    async with nothing_left(), scripted_upstream(script or [streaming(go_on)]) as upstream:
        settings = settings_for(upstream.url + "/v1", None, **flags)
        clocks = {"drain_s": drain_s, "drain_delay_s": drain_delay_s, "keepalive_after_s": keepalive_after_s}
        settings = replace(settings, timeouts=replace(settings.timeouts, **clocks))
        async with app.running(settings) as proxy, anyio.create_task_group() as tasks:
            yield Stage(proxy, tasks, go_on)
            tasks.cancel_scope.cancel()

"""An upstream that answers each request when the test says so, and a proxy with limits in front of it.

    async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
        ...                                    # a client sends a request for the model "a"
        await upstream.until_asked("a")
        upstream.answer("a")

The model is the name of a request: each must be another one.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio

from qproxy import app
from qproxy.core.line import Line
from tests.support.leaks import turns
from tests.support.live import settings_for
from tests.support.raw_client import Answer, RawClient, post, raw_client
from tests.support.scripted_upstream import Connection, answer, expect_request, scripted_upstream, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATH = "/v1/embeddings"
JSON = (b"content-type", b"application/json")
MODEL = re.compile(rb'"model":"([^"]*)"')


@dataclass
class HeldUpstream:
    """`asked` are the requests in the order of their coming; `most` is how many were open at once at most."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    open: int = 0
    most: int = 0
    _answers: dict[str, bytes] = field(default_factory=dict)
    _released: dict[str, anyio.Event] = field(default_factory=dict)
    _always: bytes | None = None

    def answer(self, name: str, body: bytes = b"{}", status: int = 200) -> None:
        """Let go of a request, of one that is still to come as well."""
        self._answers[name] = answer(status, [JSON], body)
        self._event(name).set()

    def answer_all(self) -> None:
        """Hold nothing any more."""
        self._always = answer(200, [JSON], b"{}")
        for name in self.asked:
            self._event(name).set()

    async def until_asked(self, name: str) -> None:
        while name not in self.asked:
            await turns(1)

    async def serve(self, connection: Connection) -> None:
        """The script of every connection."""
        expect = expect_request()
        begun = 0
        while True:
            await expect(connection)
            request = connection.received[begun : connection._consumed]
            begun = connection._consumed
            await self._answer(connection, request)

    async def _answer(self, connection: Connection, request: bytes) -> None:
        found = MODEL.search(request)
        assert found is not None, request
        name = found[1].decode()
        self.asked.append(name)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            if self._always is None:
                await wait_for(self._event(name))(connection)
        finally:
            self.open -= 1
        await connection.wire.send(self._always or self._answers[name])

    def _event(self, name: str) -> anyio.Event:
        return self._released.setdefault(name, anyio.Event())


@asynccontextmanager
async def held_upstream() -> AsyncIterator[HeldUpstream]:
    upstream = HeldUpstream()
    async with scripted_upstream([upstream.serve]) as scripted:
        upstream.url = scripted.url + "/v1"
        yield upstream


@asynccontextmanager
async def limited(
    url: str, *, queue_wait_s: float = 30.0, upstream_exchanges: int = 0, keys: tuple[str, ...] = (), **limits: int
) -> AsyncIterator[app.Running]:
    """A proxy with these limits."""
    settings = settings_for(url, api_keys=keys)
    settings = replace(
        settings,
        limits=replace(settings.limits, **limits),
        timeouts=replace(settings.timeouts, queue_wait_s=queue_wait_s),
        upstreams={
            name: replace(each, upstream=replace(each.upstream, max_exchanges=upstream_exchanges))
            for name, each in settings.upstreams.items()
        },
    )
    async with app.running(settings) as proxy:
        yield proxy


def request_for(name: str, *, key: str = "", padding_bytes: int = 0) -> bytes:
    """A request of that name, with a client key where there is one."""
    body = b'{"model":"%b","input":"%b"}' % (name.encode(), b"x" * padding_bytes)
    return post(PATH, body, *([b"Authorization: Bearer " + key.encode()] if key else []))


@asynccontextmanager
async def asking(proxy: app.Running, name: str, *, key: str = "", padding_bytes: int = 0) -> AsyncIterator[RawClient]:
    """A client that has sent a request of that name."""
    async with raw_client(proxy.url) as client:
        await client.wire.send(request_for(name, key=key, padding_bytes=padding_bytes))
        yield client


def _lines(proxy: app.Running) -> list[Line]:
    admission = proxy.app.services.admission
    assert admission is not None
    return [entrance._line for entrance in (admission._entrance, *admission._upstream_entrances.values())]


def in_line(proxy: app.Running) -> int:
    """How many wait for a place, here or at an upstream."""
    return sum(line.waiting for line in _lines(proxy))


def places_taken(proxy: app.Running) -> int:
    """How many places somebody has or waits for, here or at an upstream."""
    return sum(line.waiting + line._room._taken for line in _lines(proxy))


async def until_all_have_left(proxy: app.Running) -> None:
    """Nobody waits, and nobody has a place."""
    while places_taken(proxy):
        await turns(1)


async def until_in_line(proxy: app.Running, count: int) -> None:
    while in_line(proxy) != count:
        await turns(1)


def refusal(answer: Answer) -> tuple[int, object]:
    """Status and code of a refusal that may be tried again, after a time that it tells."""
    assert int(answer.header(b"retry-after")) >= 1
    assert answer.header(b"x-should-retry") == b"true"
    return answer.status, answer.error_code

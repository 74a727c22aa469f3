"""Upstreams that answer one request after the other as a test says, a proxy in front of them, and what they were asked.

async with backend([answer(429)]) as first, backend([GOOD]) as second:
    async with proxy_before(tmp_path, RULES, first=first, second=second) as proxy, raw_client(proxy.url) as client:
        got = await client.ask(chat("big"))
assert (first.models, second.models) == (["big"], ["big"])
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import orjson

from qproxy import app
from qproxy.config import Settings, load
from qproxy.simulator.request import parse_head
from qproxy.simulator.wire import PeerLeft, Wire, accept_forever
from tests.support.live import NOWHERE
from tests.support.raw_client import post
from tests.support.scripted_upstream import Connection, answer, chunk, event, send, stream_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.support.scripted_upstream import Step

CHAT = "/v1/chat/completions"
JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream")
FIRST = event(b'{"choices":[{"delta":{"content":"a"}}]}')
SECOND = event(b'{"choices":[{"delta":{"content":"b"}}]}')
DONE = event(b"[DONE]")
GOOD = answer(200, [JSON], b'{"object":"chat.completion"}')
STREAM = stream_head() + chunk(FIRST) + chunk(DONE) + chunk(b"")
LONG_BYTES = 300_000
"""More than is stored before it is passed on."""


def error(status: int, code: str = "some_code", *headers: tuple[bytes, bytes]) -> bytes:
    """A whole error in JSON."""
    body = orjson.dumps({"error": {"message": f"This is {code}.", "code": code}})
    return answer(status, [JSON, *headers], body)


def chat(model: str, *, stream: bool = False, version: bytes = b"1.1", padding_bytes: int = 0) -> bytes:
    """A request; with so much padding behind what the proxy has to know."""
    return post(CHAT, chat_body(model, stream=stream, padding_bytes=padding_bytes), version=version)


def chat_body(model: str, *, stream: bool = False, padding_bytes: int = 0) -> bytes:
    body = b'{"model": "%b", "stream": %b, "x": "%b"}'
    return body % (model.encode(), b"true" if stream else b"false", b"x" * padding_bytes)


class Early(bytes):
    """An answer that comes before the body was read."""


@dataclass
class Backend:
    """`replies` are the bytes, or the steps, that each request gets; the last one is for all that follow. A `shut` one
    refuses connections."""

    replies: Sequence[bytes | Sequence[Step]]
    port: int
    bodies: list[bytes] = field(default_factory=list)
    heads: int = 0
    connections: int = 0
    left: anyio.Event = field(default_factory=anyio.Event)
    _tasks: anyio.abc.TaskGroup | None = None
    _listener: socket.socket | None = None
    _accepting: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def models(self) -> list[str]:
        """The model of each request."""
        return [orjson.loads(body).get("model") for body in self.bodies]

    async def asked(self, count: int = 1) -> None:
        """Waits for the `count`-th request."""
        while len(self.bodies) < count:
            await anyio.sleep(0.001)

    def open(self) -> None:
        """Begin to listen."""
        assert self._tasks is not None
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(100)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener, self._accepting = listener, anyio.CancelScope()
        self._tasks.start_soon(self._accept, listener, self._accepting)

    def shut(self) -> None:
        """Refuse connections from now on; those that are open live."""
        self._accepting.cancel()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket, scope: anyio.CancelScope) -> None:
        assert self._tasks is not None
        with scope:
            await anyio.lowlevel.checkpoint()  # it may have been shut meanwhile
            await accept_forever(listener, self._tasks, self._serve)

    async def _serve(self, wire: Wire) -> None:
        self.connections += 1
        connection = Connection(wire)
        try:
            while not wire.closed:
                await self._reply(connection)
        except PeerLeft:
            self.left.set()
        finally:
            wire.close()

    async def _reply(self, connection: Connection) -> None:
        head = parse_head(await connection.read_until(b"\r\n\r\n"))
        self.heads += 1
        reply = self.replies[min(self.heads, len(self.replies)) - 1]
        if not isinstance(reply, Early):
            self.bodies.append(await connection.read_exactly(head.body_bytes))
        for step in [send(reply)] if isinstance(reply, bytes) else reply:
            await step(connection)


@asynccontextmanager
async def backend(*replies: bytes | Sequence[Step], is_open: bool = True) -> AsyncIterator[Backend]:
    """Listens inside the block, or refuses connections until it is opened."""
    with socket.socket() as held:  # bound and not listening: nobody else gets the port, and it refuses
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        upstream = Backend(replies or [GOOD], held.getsockname()[1])
        async with anyio.create_task_group() as tasks:
            upstream._tasks = tasks
            if is_open:
                upstream.open()
            try:
                yield upstream
            finally:
                upstream.shut()
                tasks.cancel_scope.cancel()


def settings_before(folder: Path, toml: str, **urls: str) -> Settings:
    """Settings with these upstreams, the first one the default; `toml` comes first in the file."""
    tables = "".join(f'[upstreams.{name}]\nurl = "{url}"\n' for name, url in urls.items())
    path = folder / "qproxy.toml"
    path.write_text(f'upstream = "{next(iter(urls))}"\n{toml}\n{tables}', encoding="utf-8")
    return load({"port": 0, "access_log": "off", "config": str(path)}, {}, NOWHERE, NOWHERE)


@asynccontextmanager
async def proxy_before(
    folder: Path, toml: str = "", *, timeouts: dict[str, float] | None = None, **upstreams: Backend
) -> AsyncIterator[app.Running]:
    """A proxy in front of them."""
    settings = settings_before(folder, toml, **{name: each.url for name, each in upstreams.items()})
    settings = replace(settings, timeouts=replace(settings.timeouts, **(timeouts or {})))
    async with app.running(settings) as proxy:
        yield proxy


def fallback(source: str, target: str, *on: str) -> str:
    """One rule, for the settings file."""
    causes = f"on = {orjson.dumps(on).decode()}\n" if on else ""
    return f'[[fallback]]\nfrom = "{source}"\nto = "{target}"\n{causes}'

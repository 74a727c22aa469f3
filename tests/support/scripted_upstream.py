"""An upstream that sends exactly the bytes a test says, and keeps exactly the bytes it received.

    script = [expect_request(), send(answer(200, body=b"{}")), close()]
    async with scripted_upstream(script) as upstream:
        ...  # talk to upstream.url
        assert upstream.connections[0].received.startswith(b"POST /v1/chat/completions HTTP/1.1")

Each connection runs one script: the first connection the first one and so on, the last script serves all that follow.
After the last step the connection is read until the peer leaves, so who closes first is always the script's own word:
`close()`, `reset()` or `half_close()`. A script needs no clock: it stops and goes on by events.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel

from qproxy.simulator.request import parse_head
from qproxy.simulator.wire import PeerLeft, Wire, accept_forever, listen

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    Step: TypeAlias = Callable[["Connection"], Awaitable[None]]


@dataclass
class Connection:
    """One accepted connection. `peer_left` is set as soon as the peer's FIN or RST is seen."""

    wire: Wire
    steps_done: int = 0
    peer_left: anyio.Event = field(default_factory=anyio.Event)
    finished: anyio.Event = field(default_factory=anyio.Event)
    _consumed: int = 0

    @property
    def received(self) -> bytes:
        """Everything that was read, raw and in order."""
        return bytes(self.wire.buffer)

    async def read_until(self, mark: bytes) -> bytes:
        """From where the last step stopped up to and with the mark."""
        while (end := self.wire.buffer.find(mark, self._consumed)) < 0:
            await self.wire.receive_more()
        return await self.read_exactly(end + len(mark) - self._consumed)

    async def read_exactly(self, count: int, at_once: int = 65536) -> bytes:
        while (missing := self._consumed + count - len(self.wire.buffer)) > 0:
            await self.wire.receive_more(min(missing, at_once))
        piece = bytes(self.wire.buffer[self._consumed : self._consumed + count])
        self._consumed += count
        return piece


@dataclass
class ScriptedUpstream:
    """`url` ends without a slash and without a path."""

    url: str
    connections: list[Connection] = field(default_factory=list)
    _grown: anyio.Event = field(default_factory=anyio.Event)

    async def connected(self, count: int = 1) -> Connection:
        """Waits for the `count`-th connection."""
        while len(self.connections) < count:
            await self._grown.wait()
        return self.connections[count - 1]

    def add(self, connection: Connection) -> None:
        self.connections.append(connection)
        self._grown.set()
        self._grown = anyio.Event()


@asynccontextmanager
async def scripted_upstream(
    *scripts: Sequence[Step],
    ssl_context: ssl.SSLContext | None = None,
    socket_path: str | None = None,
    receive_buffer_bytes: int = 0,
) -> AsyncIterator[ScriptedUpstream]:
    """Listens on loopback inside the block. A small receive buffer makes a peer's back-pressure come early."""
    with listen("127.0.0.1", 0, socket_path) as listener:
        if receive_buffer_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        upstream = ScriptedUpstream(_url(listener, ssl_context, socket_path))

        async def serve(wire: Wire) -> None:
            connection = Connection(wire)
            upstream.add(connection)
            script = scripts[min(len(upstream.connections), len(scripts)) - 1]
            await _run(connection, script, ssl_context)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(accept_forever, listener, tasks, serve)
            yield upstream
            tasks.cancel_scope.cancel()


def _url(listener: socket.socket, ssl_context: ssl.SSLContext | None, socket_path: str | None) -> str:
    if socket_path:
        return f"http+unix://{socket_path}"
    return f"{'https' if ssl_context else 'http'}://127.0.0.1:{listener.getsockname()[1]}"


async def _run(connection: Connection, script: Sequence[Step], ssl_context: ssl.SSLContext | None) -> None:
    try:
        if ssl_context is not None:
            await connection.wire.handshake(ssl_context)
        for step in script:
            await step(connection)
            connection.steps_done += 1
        while not connection.wire.closed:
            await connection.wire.receive_more()
    except PeerLeft:
        connection.peer_left.set()
    finally:
        connection.wire.close()
        connection.finished.set()


# Steps.


def expect_head() -> Step:
    """Reads a request head, up to and with its empty line."""

    async def step(connection: Connection) -> None:
        await connection.read_until(b"\r\n\r\n")

    return step


def expect_request() -> Step:
    """Reads a whole request, its body framed by Content-Length or by chunks without trailers."""

    async def step(connection: Connection) -> None:
        head = parse_head(await connection.read_until(b"\r\n\r\n"))
        if not head.chunked:
            await connection.read_exactly(head.body_bytes)
            return
        while size := int((await connection.read_until(b"\r\n")).partition(b";")[0], 16):
            await connection.read_exactly(size + 2)
        await connection.read_exactly(2)

    return step


def expect_bytes(count: int, *, at_once: int = 65536) -> Step:
    """Reads that many bytes; a small `at_once` is a reader that takes a sip at a time."""

    async def step(connection: Connection) -> None:
        await connection.read_exactly(count, at_once)

    return step


def send(*parts: bytes) -> Step:
    """Sends each part with a write of its own, and gives the peer a turn after each."""

    async def step(connection: Connection) -> None:
        for part in parts:
            await connection.wire.send(part)
            await anyio.lowlevel.checkpoint()

    return step


def send_bytewise(data: bytes) -> Step:
    """One write for each byte."""
    return send(*(data[index : index + 1] for index in range(len(data))))


def wait_for(event: anyio.Event) -> Step:
    """Stops until the event is set; what arrives meanwhile is read, and a peer that leaves ends the script."""

    async def step(connection: Connection) -> None:
        await connection.wire.watched(event.wait)

    return step


def wait_without_reading(event: anyio.Event) -> Step:
    """Stops until the event is set and lets the socket fill up."""

    async def step(_: Connection) -> None:
        await event.wait()

    return step


def reached(event: anyio.Event) -> Step:
    """Tells the test that the script has come to this point."""

    async def step(_: Connection) -> None:
        event.set()

    return step


def close() -> Step:
    """Closes; FIN, or RST where input is left unread: the kernel's rule."""

    async def step(connection: Connection) -> None:
        connection.wire.close()

    return step


def half_close() -> Step:
    """FIN only: reading goes on."""

    async def step(connection: Connection) -> None:
        connection.wire.half_close()

    return step


def reset() -> Step:
    """RST (SO_LINGER with 0)."""

    async def step(connection: Connection) -> None:
        connection.wire.reset()

    return step


# Bytes to send.


def answer(status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> bytes:
    """A whole answer with Content-Length."""
    return head(status, (*headers, (b"content-length", str(len(body)).encode()))) + body


def head(status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A response head, its empty line included."""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"HTTP/1.1 %d Scripted\r\n%b\r\n" % (status, lines)


def stream_head(*extra: tuple[bytes, bytes]) -> bytes:
    """The head of a chunked event stream."""
    return head(200, ((b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked"), *extra))


def chunk(data: bytes) -> bytes:
    """One HTTP chunk; empty data makes the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % data

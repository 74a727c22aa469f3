"""A client that sends exactly the bytes a test says, and tells how an answer was framed and how it ended.

async with raw_client(proxy.url) as client:
    await client.send(b"GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    answer = await client.answer()
    assert (answer.status, answer.end) == (200, End.WHOLE)
"""

from __future__ import annotations

import enum
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio.lowlevel
import orjson

from qproxy.simulator.wire import PeerLeft, Wire
from tests.support.http_client import port_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

HEAD_END = b"\r\n\r\n"
TURNS = 3
"""Of the loop: one to see that a socket is readable, one for the task that reads it, one to spare."""


class End(enum.Enum):
    """How a body ended. Without a length the end of the connection is the end of the body: FIN means WHOLE."""

    OPEN = "more may come"
    WHOLE = "as its framing promised"
    FIN = "the server closed in the middle"
    RESET = "the server reset in the middle"


@dataclass
class Answer:
    """One response; header names are in lower case. `sizes` are those of the chunks, where there are any."""

    head: bytes
    version: bytes
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytearray = field(default_factory=bytearray)
    sizes: list[int] = field(default_factory=list)
    end: End = End.OPEN

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key == name]

    def header(self, name: bytes) -> bytes:
        """The one value of a header; empty where it is missing."""
        found = self.values(name)
        assert len(found) < 2, found
        return found[0] if found else b""

    @property
    def error_code(self) -> object:
        """The code in the error envelope."""
        return orjson.loads(bytes(self.body))["error"]["code"]


class RawClient:
    """One connection to the proxy."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._left: PeerLeft | None = None

    async def send(self, *pieces: bytes) -> None:
        """Sends each piece with a write of its own, and gives the server its turn after each."""
        await send_apart(self.wire, pieces)

    async def ask(self, request: bytes) -> Answer:
        """Sends a request and reads its answer."""
        await self.send(request)
        return await self.answer()

    async def answer(self, *, bodyless: bool = False) -> Answer:
        """The next answer, to its end; `bodyless` for a HEAD request's."""
        answer = await self.begin()
        if bodyless:
            answer.end = End.WHOLE
        while answer.end is End.OPEN:
            await self.more(answer)
        return answer

    async def begin(self) -> Answer:
        """The head of the next answer. Raises PeerLeft where none comes."""
        while (end := self.wire.buffer.find(HEAD_END)) < 0:
            await self.wire.receive_more()
        head = self._take(end + 4)
        status_line, *lines = head[:-4].split(b"\r\n")
        version, status, _ = status_line.split(b" ", 2)
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        answer = Answer(head, version, int(status), headers)
        self._decode(answer)
        return answer

    async def more(self, answer: Answer) -> None:
        """Waits until more of the body has come, or its end has."""
        try:
            await self.wire.receive_more()
        except PeerLeft as left:
            self._left = left
        self._decode(answer)

    async def until(self, answer: Answer, mark: bytes) -> None:
        """Reads until the body contains `mark`."""
        while mark not in answer.body:
            assert answer.end is End.OPEN, (answer.end, bytes(answer.body))
            await self.more(answer)

    async def closed(self) -> bytes:
        """Waits until the server closes; what it sent before that and nobody read."""
        try:
            while True:
                await self.wire.receive_more()
        except PeerLeft:
            return self._take(len(self.wire.buffer))

    def _decode(self, answer: Answer) -> None:
        length, coding = answer.header(b"content-length"), answer.header(b"transfer-encoding")
        if answer.status == 204:
            answer.end = End.WHOLE
        elif length:
            answer.body += self._take(min(len(self.wire.buffer), int(length) - len(answer.body)))
            if len(answer.body) == int(length):
                answer.end = End.WHOLE
        elif coding:
            self._decode_chunks(answer)
        else:
            answer.body += self._take(len(self.wire.buffer))
        if self._left is not None and answer.end is End.OPEN:
            answer.end = self._how_it_left(framed=bool(length or coding))

    def _decode_chunks(self, answer: Answer) -> None:
        """Whole chunks only: what a size line promises must come before it counts."""
        buffer = self.wire.buffer
        while (line_end := buffer.find(b"\r\n")) > 0:
            size = int(bytes(buffer[:line_end]), 16)
            behind = line_end + 2 + size + 2
            if len(buffer) < behind:
                return
            assert buffer[behind - 2 : behind] == b"\r\n"
            answer.body += buffer[line_end + 2 : behind - 2]
            answer.sizes.append(size)
            del buffer[:behind]
            if size == 0:
                answer.end = End.WHOLE
                return

    def _how_it_left(self, *, framed: bool) -> End:
        assert self._left is not None
        if isinstance(self._left.__cause__, OSError):
            return End.RESET
        return End.FIN if framed else End.WHOLE

    def _take(self, count: int) -> bytes:
        taken = bytes(self.wire.buffer[:count])
        del self.wire.buffer[:count]
        return taken


@asynccontextmanager
async def raw_client(url: str, *, receive_buffer_bytes: int = 0) -> AsyncIterator[RawClient]:
    """A connection inside the block. A small receive buffer makes the server feel early that nobody reads."""
    wire = connect(url, receive_buffer_bytes)
    try:
        yield RawClient(wire)
    finally:
        wire.close()


async def send_apart(wire: Wire, pieces: Iterable[bytes]) -> None:
    """Sends each piece with a write of its own, after which a peer on the same loop has its turn to read it."""
    for piece in pieces:
        await wire.send(piece)
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()


def connect(url: str, receive_buffer_bytes: int = 0) -> Wire:
    """A connected socket; on loopback the kernel connects at once. The caller closes it."""
    sock = socket.socket()
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        sock.connect(("127.0.0.1", port_of(url)))
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Wire(sock)


def request_head(method: str, path: str, *lines: bytes, version: bytes = b"1.1") -> bytes:
    """A request head; `lines` are further header lines."""
    first = f"{method} {path} HTTP/".encode() + version
    return b"\r\n".join((first, b"Host: localhost", *lines, b"", b""))


def post(path: str, body: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    """A JSON request with Content-Length."""
    length = b"Content-Length: %d" % len(body)
    return request_head("POST", path, b"Content-Type: application/json", *lines, length, version=version) + body


def chunks(pieces: Iterable[bytes]) -> list[bytes]:
    """The pieces as chunks, the last chunk included; empty ones are left out."""
    return [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece), b"0\r\n\r\n"]


def cut_at(data: bytes, offsets: Sequence[int]) -> list[bytes]:
    """The data in pieces that begin at these offsets (taken modulo its length), none of them empty."""
    inside = sorted({offset % len(data) for offset in offsets} - {0}) if data else []
    return [data[first:last] for first, last in zip([0, *inside], [*inside, len(data)], strict=True) if first < last]

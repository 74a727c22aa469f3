"""Requests as the simulator receives and records them: heads through h11, bodies framed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, unquote

import h11
import orjson

from qproxy.simulator.fields import as_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.simulator.wire import Wire

HEAD_LIMIT_BYTES = 64 * 1024
_SIZE_LINE_LIMIT_BYTES = 1024
_MEMO_ROWS = 256
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

JsonObject: TypeAlias = "dict[str, object]"


class BadRequest(Exception):
    """The bytes are not the HTTP/1.1 that the simulator speaks. The text says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request head. `raw` is exactly what came, with the empty line; header names keep their case."""

    raw: bytes = field(repr=False)
    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    lowered: Mapping[str, str] = field(repr=False)
    body_bytes: int
    chunked: bool
    keep_alive: bool
    sim: Mapping[str, str]

    def header(self, name: str) -> str:
        """The (last) value of a header, by its lower-case name; empty where it is missing."""
        return self.lowered.get(name, "")

    @property
    def path(self) -> str:
        """The target without its query, decoded."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2]))

    @property
    def bearer(self) -> str:
        """The token of `Authorization: Bearer`; empty where there is none."""
        scheme, _, token = self.header("authorization").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True)
class Request:
    """One recorded request. `connection` counts the simulator's connections from 1."""

    head: Head
    body: bytes = field(repr=False)
    connection: int

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return self.head.headers

    def header(self, name: str) -> str:
        """See `Head.header`."""
        return self.head.header(name)

    def json(self) -> JsonObject:
        """The body as a JSON object, empty where it is other JSON. Raises ValueError where it is none."""
        return as_object(orjson.loads(self.body))


class HeadReader:
    """Parses heads with h11 and remembers the last few: a client on a kept connection repeats its head to the byte."""

    def __init__(self) -> None:
        self._memo: dict[bytes, Head] = {}

    async def read(self, wire: Wire) -> Head:
        """The next head of a connection. Raises BadRequest, PeerLeft."""
        while (end := wire.buffer.find(b"\r\n\r\n")) < 0:
            if len(wire.buffer) > HEAD_LIMIT_BYTES:
                raise BadRequest("the request head is too large")
            await wire.receive_more()
        raw = bytes(wire.buffer[: end + 4])
        del wire.buffer[: end + 4]
        head = self._memo.get(raw)
        if head is None:
            head = parse_head(raw)
            if len(self._memo) >= _MEMO_ROWS:
                self._memo.clear()
            self._memo[raw] = head
        return head


def parse_head(raw: bytes) -> Head:
    """Raises BadRequest."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError as exc:
        raise BadRequest(str(exc)) from exc
    if not isinstance(event, h11.Request) or event.http_version != b"1.1":
        raise BadRequest("only whole requests of HTTP/1.1 are understood")
    lowered = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
    return Head(
        raw=raw,
        method=event.method.decode("ascii"),
        target=event.target.decode("ascii"),
        headers=tuple(event.headers.raw_items()),
        lowered=lowered,
        body_bytes=int(lowered.get("content-length", "0")),
        chunked="transfer-encoding" in lowered,
        keep_alive="close" not in lowered.get("connection", "").lower(),
        sim={name[6:]: value for name, value in lowered.items() if name.startswith("x-sim-")},
    )


async def read_body(wire: Wire, head: Head) -> bytes:
    """The whole body. Answers `Expect: 100-continue`. Raises BadRequest, PeerLeft."""
    if head.header("expect").lower() == "100-continue" and not wire.buffer:
        await wire.send(_CONTINUE)
    if head.chunked:
        return await _read_chunked(wire)
    if head.body_bytes <= len(wire.buffer):
        return _cut(wire.buffer, head.body_bytes)
    parts: list[bytes] = []
    missing = head.body_bytes
    while missing > len(wire.buffer):
        missing -= len(wire.buffer)
        parts.append(bytes(wire.buffer))
        wire.buffer.clear()
        await wire.receive_more()
    parts.append(_cut(wire.buffer, missing))
    return b"".join(parts)


async def _read_chunked(wire: Wire) -> bytes:
    body = bytearray()
    while (size := _chunk_size(await _read_line(wire))) > 0:
        while len(wire.buffer) < size + 2:
            await wire.receive_more()
        body += wire.buffer[:size]
        if wire.buffer[size : size + 2] != b"\r\n":
            raise BadRequest("a chunk does not end with CRLF")
        del wire.buffer[: size + 2]
    while await _read_line(wire):
        pass
    return bytes(body)


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
        raise BadRequest("a chunk size is not a hexadecimal number")
    return int(digits, 16)


async def _read_line(wire: Wire) -> bytes:
    while (end := wire.buffer.find(b"\r\n")) < 0:
        if len(wire.buffer) > _SIZE_LINE_LIMIT_BYTES:
            raise BadRequest("a line of the chunked framing is too long")
        await wire.receive_more()
    line = _cut(wire.buffer, end)
    del wire.buffer[:2]
    return line


def _cut(buffer: bytearray, count: int) -> bytes:
    piece = bytes(buffer[:count])
    del buffer[:count]
    return piece

"""A client's side of a connection: what came down, whether its framing was completed, and whether it can be right."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, field

import anyio

from bench.soak.books import End
from bench.soak.orders import Order, answer_of
from qproxy.simulator.answers import DONE
from qproxy.simulator.wire import READ_BYTES, PeerLeft, Wire

COMMENT = b": keep-alive\n\n"
_ERROR_EVENT = re.compile(rb'data: (\{"error":[^\n]*\})\n\n\Z')
_SIZE_LINE_BYTES = 20


@dataclass(slots=True)
class Seen:
    """What came of an answer. `status` is 0 where no head came; `is_whole`: its framing was completed."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    payload: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    problem: str = ""

    @property
    def keeps_alive(self) -> bool:
        return self.is_whole and self.fields.get("connection", "").lower() != "close"


@dataclass(frozen=True, slots=True)
class Appetite:
    """How fast a client reads."""

    read_bytes: int = READ_BYTES
    pause_s: float = 0.0


async def connect(port: int, *, receive_bytes: int = 0) -> Wire:
    """A connection to the proxy. Raises OSError."""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sock.connect_ex(("127.0.0.1", port)):
            await anyio.wait_writable(sock)
        sock.getpeername()
    except BaseException:
        sock.close()
        raise
    return Wire(sock)


async def read_answer(wire: Wire, appetite: Appetite) -> Seen:
    """All that comes, to the end of the answer or of the connection."""
    seen = Seen()
    try:
        while (end := wire.buffer.find(b"\r\n\r\n")) < 0:
            await wire.receive_more()
        _read_head(seen, _take(wire, end + 4))
        if "content-length" in seen.fields:
            await _read_counted(wire, seen, int(seen.fields["content-length"]), appetite)
        else:
            await _read_chunks(wire, seen, appetite)
    except PeerLeft:
        pass
    return seen


def _read_head(seen: Seen, head: bytes) -> None:
    status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
    seen.status = int(status_line.split(" ")[1])
    pairs = (line.partition(":") for line in lines)
    seen.fields = {name.lower(): value.strip() for name, _, value in pairs}


async def _read_counted(wire: Wire, seen: Seen, length: int, appetite: Appetite) -> None:
    while True:
        seen.payload += _take(wire, min(len(wire.buffer), length - len(seen.payload)))
        if len(seen.payload) == length:
            seen.is_whole = True
            return
        await _more(wire, appetite)


async def _read_chunks(wire: Wire, seen: Seen, appetite: Appetite) -> None:
    """What came of a chunk counts although its end is missing."""
    while True:
        while (line_end := wire.buffer.find(b"\r\n")) < 0:
            if len(wire.buffer) > _SIZE_LINE_BYTES:
                seen.problem = "a chunk without a size"
                return
            await _more(wire, appetite)
        size = int(_take(wire, line_end + 2), 16)
        if size == 0:
            seen.is_whole = await _read_line_end(wire, seen)
            return
        while size:
            if not wire.buffer:
                await _more(wire, appetite)
            part = _take(wire, min(size, len(wire.buffer)))
            seen.payload += part
            size -= len(part)
        if not await _read_line_end(wire, seen):
            return


async def _read_line_end(wire: Wire, seen: Seen) -> bool:
    while len(wire.buffer) < 2:
        await wire.receive_more()
    if _take(wire, 2) == b"\r\n":
        return True
    seen.problem = "a chunk without its end"
    return False


async def _more(wire: Wire, appetite: Appetite) -> None:
    if appetite.pause_s:
        await anyio.sleep(appetite.pause_s)
    await wire.receive_more(appetite.read_bytes)


def _take(wire: Wire, count: int) -> bytes:
    taken = bytes(wire.buffer[:count])
    del wire.buffer[:count]
    return taken


def end_of(order: Order, seen: Seen) -> tuple[End, str]:
    """How the request ended, and the code of the error or what is bad about the answer."""
    if seen.problem:
        return End.BAD, seen.problem
    if not seen.status:
        return End.NOTHING, ""
    if seen.status != 200:
        return _end_of_error(seen)
    if not order.is_stream:
        return _end_of_plain(order, seen)
    return _end_of_stream(order, seen)


def _end_of_error(seen: Seen) -> tuple[End, str]:
    code = _code_in(bytes(seen.payload))
    if not seen.is_whole or code is None:
        return End.BAD, f"a {seen.status} without a whole error: {bytes(seen.payload[:200])!r}"
    return End.TOLD, code


def _end_of_plain(order: Order, seen: Seen) -> tuple[End, str]:
    expected = answer_of(order)
    if seen.is_whole and seen.payload == expected:
        return End.WHOLE, ""
    if seen.is_whole or not expected.startswith(seen.payload):
        return End.BAD, _difference(expected, bytes(seen.payload))
    return End.BROKEN, ""


def _end_of_stream(order: Order, seen: Seen) -> tuple[End, str]:
    """An event of the proxy's own, or of the upstream's, may stand behind what came of the answer."""
    expected = answer_of(order)
    came = bytes(seen.payload)
    while came.startswith(COMMENT):
        came = came[len(COMMENT) :]
    if seen.is_whole and came in (expected, expected.removesuffix(DONE)):
        return End.WHOLE, ""
    error = _ERROR_EVENT.search(came)
    if error is not None:
        came = came[: error.start()]
    if not expected.startswith(came) or (seen.is_whole and error is None):
        return End.BAD, _difference(expected, came)
    return (End.BROKEN, "") if error is None else (End.TOLD_LATE, _code_in(error[1]) or "")


def _code_in(body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return str(document["code"]) if isinstance(document, dict) and "code" in document else None
    return str(error.get("code"))


def _difference(expected: bytes, came: bytes) -> str:
    at = next((at for at, (one, other) in enumerate(zip(expected, came, strict=False)) if one != other), None)
    if at is None:
        return f"{len(came)} of {len(expected)} bytes, and a clean end"
    return f"at byte {at} came {came[at : at + 60]!r} and not {expected[at : at + 60]!r}"

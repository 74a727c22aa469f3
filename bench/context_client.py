"""A client of one connection that takes down when things came: for latencies that are compared pair by pair."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass, field

HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
EVENT = b"data:"
# As bench/native/wire.h has it: sequence number, and the time of birth in microseconds of the monotonic clock.
MARK = re.compile(rb"~(\d{8})@(\d{16})~")
READ_BYTES = 256 * 1024
TIMEOUT_S = 900.0  # a million tokens take a real model minutes


class BadAnswer(Exception):
    """No answer, or none that was asked for; the message is for the table."""


@dataclass(slots=True)
class Times:
    """Milliseconds from just before the request. `first_ms` is that of the first event, or of the first byte behind the
    head of a plain answer; `delays_ms` how long each stamped event took from its birth."""

    first_ms: float = 0.0
    whole_ms: float = 0.0
    delays_ms: list[float] = field(default_factory=list)


class ContextClient:
    """Keeps its connection as long as the server does."""

    def __init__(self, host: str, port: int, path: str, headers: tuple[str, ...]) -> None:
        self._address = host, port
        lines = (f"POST {path} HTTP/1.1", f"host: {host}:{port}", "content-type: application/json", *headers)
        self._head = "\r\n".join(lines).encode()
        self._sock: socket.socket | None = None

    def ask(self, body: bytes) -> Times:
        """One request. Raises BadAnswer; OSError where the connection fails. The next one has a new connection then."""
        if self._sock is None:
            self._sock = socket.create_connection(self._address, TIMEOUT_S)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b"%b\r\ncontent-length: %d\r\n\r\n" % (self._head, len(body)) + body
        begun_ns = time.monotonic_ns()
        try:
            self._sock.sendall(request)
            return self._read(self._sock, begun_ns)
        except BaseException:
            self.close()
            raise

    def _read(self, sock: socket.socket, begun_ns: int) -> Times:
        times = Times()
        answer = _Answer()
        while not answer.is_whole:
            part = sock.recv(READ_BYTES)
            now_ns = time.monotonic_ns()
            answer.add(part)
            if not times.first_ms and answer.has_begun:
                times.first_ms = (now_ns - begun_ns) / 1e6
            times.delays_ms += [now_ns / 1e6 - born_us / 1e3 for born_us in answer.births()]
        times.whole_ms = (now_ns - begun_ns) / 1e6
        if answer.closes:
            self.close()
        return times

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class _Answer:
    """The bytes of one answer; it is short."""

    def __init__(self) -> None:
        self._data = b""
        self._status = ""
        self._body_at = -1
        self._length = -1  # of the body, where it is announced
        self._is_chunked = False
        self._is_stream = False
        self._searched = 0
        self.closes = False
        self.is_whole = False

    def add(self, part: bytes) -> None:
        """Raises BadAnswer where it is over and not what was asked for."""
        self._data += part
        if self._body_at < 0:
            self._read_head()
        if not part:
            self._end()
        elif self._body_at >= 0:
            self.is_whole = self._has_all()
        if self.is_whole and " 200" not in self._status:
            said = self._data[self._body_at :].decode(errors="replace")
            raise BadAnswer(f"{self._status}: {' '.join(said.split())[:160]}")

    @property
    def has_begun(self) -> bool:
        """The first event of a stream is here, or anything of a plain body."""
        if self._body_at < 0:
            return False
        return EVENT in self._data[self._body_at :] if self._is_stream else len(self._data) > self._body_at

    def births(self) -> list[int]:
        """The stamps of those events of a stream that have come since, in microseconds."""
        if not self._is_stream:
            return []
        found = list(MARK.finditer(self._data, self._searched))
        if found:
            self._searched = found[-1].end()
        return [int(mark[2]) for mark in found]

    def _read_head(self) -> None:
        end = self._data.find(HEAD_END)
        if end < 0:
            return
        self._status, *lines = self._data[:end].decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._length = int(fields.get("content-length", -1))
        self._is_chunked = "chunked" in fields.get("transfer-encoding", "")
        self._is_stream = "event-stream" in fields.get("content-type", "")
        self.closes = fields.get("connection", "").lower() == "close"
        self._body_at = end + len(HEAD_END)

    def _has_all(self) -> bool:
        if self._length >= 0:
            return len(self._data) >= self._body_at + self._length
        return self._is_chunked and self._data.endswith(LAST_CHUNK)

    def _end(self) -> None:
        if self._body_at < 0 or self._length >= 0 or self._is_chunked:
            raise BadAnswer("the connection ended within the answer")
        self.closes = self.is_whole = True

"""A long line in user space: a relay that lets bytes through as TCP would over such a line.

    python -m bench.link --upstream 127.0.0.1:8001 [--port N] [--rtt-ms 200] [--mbit 50]

Many kernels lack the means to delay packets, and none is needed. The model, for each connection and direction:

- Opening takes a round trip; nothing is sent before.
- Slow start: ten segments of 1,460 bytes may be under way (RFC 6928); every byte that is acknowledged lets one more be,
  so that the window doubles with each round trip, up to 4 MiB. It does not shrink while a connection lies idle (Linux:
  `net.ipv4.tcp_slow_start_after_idle = 0`; with its default of 1 a kept connection begins anew after a pause).
- Bytes leave one after the other at the line's rate, which all connections share, and arrive half a round trip later.
  The acknowledgement takes the other half and needs no room on the line.

What it leaves out: loss, and with it congestion avoidance; jitter; delayed acknowledgements; the overhead of headers;
TLS, whose handshake takes one round trip more in version 1.3.

SIGUSR1 closes every connection.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Server, StartError, free_port

ROOT = Path(__file__).parents[1]
SEGMENT_BYTES = 1460
FIRST_WINDOW_BYTES = 10 * SEGMENT_BYTES
LARGEST_WINDOW_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 16 * 1024  # what is handed on at once
HELD_BYTES = 256 * 1024  # a sender's buffer: beyond it the sender waits
READY_S = 10.0


class Line:
    """One direction of the line, shared by all connections."""

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        self.delay_s = delay_s
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def arrival(self, now: float, size_bytes: int) -> float:
        """When the last of these bytes is at the other end, if they are put on the line now."""
        self._free_at = max(self._free_at, now) + size_bytes / self._bytes_per_s
        return self._free_at + self.delay_s


class Way:
    """One direction of one connection: what `source` says goes to `sink`."""

    def __init__(self, line: Line, loop: asyncio.AbstractEventLoop) -> None:
        self._line = line
        self._loop = loop
        self._is_open = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._under_way_bytes = 0
        self.window_bytes = FIRST_WINDOW_BYTES
        self._has_ended = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None

    def open(self) -> None:
        """From now on bytes may leave."""
        self._is_open = True
        self._send()

    def put(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE_BYTES):
            self._waiting.append(data[at : at + PIECE_BYTES])
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HELD_BYTES and self.source is not None:
            self.source.pause_reading()
        self._send()

    def end(self) -> None:
        """The source says no more."""
        self._has_ended = True
        self._send()

    def _send(self) -> None:
        now = self._loop.time()
        while self._waiting and self._is_open and self._under_way_bytes < self.window_bytes:
            piece = self._next_piece(self.window_bytes - self._under_way_bytes)
            self._under_way_bytes += len(piece)
            arrival = self._line.arrival(now, len(piece))
            self._loop.call_at(arrival, self._arrive, piece)
            self._loop.call_at(arrival + self._line.delay_s, self._acknowledge, len(piece))
        if self.source is not None and self._waiting_bytes <= HELD_BYTES and not self.source.is_closing():
            self.source.resume_reading()
        if self._has_ended and not self._waiting:
            self._has_ended = False
            self._loop.call_at(self._line.arrival(now, 0), self._finish)

    def _next_piece(self, room_bytes: int) -> bytes:
        piece = self._waiting.popleft()
        if len(piece) > room_bytes:
            self._waiting.appendleft(piece[room_bytes:])
            piece = piece[:room_bytes]
        self._waiting_bytes -= len(piece)
        return piece

    def _arrive(self, piece: bytes) -> None:
        if self.sink is not None and not self.sink.is_closing():
            self.sink.write(piece)

    def _acknowledge(self, size_bytes: int) -> None:
        self._under_way_bytes -= size_bytes
        self.window_bytes = min(self.window_bytes + size_bytes, LARGEST_WINDOW_BYTES)
        self._send()

    def _finish(self) -> None:
        if self.sink is not None and not self.sink.is_closing():
            self.sink.close()


class End(asyncio.Protocol):
    """What arrives at one socket goes on its way."""

    def __init__(self, way: Way, lost: Callable[[], None]) -> None:
        self._way = way
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._way.source = transport

    def data_received(self, data: bytes) -> None:
        self._way.put(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._way.source = None
        self._way.end()
        self._lost()


@dataclass(frozen=True, slots=True)
class Shape:
    """How long and how wide the line is."""

    rtt_s: float = 0.2
    bytes_per_s: float = 50e6 / 8


class Relay:
    """All connections of one relay, on a loop of asyncio's."""

    def __init__(self, shape: Shape, upstream: tuple[str, int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._upstream = upstream
        self._rtt_s = shape.rtt_s
        self._up = Line(shape.bytes_per_s, shape.rtt_s / 2)
        self._down = Line(shape.bytes_per_s, shape.rtt_s / 2)
        self._connections: set[tuple[Way, Way]] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def accept(self) -> asyncio.Protocol:
        """The protocol of a new client."""
        ways = Way(self._up, self._loop), Way(self._down, self._loop)
        self._connections.add(ways)
        task = self._loop.create_task(self._connect(*ways, self._loop.time() + self._rtt_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return End(ways[0], lambda: self._connections.discard(ways))

    async def _connect(self, up: Way, down: Way, opens_at: float) -> None:
        try:
            transport, _ = await self._loop.create_connection(lambda: End(down, _nothing), *self._upstream)
        except OSError:
            if up.source is not None:
                up.source.abort()
            return
        up.sink, down.sink = transport, up.source
        if up.source is None:
            transport.close()
        for way in (up, down):
            self._loop.call_at(opens_at, way.open)

    def cut(self) -> None:
        """Close every connection."""
        for up, down in list(self._connections):
            for transport in (up.source, down.source):
                if transport is not None:
                    transport.close()


def _nothing() -> None:
    pass


async def _serve(port: int, upstream: tuple[str, int], shape: Shape) -> None:
    loop = asyncio.get_running_loop()
    relay = Relay(shape, upstream)
    loop.add_signal_handler(signal.SIGUSR1, relay.cut)
    server = await loop.create_server(relay.accept, "127.0.0.1", port)
    print(f"link listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


class Link:
    """A relay in its own process, between `start` and `stop`."""

    def __init__(self, folder: Path, cores: frozenset[int], upstream: tuple[str, int], shape: Shape) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        argv = (
            sys.executable, "-m", "bench.link", "--port", str(self.port), "--upstream", f"{upstream[0]}:{upstream[1]}",
            "--rtt-ms", f"{shape.rtt_s * 1000:g}", "--mbit", f"{shape.bytes_per_s * 8 / 1e6:g}",
        )  # fmt: skip
        self.server = Server(argv, {"PYTHONPATH": str(ROOT)}, folder, cores)
        try:
            self._wait()
        except BaseException:
            self.server.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while "listening" not in self.server.log.read_text():
            if self.server.exit_status is not None or time.monotonic() > deadline:
                raise StartError(f"the relay did not start: {self.server.last_words()}")
            time.sleep(0.01)

    def cut(self) -> None:
        """Close every connection over it."""
        self.server.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        self.server.stop()


def main(argv: list[str]) -> None:
    """Relay until a signal ends it."""
    options = argparse.ArgumentParser(prog="python -m bench.link")
    options.add_argument("--upstream", required=True, metavar="HOST:PORT")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--rtt-ms", type=float, default=200.0)
    options.add_argument("--mbit", type=float, default=50.0)
    given = options.parse_args(argv)
    host, _, port = given.upstream.rpartition(":")
    shape = Shape(given.rtt_ms / 1000, given.mbit * 1e6 / 8)
    try:
        asyncio.run(_serve(given.port, (host, int(port)), shape))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main(sys.argv[1:])

"""The byte stream of one socket, for both sides of the proxy and for every loop.

A stream is at once anyio's `ByteStream`, httpcore's `AsyncNetworkStream` and the protocol of a transport. Bytes that
arrive go into its buffer, or, while a body moves, straight through a `Pump`: walked, tapped and written to the peer
inside the read callback, with the transports' own flow control as back-pressure. The task that serves the exchange only
waits for the end of the body.

Laws: waiting means "look again" and carries no bytes, so a cancelled wait loses nothing. One task at a time waits on a
stream. A stream has one lazy timer: a phase sets its clock, nothing is armed or cancelled per read.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpcore

from qproxy.core.splice import Buffer
from qproxy.edge.pump import Pump, Sink
from qproxy.edge.runtime import Runtime, Timer, Transport
from qproxy.edge.tls import TlsLayer

UNREAD_BYTES = 64 * 1024
"""What may lie in the buffer of a stream that nobody reads, before its reading is paused."""

UPLOAD_HIGH_BYTES = 256 * 1024
"""Unsent bytes towards an upstream at which the client's reading is paused; it resumes at a quarter. The bench: 4 MB
bodies pass four times as fast as with asyncio's 64 KiB."""

ANSWER_HIGH_BYTES = 64 * 1024
"""The same towards a client: with the read that goes over it, a reader that is stuck costs less than 512 KiB."""

_RESET = struct.pack("ii", 1, 0)  # struct linger of SO_LINGER: closing is RST
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)  # made once: flags of an enum are slow to combine

GATHERED_BYTES = 16 * 1024
"""What a stream holds back in one turn of the loop, so that it leaves in one write with that of others (`Outbox`)."""

LATE_S = 0.1
"""A timer that rings so much later than it should rings in a process that was stopped, or starved."""


LOOK_FOR_END_S = 0.5
"""How often a peer that nobody reads from is looked at: one that has left is noticed within a second (C07)."""

# Linux, tcp_states.h; the state is the first byte of struct tcp_info.
_TCP_CLOSE = 7
_TCP_CLOSE_WAIT = 8
_CAN_LOOK_AT_TCP = sys.platform == "linux"


class StreamTimeout(httpcore.ReadTimeout):
    """The peer was silent for longer than the phase allows."""


class StreamLost(httpcore.ReadError):
    """The connection broke, or ended where the phase needs more."""


class Stream(asyncio.Protocol, httpcore.AsyncNetworkStream, anyio.abc.ByteStream):
    """One connected socket. Made by `open_stream`."""

    def __init__(self, runtime: Runtime, sock: socket.socket, high_bytes: int) -> None:
        self._runtime = runtime
        self._sock = sock
        self._high_bytes = high_bytes
        self._spot = runtime.spot()
        self._transport: Transport | None = None
        self._outbox = runtime.outbox
        self._gathered: list[Buffer] = []  # short writes that wait for the end of this turn of the loop
        self._gathered_bytes = 0
        self._tls: TlsLayer | None = None
        self._buffer = b""
        self._pump: Pump | None = None
        self._eof = False
        self._lost = False
        self._closing = False
        self._reading_paused = False
        self._idle_s = math.inf
        self._deadline = math.inf
        self._last_read = 0.0
        self._read_bytes = 0
        self._slowest_bytes_per_s = math.inf
        self._expired = False
        self._timer: Timer | None = None
        self._fires_at = math.inf
        self._rings_late = False
        self._stall_s = math.inf
        self._stall_timer: Timer | None = None
        self._stalls_at = math.inf
        self._unsent_bytes = 0
        self.congested = False
        self.stalled = False
        self.gone = False
        """The peer has left although bytes of it are unread (`watch_leaving`)."""
        self._watches_leaving = False
        self._leaving_timer: Timer | None = None
        self.on_end: Callable[[], None] | None = None  # the peer has closed or the connection is lost
        self._broken = False
        self._writing_ended = False
        self._drained: Callable[[], None] | None = None  # a pump waits for room here

    # --- what the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(self._high_bytes, self._high_bytes // 4)

    def data_received(self, data: bytes) -> None:
        self._last_read = self._runtime.now()
        self._read_bytes += len(data)
        if self._tls is not None:
            data = self._decrypt(data)
            if self._eof or not data:
                self._spot.wake()
            if not data:
                if self._eof:
                    self._end_pump()
                return
        pump = self._pump
        if pump is not None and not pump.done:
            pump.feed(data)
            if self._eof:
                self._end_pump()
            if pump.done:
                self._spot.wake()
            return
        self.give_back(data)
        self._spot.wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._end_pump()
        self._spot.wake()
        if self.on_end is not None:
            self.on_end()
        return True  # the other half stays open: an answer may still be on its way

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken = self._broken or exc is not None
        self._lost = self._eof = self._closing = True
        self._transport = None  # each of the two holds the other
        self.congested = False
        self._cancel_timers()
        self._end_pump()
        self._spot.wake()
        if self._drained is not None:
            self._drained()
        if self.on_end is not None:
            self.on_end()
            self.on_end = None  # whoever it belongs to holds this stream

    def pause_writing(self) -> None:
        self.congested = True
        self._watch_for_stall()

    def resume_writing(self) -> None:
        self.congested = False
        self._unsent_bytes = sys.maxsize  # the peer takes: a stall that is watched for begins anew
        self._spot.wake()
        if self._drained is not None:
            self._drained()

    # --- the buffer

    @property
    def buffer(self) -> bytes:
        """Bytes that have come and were not taken."""
        return self._buffer

    @property
    def ended(self) -> bool:
        """No more bytes will come."""
        return self._eof

    @property
    def lost(self) -> bool:
        """Nothing can be sent any more either."""
        return self._lost

    @property
    def torn(self) -> bool:
        """The end came without a farewell: a reset, an abort of ours, or TLS without close_notify."""
        return self._broken or (self._tls is not None and not self._tls.clean_end)

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were put and that the kernel has not taken yet."""
        if self._transport is None or self._lost:
            return 0
        return self._transport.get_write_buffer_size() + self._gathered_bytes

    def take(self, size: int) -> bytes:
        """The first `size` bytes of the buffer."""
        taken = self._buffer[:size]
        self._buffer = self._buffer[size:]
        self._resume_reading()
        return taken

    def take_all(self) -> bytes:
        taken = self._buffer
        self._buffer = b""
        self._resume_reading()
        return taken

    def give_back(self, data: bytes) -> None:
        """Put bytes behind those in the buffer."""
        self._buffer = self._buffer + data if self._buffer else data
        if len(self._buffer) > UNREAD_BYTES and not self._reading_paused:
            self._pause_reading()

    async def fill(self) -> bool:
        """Wait until the buffer has grown; False when the peer has ended. Raises StreamTimeout."""
        size = len(self._buffer)
        self.read_on()
        while len(self._buffer) == size:
            if self._eof:
                return False
            await self.look_again()
        return True

    def read_on(self) -> None:
        """Let more come although much lies in the buffer."""
        self._resume_reading()

    async def look_again(self) -> None:
        """Wait until something has happened here. Raises StreamTimeout."""
        if not self._expired:
            await self._spot.wait()
        if self._expired:
            self._expired = False
            raise StreamTimeout("the peer was silent for too long")

    def nudge(self) -> None:
        """Make the waiting task look again."""
        self._spot.wake()

    # --- clocks

    def set_clock(self, idle_s: float, deadline_s: float = math.inf, slowest_bytes_per_s: float = math.inf) -> None:
        """From now on the peer may be silent for `idle_s`, and the phase may last `deadline_s`, and longer by the time
        that the bytes which came take at `slowest_bytes_per_s`."""
        now = self._runtime.now()
        self._last_read = now
        self._idle_s = idle_s
        self._deadline = now + deadline_s
        self._read_bytes = 0
        self._slowest_bytes_per_s = slowest_bytes_per_s
        self._expired = False
        due = now + min(idle_s, deadline_s)
        if due < self._fires_at and not self._lost:
            self._arm(due - now)

    def stop_clock(self) -> None:
        self._idle_s = self._deadline = math.inf
        self._expired = False

    def limit_stalls(self, stall_s: float) -> None:
        """Give up on a peer that takes nothing for `stall_s` while bytes wait for it."""
        self._stall_s = stall_s

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = self._runtime.now() + delay_s
        self._timer = self._runtime.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        now = self._runtime.now()
        self._rings_late = now - self._fires_at > LATE_S and not self._rings_late
        self._timer = None
        self._fires_at = math.inf
        if self._rings_late:  # the loop stood still: what has come meanwhile is read before anybody is blamed
            self._arm(LATE_S)
            return
        if self._reading_paused:
            self._last_read = now  # the silence is ours
        deadline = self._deadline + self._read_bytes / self._slowest_bytes_per_s
        left_s = min(self._last_read + self._idle_s, deadline) - now
        if left_s <= 0:
            self._expire()
        elif left_s < math.inf:
            self._arm(left_s)

    def _expire(self) -> None:
        if self._pump is not None:
            self._pump.fail(StreamTimeout("the peer was silent for too long"))
        else:
            self._expired = True
        self._spot.wake()

    def _watch_for_stall(self) -> None:
        if self._stall_timer is None and self._transport is not None and self._stall_s < math.inf:
            self._unsent_bytes = self._transport.get_write_buffer_size()
            self._stalls_at = self._runtime.now() + self._stall_s
            self._stall_timer = self._runtime.call_later(self._stall_s, self._check_stall)

    def _check_stall(self) -> None:
        self._stall_timer = None
        if self._transport is None or self._lost:
            return
        unsent = self._transport.get_write_buffer_size()
        rings_late = self._runtime.now() - self._stalls_at > LATE_S  # it was not the peer that stood still
        if unsent and unsent >= self._unsent_bytes and not rings_late:
            self.stalled = True
            self._reset()
        elif unsent:
            self._watch_for_stall()

    def watch_leaving(self) -> None:
        """See the peer's end even while nothing is read, where neither FIN nor RST comes through: `gone` is set then,
        and `on_end` called."""
        self._watches_leaving = _CAN_LOOK_AT_TCP and self._sock.family in (socket.AF_INET, socket.AF_INET6)

    def _look_for_end(self) -> None:
        self._leaving_timer = None
        if not self._reading_paused or self._eof or self._closing:
            return
        if _has_left(self._sock):
            self.gone = True
            if self.on_end is not None:
                self.on_end()
        else:
            self._leaving_timer = self._runtime.call_later(LOOK_FOR_END_S, self._look_for_end)

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._stall_timer, self._leaving_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall_timer = self._leaving_timer = None
        self._fires_at = math.inf

    # --- sending

    def put(self, data: Buffer) -> None:
        """Queue bytes for the peer; bytes for a peer that has gone are dropped, the reader learns of it."""
        if self._closing or self._writing_ended:
            return
        if self._tls is not None:
            data = self._tls.encrypt(data)
        self._write(data)

    def put_soon(self, data: Buffer) -> None:
        """`put` for a few bytes that others follow: they leave together, or at the end of this turn of the loop."""
        if not self._closing and not self._writing_ended:
            self._gather(data if self._tls is None else self._tls.encrypt(data))

    def put_all(self, pieces: Sequence[Buffer]) -> None:
        """`put` for pieces that follow each other: long ones leave in one write."""
        if self._tls is not None or sum(map(len, pieces)) <= GATHERED_BYTES:
            self.put(b"".join(pieces))
        elif not self._closing and not self._writing_ended and self._transport is not None:
            gathered = self._take_gathered()
            self._transport.writelines([piece for piece in (*gathered, *pieces) if piece])

    def _write(self, data: Buffer) -> None:
        if not data or self._closing or self._writing_ended or self._transport is None:
            return
        outbox = self._outbox
        if outbox.gathers and self._gathered_bytes + len(data) <= GATHERED_BYTES:
            self._gather(data)
        elif self._gathered:
            self._transport.writelines([*self._take_gathered(), data])
        else:
            self._transport.write(data)
            if not outbox.gathers:
                outbox.pass_by()

    def _gather(self, data: Buffer) -> None:
        if not self._gathered:
            self._outbox.add(self)
        self._gathered.append(data)
        self._gathered_bytes += len(data)

    def send_gathered(self) -> None:
        """Write what was held back until the end of this turn of the loop (`Outbox`)."""
        gathered = self._take_gathered()
        if gathered and self._transport is not None:
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def _take_gathered(self) -> list[Buffer]:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        return gathered

    async def drain(self) -> None:
        """Wait until the peer has taken enough. Raises StreamLost where it never will."""
        while self.congested:
            await self.look_again()
        if self._lost:
            raise StreamLost("the peer has gone")

    async def flush(self) -> None:
        """Wait until the kernel has taken everything: the last thing before an end. Raises StreamLost."""
        self.stop_clock()
        self.send_gathered()
        if self._transport is not None and not self._closing:
            self._transport.set_write_buffer_limits(0, 0)
        await self.drain()

    def end_writing(self) -> None:
        """Half-close: the peer sees the end, and may still speak."""
        if not self._closing and not self._writing_ended and self._transport is not None:
            self._writing_ended = True
            self.send_gathered()
            try:
                self._transport.write_eof()
            except OSError:
                pass  # the peer was faster, and asyncio shuts the socket down at once

    def close(self) -> None:
        """Close when what was queued is sent, or when the peer stalls."""
        if self._closing:
            return
        if self._tls is not None and not self._writing_ended:
            self._write(self._tls.goodbye())
        self.send_gathered()
        self._closing = True
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            self._watch_for_stall()
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what the kernel does not take at once is lost."""
        if not self._lost and self._transport is not None:
            self.send_gathered()
            self._closing = self._broken = True
            self._transport.abort()

    def _reset(self) -> None:
        """`abort`, and have the kernel drop what it still holds for the peer: megabytes, and for minutes."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # it was closed already
        self.abort()

    async def linger(self, limit_s: float, limit_bytes: int) -> None:
        """Half-close, then discard what the peer still sends until it closes, so that no RST destroys what we said
        (`faults.md` section 3, close order)."""
        self.end_writing()
        self.set_clock(math.inf, limit_s)
        discarded = len(self.take_all())
        try:
            while discarded <= limit_bytes and await self.fill():
                discarded += len(self.take_all())
        except StreamTimeout:
            pass
        self.abort()

    # --- moving a body

    def start_pump(self, pump: Pump) -> None:
        """Let what arrives from now on, and what lies in the buffer, go through `pump`."""
        waiting = self.take_all()
        if waiting:
            pump.feed(waiting)
        self._pump = pump
        if self._eof:
            self._end_pump()

    async def pumped(self, pump: Pump) -> None:
        """Wait for the end of the body. Raises FramingError, QProxyError or StreamTimeout."""
        try:
            while not pump.done:
                await self.look_again()
        finally:
            self.stop_pump(pump)
        if pump.error is not None:
            raise pump.take_error()

    def _end_pump(self) -> None:
        """No more will come: for some bodies that is their end, for others it is a failure."""
        pump = self._pump
        if pump is None or pump.done:
            return
        if self.torn:
            pump.fail(StreamLost("the connection broke"))
        else:
            pump.end_of_input()

    def stop_pump(self, pump: Pump) -> None:
        """What arrives from now on stays here."""
        if self._pump is pump:
            self._pump = None
        if isinstance(pump.sink, Stream):
            pump.sink._drained = None
        self._resume_reading()

    def pause_for(self, sink: Sink) -> None:
        """Read no more until `sink` has room again."""
        self._pause_reading()
        if isinstance(sink, Stream):
            sink._drained = self._resume_reading

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._closing and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
            if self._watches_leaving and self._leaving_timer is None:
                self._leaving_timer = self._runtime.call_later(LOOK_FOR_END_S, self._look_for_end)

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._last_read = self._runtime.now()
            if not self._closing and self._transport is not None:
                self._transport.resume_reading()

    # --- TLS

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Stream:
        """Become a TLS client. Raises ssl.SSLError, StreamLost or StreamTimeout."""
        tls = TlsLayer(ssl_context, server_hostname or "", session)
        self.set_clock(math.inf if timeout is None else timeout, math.inf if timeout is None else timeout)
        complete = False
        while not complete:
            try:
                complete = tls.handshake()
            finally:
                self._write(tls.outgoing())  # of a refusal, the alert that says why
            if not complete:
                if not self._buffer and not await self.fill():
                    raise StreamLost("the peer closed during the TLS handshake")
                tls.take_ciphertext(self.take_all())
        self.stop_clock()
        self._tls = tls
        early = tls.plaintext()
        if early:
            self.give_back(early)
        return self

    def _decrypt(self, data: bytes) -> bytes:
        tls = self._tls
        assert tls is not None
        tls.take_ciphertext(data)
        try:
            plaintext = tls.plaintext()
        except ssl.SSLError:
            self.abort()
            return b""
        self._write(tls.outgoing())
        if tls.clean_end:
            self._eof = True
        return plaintext

    # --- httpcore's and anyio's faces

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """httpcore: at most `max_bytes`, b"" at the end. Raises StreamTimeout or StreamLost."""
        if not self._buffer:
            self.set_clock(math.inf if timeout is None else timeout)
            try:
                await self.fill()
            finally:
                self.stop_clock()
            if not self._buffer and self.torn:
                raise StreamLost("the connection broke")
        return self.take(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """httpcore: returns when the peer has taken enough. Raises httpcore.WriteTimeout or httpcore.WriteError."""
        self.put(bytes(buffer))
        self.set_clock(math.inf, math.inf if timeout is None else timeout)
        try:
            await self.drain()
        except StreamTimeout as exc:
            raise httpcore.WriteTimeout("the peer takes nothing") from exc
        except StreamLost as exc:
            raise httpcore.WriteError("the peer has gone") from exc
        finally:
            self.stop_clock()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """anyio: at least one byte. Raises anyio.EndOfStream or anyio.BrokenResourceError."""
        if not self._buffer and not await self.fill():
            raise anyio.BrokenResourceError if self.torn else anyio.EndOfStream
        return self.take(max_bytes)

    async def send(self, item: bytes) -> None:
        """anyio. Raises anyio.BrokenResourceError."""
        self.put(item)
        try:
            await self.drain()
        except StreamLost as exc:
            raise anyio.BrokenResourceError from exc

    async def send_eof(self) -> None:
        self.end_writing()

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._tls.ssl_object if self._tls is not None else None
        if info == "socket":
            return self._sock
        if info == "is_readable":
            return self.is_stale()
        return None

    def is_stale(self) -> bool:
        """True where an idle connection cannot be used any more: ended, or with bytes that nobody asked for.

        One look at the socket itself, since the loop may not have seen yet what has come. On TLS bytes may be a session
        ticket and prove nothing; an end does.
        """
        if self._eof or self._closing or self._buffer:
            return True
        try:
            waiting = self._sock.recv(1, _LOOK)
        except BlockingIOError:
            return False
        except OSError as exc:
            return exc.errno != errno.EINTR
        return not waiting or self._tls is None


async def open_stream(runtime: Runtime, sock: socket.socket, high_bytes: int = UPLOAD_HIGH_BYTES) -> Stream:
    """A stream over a connected socket, which it owns from here."""
    stream = Stream(runtime, sock, high_bytes)
    await runtime.attach(sock, stream)
    return stream


def _has_left(sock: socket.socket) -> bool:
    """Whether FIN or RST has come, be it behind bytes that are unread."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_TCP_CLOSE, _TCP_CLOSE_WAIT)
    except OSError:
        return True

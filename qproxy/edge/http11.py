"""One HTTP/1.1 connection to an upstream: httpcore's connection interface, heads through h11, bodies through walkers.

The response head is awaited while the request body still goes up; an answer that comes before the upload is complete
stops the upload and makes the connection unfit for another exchange (RFC 9112 9.5).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import httpcore

from qproxy.core.exchange import Attempt
from qproxy.core.framing import LAST_CHUNK, FramingError, Truncated, Walker, bare_walker
from qproxy.core.http1 import HEAD_END, ResponseHead, is_informational, parse_response_head
from qproxy.core.limits import Limits
from qproxy.core.replay import HeldTail
from qproxy.core.splice import Buffer
from qproxy.core.upstream import BaseUrl
from qproxy.edge.connect import secure
from qproxy.edge.pump import Pump, Sink
from qproxy.edge.streams import Stream, StreamLost, StreamTimeout
from qproxy.errors import DownstreamError, QProxyError, UpstreamError

if TYPE_CHECKING:
    from qproxy.edge.pool import Pool

JOINED_BYTES = 16 * 1024  # up to here a copy is cheaper than a second write
MAX_INFORMATIONAL = 16  # faults.md U17
SLOWEST_UPLOAD_BYTES_PER_S = 256  # faults.md section 2: what keeps sending may last, but not drip


def never(_: bytes) -> bool:
    """Of nothing that is peeked at is there enough before all of it is here."""
    return False


class KnownBody:
    """A request body that is complete: the pieces as they are to be sent."""

    __slots__ = ("pieces", "size")

    def __init__(self, pieces: Sequence[Buffer]) -> None:
        self.pieces = pieces
        self.size = sum(map(len, pieces))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield bytes(piece)


class LiveBody:
    """A request body that goes up while it arrives at `source`, in the framing that `walker` lets out.

    `first` are pieces that have come already, as they are to be sent. `keep` sees every further piece, and may raise
    where there are too many. `tail` holds the end back until it is complete. `arrived` is called with the last byte.
    """

    __slots__ = ("_arrived", "_keep", "_silence_s", "_tail", "chunked", "first", "pump", "source", "walker")

    def __init__(
        self,
        source: Stream,
        walker: Walker,
        *,
        chunked: bool,
        keep: Callable[[bytes], None] | None,
        silence_s: float,
        arrived: Callable[[], None],
        first: Sequence[Buffer] = (),
        tail: HeldTail | None = None,
    ) -> None:
        self.source = source
        self.walker = walker
        self.chunked = chunked
        self.first = first
        self.pump: Pump | None = None
        self._keep = keep
        self._tail = tail
        self._silence_s = silence_s
        self._arrived = arrived

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError("a live body is pumped, not iterated")
        yield b""

    def start(self, sink: Stream, head: bytes, notify: Callable[[], None]) -> Pump:
        """Send the request's head, and have the body follow."""
        sink.put_soon(head)
        sink.put_all(self.first)
        hold = None if self._tail is None else self._tail.push
        self.pump = Pump(self.source, sink, self.walker, tap=self._keep, hold=hold, ending=self._end, notify=notify)
        self.source.set_clock(self._silence_s, self._silence_s, SLOWEST_UPLOAD_BYTES_PER_S)
        self.source.start_pump(self.pump)
        if self.walker.done and not self.pump.done:
            self.pump.feed(b"")  # all of it had come already
        return self.pump

    def stop(self) -> None:
        if self.pump is not None:
            self.source.stop_pump(self.pump)
            self.source.stop_clock()
            self.pump = None

    def _end(self) -> bytes:
        self._arrived()
        if self._tail is not None:
            return self._tail.finish()
        return LAST_CHUNK if self.chunked else b""


class UpstreamResponse(httpcore.Response):
    """A response whose body is still at the connection. It must be closed, always; closing never waits."""

    def __init__(self, connection: UpstreamConnection, head: ResponseHead, *, early: bool) -> None:
        # httpcore's own constructor converts and copies each of these.
        self.status = head.status
        self.headers = head.raw
        self._stream_consumed = False
        self.extensions = {"http_version": b"HTTP/1.1", "network_stream": connection.wire}
        self.head = head
        self.early = early  # it came before the request was complete
        self._connection = connection
        self._walker: Walker | None = None
        self._failure: FramingError | None = None  # the body breaks behind what has been opened
        self._pump: Pump | None = None
        self._closed = False

    @property
    def stream(self) -> UpstreamResponse:  # type: ignore[override]
        """httpcore's name for the body. No attribute: an object that holds itself waits for the garbage collector."""
        return self

    def open(self, walker: Walker) -> bytes:
        """Walk what has already come. Raises UpstreamError `upstream_protocol_error`."""
        self._walker = walker
        waiting = self._connection.wire.take_all()
        if not waiting:
            return b""
        try:
            return walker.walk(waiting)
        except FramingError as exc:
            if not exc.passed:
                raise _broken_body(exc) from exc
            self._failure = exc.with_traceback(None)  # which would hold this response
            return exc.passed

    @property
    def done(self) -> bool:
        return self._walker is not None and self._walker.done

    def allow_silence(self, idle_s: float) -> None:
        """For callers that iterate: how long the upstream may be silent."""
        self._connection.wire.set_clock(idle_s)

    async def relay(
        self, sink: Sink, *, idle_s: float, tap: Callable[[bytes], None] | None, ending: Callable[[], bytes] | None
    ) -> int:
        """Move the rest of an opened body into `sink`; the bytes moved. Raises StreamTimeout, FramingError, StreamLost
        or what `ending` raises."""
        assert self._walker is not None
        if self._failure is not None:
            raise self._take_failure()
        stream = self._connection.wire
        pump = self._pump = Pump(stream, sink, self._walker, tap=tap, ending=ending)
        stream.set_clock(idle_s)
        stream.start_pump(pump)
        await stream.pumped(pump)
        return pump.moved_bytes

    def _take_failure(self) -> FramingError:
        """As `Pump.take_error`."""
        failure, self._failure = self._failure, None
        assert failure is not None
        return failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The payload, for callers that know httpcore alone."""
        walker = bare_walker(self.head.content_length, chunked=self.head.chunked)
        part = self.open(walker)
        stream = self._connection.wire
        while True:
            if part:
                yield part
            if walker.done:
                return
            try:
                if await stream.fill():
                    part = walker.walk(stream.take_all())
                elif stream.torn:
                    raise StreamLost("the upstream broke off")
                else:
                    part = b""
                    walker.end_of_input()
            except FramingError as exc:
                raise _broken_body(exc) from exc

    async def aclose(self) -> None:
        self.close()

    def at_hand(self) -> bytes | None:
        """The whole of a short body of known length, where it is here already. It stays where it is."""
        length = self.head.content_length
        buffer = self._connection.wire.buffer
        return buffer[:length] if length is not None and length <= len(buffer) else None

    async def peek(self, size_bytes: int, wait_s: float, enough: Callable[[bytes], bool] = never) -> bytes:
        """The beginning of the payload, which stays where it is: all of a short body, or at least `size_bytes` of a
        longer one, or `enough` of it, as far as it comes within `wait_s`. Raises UpstreamError
        `upstream_protocol_error`."""
        payload, ended = self._begun()
        if ended or len(payload) >= size_bytes or enough(payload):
            return payload
        stream = self._connection.wire
        stream.set_clock(math.inf, wait_s)
        try:
            while await stream.fill():
                payload, ended = self._begun()
                if ended or len(payload) >= size_bytes or enough(payload):
                    break
        except StreamTimeout:
            pass
        finally:
            stream.stop_clock()
        return payload

    def check_more_comes(self) -> None:
        """Raises UpstreamError where what can be peeked at is all there will be: `upstream_protocol_error` for a whole
        body, whose connection nobody uses again (`faults.md` U30); `upstream_closed` for one that was broken off."""
        _, is_whole = self._begun()
        stream = self._connection.wire
        ends_with_connection = self.head.content_length is None and not self.head.chunked
        if is_whole or (stream.ended and ends_with_connection and not stream.torn):
            self.cut()
            raise UpstreamError("upstream_protocol_error", "The upstream answered 200 and said nothing. Try again.")
        if stream.ended:
            raise UpstreamError("upstream_closed", "The upstream broke off before it had said anything.")

    def _begun(self) -> tuple[bytes, bool]:
        """The payload that is here, and whether that is all of it."""
        walker = bare_walker(self.head.content_length, chunked=self.head.chunked)
        try:
            return walker.walk(self._connection.wire.buffer), walker.done
        except FramingError as exc:
            if not exc.passed:
                raise _broken_body(exc) from exc
            return exc.passed, True  # what came before the break stands; whoever relays it finds the break again

    def cut(self) -> None:
        """Break the connection off; whoever waits for the body learns of it."""
        self._connection.discard()

    def drop(self) -> None:
        """Close it without passing anything on; the connection lives where all of the body is here."""
        try:
            self.open(bare_walker(self.head.content_length, chunked=self.head.chunked))
        except UpstreamError:
            self._walker = None
            self.early = True
        self.close()

    def close(self) -> None:
        """Give the connection back: for another exchange where the body was read to its end, else to be closed."""
        if self._closed:
            return
        self._closed = True
        walker = self._walker
        empty = self.head.content_length == 0 if walker is None else walker.done and not walker.rest
        self._connection.release(reusable=empty and self.head.reusable and not self.early)


class UpstreamConnection(httpcore.AsyncConnectionInterface):
    """One connection of a pool."""

    def __init__(self, base: BaseUrl, pool: Pool, limits: Limits) -> None:
        self._base = base
        self._pool = pool
        self._limits = limits
        self._stream: Stream | None = None
        self._busy = False
        self._exchanges = 0
        self.expires = math.inf

    @property
    def wire(self) -> Stream:
        assert self._stream is not None
        return self._stream

    async def handle_async_request(self, request: httpcore.Request) -> UpstreamResponse:
        """Raises httpcore's errors, UpstreamError for a response that breaks HTTP, DownstreamError for a live body
        that does; httpcore.ConnectionNotAvailable where not a byte was written and another connection may be tried."""
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        self._busy = True
        was_open = self._stream is not None
        if self._stream is None:
            await self._connect(timeouts)
        elif self._stream.is_stale():
            self.discard()
            raise httpcore.ConnectionNotAvailable
        attempt: Attempt | None = request.extensions.get("attempt")
        if attempt is not None:
            attempt.sent = True
            attempt.reused_connection = was_open
        self._exchanges += 1
        head = request.extensions.get("head") or _serialise(request)
        first_byte_s = timeouts.get("read") or math.inf
        body = request.stream
        if isinstance(body, LiveBody):
            raw, early = await self._send_live(head, body, lambda: self._uploaded(attempt, first_byte_s))
        else:
            pieces = body.pieces if isinstance(body, KnownBody) else await _pieces(request)
            early = not (self._send_small(head, pieces) or await self._send(head, pieces))
            self._uploaded(attempt, first_byte_s)
            raw = await self._read_head(_nothing)
        self.wire.stop_clock()
        if self._exchanges == 1:
            self.keep_session()
        return UpstreamResponse(self, parse_response_head(raw, self._limits, method=request.method), early=early)

    async def open(self, timeouts: Mapping[str, float | None]) -> None:
        """Connect ahead of the first request. Where that fails, it is closed afterwards."""
        self._busy = True
        try:
            with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException, OSError):
                await self._connect(timeouts)
                self._busy = False
        finally:
            if self._busy:
                self.discard()

    def keep_session(self) -> None:
        """Remember what the upstream gave to resume TLS with; of TLS 1.3 that has come by the first answer."""
        tls = self.wire.get_extra_info("ssl_object")
        if tls is not None:
            self._pool.sessions.keep(tls)

    def _uploaded(self, attempt: Attempt | None, first_byte_s: float) -> None:
        """The request has gone up: from now on its answer is waited for."""
        self.wire.set_clock(math.inf, first_byte_s)
        if attempt is not None:
            attempt.uploaded = self._pool.runtime.now()

    async def _connect(self, timeouts: Mapping[str, float | None]) -> None:
        base = self._base
        network = self._pool.network
        timeout = timeouts.get("connect")
        if base.socket_path is not None:
            stream = await network.connect_unix_socket(base.socket_path, timeout)
        else:
            stream = await network.connect_tcp(base.host, base.port, timeout)
        assert isinstance(stream, Stream)
        self._stream = stream
        stream.limit_stalls(timeouts.get("write") or math.inf)
        if base.scheme == "https":
            session = self._pool.sessions.take()
            await secure(stream, self._pool.ssl_context, base.host, timeouts.get("tls", timeout), session)
        stream.on_end = self._report_end

    def _report_end(self) -> None:
        self._pool.forget(self)

    def _send_small(self, head: bytes, pieces: Sequence[Buffer]) -> bool:
        """A short request goes up in one write; False where it is a long one."""
        if len(pieces) != 1 or len(pieces[0]) > JOINED_BYTES:
            return False
        self.wire.put(b"".join((head, pieces[0])))
        return True

    async def _send(self, head: bytes, pieces: Sequence[Buffer]) -> bool:
        """False where the upstream spoke or left before it had everything."""
        stream = self.wire
        stream.put(head)
        for index, piece in enumerate(pieces):
            stream.put(piece)
            while stream.congested and not stream.buffer and not stream.ended:
                await stream.look_again()
            if (stream.buffer or stream.ended) and (stream.congested or index + 1 < len(pieces)):
                return False
        return True

    async def _send_live(self, head: bytes, body: LiveBody, uploaded: Callable[[], None]) -> tuple[bytes, bool]:
        stream = self.wire
        pump = body.start(stream, head, notify=stream.nudge)
        is_told = False

        def check_upload() -> None:
            nonlocal is_told
            if not pump.done or is_told:
                return
            if pump.error is not None:
                raise bad_upload(pump.take_error())
            is_told = True
            uploaded()

        try:
            raw = await self._read_head(check_upload)
        finally:
            body.stop()
        return raw, not pump.done or pump.error is not None

    async def _read_head(self, look: Callable[[], None]) -> bytes:
        """The first head that is the answer's. `look` is called whenever something may have happened."""
        stream = self.wire
        searched = interim = 0
        while True:
            buffer = stream.buffer
            end = buffer.find(HEAD_END, searched)
            if end >= 0:
                raw = stream.take(end + 4)
                if not is_informational(raw):
                    return raw
                interim += 1
                if interim > MAX_INFORMATIONAL:
                    raise UpstreamError("upstream_protocol_error", "The upstream sent too many interim answers.")
                searched = 0
                continue
            if len(buffer) > self._limits.upstream_head_bytes:
                raise UpstreamError("upstream_protocol_error", "The upstream sent an oversized response head.")
            searched = max(0, len(buffer) - 3)
            look()
            if stream.ended:
                if stream.stalled:
                    raise httpcore.WriteTimeout("the upstream takes nothing")
                raise StreamLost("the upstream closed before it answered")
            stream.read_on()
            await stream.look_again()

    def release(self, *, reusable: bool) -> None:
        self._busy = False
        stream = self.wire
        stream.stop_clock()
        if not reusable or stream.buffer or stream.unsent_bytes:
            self.discard()
        self._pool.give(self)

    def discard(self) -> None:
        """Close at once. Never waits."""
        self._busy = False
        if self._stream is not None:
            self._stream.abort()

    # --- the rest of httpcore's interface

    async def aclose(self) -> None:
        self.discard()

    def info(self) -> str:
        state = "CLOSED" if self.is_closed() else "IDLE" if self.is_idle() else "ACTIVE"
        return f"HTTP/1.1, {state}, Request Count: {self._exchanges}"

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return origin == self._pool.origin

    def is_available(self) -> bool:
        return self.is_idle()

    def has_expired(self) -> bool:
        return self._stream is not None and self.is_idle() and self._stream.is_stale()

    def is_idle(self) -> bool:
        return not self._busy and not self.is_closed()

    def is_closed(self) -> bool:
        """Also True for one that never came to be open."""
        return self._stream is None or self._stream.ended or self._stream.closing

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self._base.authority}, {self.info()}]>"


def bad_upload(cause: Exception) -> QProxyError:
    """What broke a request body, told to the client that sends it."""
    if isinstance(cause, QProxyError):
        return cause
    if isinstance(cause, StreamTimeout):
        return DownstreamError("body_timeout", "The request body stopped arriving.")
    if isinstance(cause, (Truncated, StreamLost)):
        return DownstreamError("bad_request", "The request ended in the middle of its body.")
    return DownstreamError("bad_chunk", f"The request body is broken: {cause}.")


def _nothing() -> None:
    pass


def _broken_body(cause: FramingError) -> UpstreamError:
    return UpstreamError("upstream_protocol_error", f"The upstream's answer breaks HTTP: {cause}.")


async def _pieces(request: httpcore.Request) -> Sequence[Buffer]:
    """The body of a request that was made with httpcore's own API; one of unknown length goes up as one chunk."""
    assert isinstance(request.stream, AsyncIterable)
    pieces = [part async for part in request.stream if part]
    if all(name.lower() != b"transfer-encoding" for name, _ in request.headers):
        return pieces
    size = sum(map(len, pieces))
    return [b"%x\r\n" % size, *pieces, b"\r\n", LAST_CHUNK] if size else [LAST_CHUNK]


def _serialise(request: httpcore.Request) -> bytes:
    """The head of a request that was made with httpcore's own API, which has checked nothing."""
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method, request.url.target)]
    for name, value in request.headers:
        if any(byte in b"\r\n\x00" for byte in name + value):
            raise httpcore.LocalProtocolError("control character in a header")
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"\r\n")
    return b"".join(lines)

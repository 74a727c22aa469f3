"""One client's connection: heads and bodies in, heads and bodies out, one exchange after the other, and its end.

A client that leaves cancels everything that runs for it: its end is seen in the read callback, which cancels the one
scope around the connection. Only while a request body is still owed does an end mean a broken request instead.
"""

from __future__ import annotations

import logging
import math
import re
import socket
import struct
import traceback

import anyio

from qproxy.core.admit import is_preflight
from qproxy.core.exchange import Exchange
from qproxy.core.framing import FramingError, Walker, request_walker
from qproxy.core.http1 import HEAD_END, RequestHead, check_begun_head
from qproxy.core.local import LocalAnswer, error_answer, sse_error_event
from qproxy.core.outgoing import (
    CLOSE,
    CONTINUE,
    KEEP_ALIVE,
    attempts_line,
    chunk,
    field_lines,
    local_response,
    stream_head,
)
from qproxy.core.replay import ReplayBuffer, body_too_large
from qproxy.edge.drain import LAST_CALL_S, Stage
from qproxy.edge.http11 import SLOWEST_UPLOAD_BYTES_PER_S, bad_upload
from qproxy.edge.proxy import serve_exchange
from qproxy.edge.pump import Pump
from qproxy.edge.services import Services
from qproxy.edge.streams import Stream, StreamLost, StreamTimeout
from qproxy.errors import DownstreamError, InternalError, QProxyError

log = logging.getLogger(__name__)

LINGER_S = 2.0  # faults.md section 3, close order
RESET_DELAY_S = 0.05
# struct linger of SO_LINGER: what the peer sees when the socket is closed.
_RESET = struct.pack("ii", 1, 0)
_FIN = struct.pack("ii", 0, 0)
_BLANK_LINES = re.compile(rb"(?:\r\n)+")


class Connection:
    """A client's connection."""

    def __init__(self, stream: Stream, peer: str, services: Services) -> None:
        self.stream = stream
        self._peer = peer
        self._services = services
        self._limits = services.limits
        self._scope = anyio.CancelScope()
        self._body_owed = False  # the client has not sent all of the request's body
        self._owed_bytes: int | None = 0  # its length; None: chunked, or begun
        self._ends_body = False  # the end of the connection would say that the answer is complete
        self.body_limit_bytes = services.limits.body_bytes  # of this exchange
        self._continue_owed = False
        self._is_waiting_stream = False  # a stream that has been begun by us, and not yet by the upstream
        self._keep_alive = True
        self._method = b"GET"
        self._own = b""  # finished header lines of this exchange: request id, CORS, connection
        self._exchange: Exchange | None = None  # the one that is under way
        self._awaits_request = False
        self.broken_off: QProxyError | None = None  # why the server ends what is under way

    async def serve(self) -> None:
        """Until the client or we have had enough. Never raises but for cancellation from outside."""
        stream = self.stream
        stream.limit_stalls(self._services.timeouts.write_stall_s)
        try:
            with self._scope:
                await self._serve_all()
            stream.on_end = None
            if not self._scope.cancel_called or self.broken_off is not None:
                await self._take_leave()
        finally:
            stream.on_end = None
            stream.abort()

    async def _take_leave(self) -> None:
        """Let what was queued arrive (`faults.md` section 3, close order)."""
        stream = self.stream
        try:
            await stream.flush()
        except StreamLost:
            return
        if self._ends_body:
            await anyio.sleep(RESET_DELAY_S)
            return
        self._close_with(_FIN)
        if not stream.ended:
            await stream.linger(LINGER_S, self._limits.body_bytes)

    async def _serve_all(self) -> None:
        stream = self.stream
        stream.on_end = self._client_ended
        stream.watch_leaving()
        if stream.ended:
            self._client_ended()
        first = True
        while self._keep_alive and await self._serve_one(first=first):
            first = False
            try:
                await stream.drain()  # else a client that asks and never reads would make us keep its answers
            except StreamLost:
                return

    def _client_ended(self) -> None:
        if self.stream.lost or self.stream.gone or self._has_whole_request():
            self._scope.cancel()

    def _has_whole_request(self) -> bool:
        """Whether nothing of the body is still to come, be it taken or in the buffer: a client that ends has left."""
        owed = self._owed_bytes
        return not self._body_owed or (owed is not None and owed <= len(self.stream.buffer))

    async def _serve_one(self, *, first: bool) -> bool:
        """One exchange; False when there is none."""
        services = self._services
        exchange: Exchange | None = None
        try:
            if not await self._await_request(first=first):
                return False
            exchange = Exchange(services.new_request_id(), self._peer, services.runtime.now())
            self._exchange = exchange
            services.activity.begin()
            self._own = b"x-request-id: %b\r\n" % exchange.request_id
            head = await self._read_head()
            self._begin(head, exchange)
            await serve_exchange(self, head, exchange, services)
        except QProxyError as exc:
            assert exchange is not None
            exchange.fail(exc.code)
            self._refuse(exc, exchange)
        except Exception:  # noqa: BLE001
            # The crash barrier: a defect costs one exchange. The traceback is logged without values.
            log.error("internal error\n%s", traceback.format_exc())  # noqa: TRY400
            if exchange is not None:
                exchange.fail("internal_error")
                self._refuse(InternalError("internal_error", "Internal error; the log says more."), exchange)
            self._keep_alive = False
        except anyio.get_cancelled_exc_class():
            if exchange is not None:
                self._stop_halfway(exchange)
            raise
        finally:
            self._exchange = None
            if exchange is not None:
                services.activity.end()
                services.record(exchange.settle(services.runtime.now()))
        return True

    def _stop_halfway(self, exchange: Exchange) -> None:
        """The exchange is cancelled: its client has left, or we leave and say so."""
        error = self.broken_off
        if error is None:
            exchange.fail("client_closed")
        else:
            exchange.fail(error.code)
            self._refuse(error, exchange)

    # --- the end of the server

    def leave(self) -> None:
        """End soon where nothing is under way, and say so in the next answer (`Drain.advance`)."""
        if self._awaits_request:
            self.stream.set_clock(math.inf, LAST_CALL_S)
        elif self._exchange is not None and not self._exchange.committed:
            self.close_after()

    def break_off(self, error: QProxyError) -> None:
        """End now. What is under way ends with `error`, where there is a place to say it."""
        if self._exchange is not None:
            self.broken_off = error
        self._scope.cancel()

    # --- the request

    async def _await_request(self, *, first: bool) -> bool:
        """Wait for the first byte of a request; False where none comes. Empty lines before it are none of its bytes
        (RFC 9112 2.2)."""
        stream = self.stream
        if stream.buffer and not self._skip_blank_lines():
            return True
        self._awaits_request = True
        stream.set_clock(math.inf, self._patience_s(first=first))
        try:
            while await stream.fill():
                if not self._skip_blank_lines():
                    return True
            return False
        except StreamTimeout:
            self._keep_alive = False
            if not stream.unsent_bytes:
                self._scope.cancel()  # nothing is on its way that a reset could destroy: no leave to take
            return False
        finally:
            self._awaits_request = False
            stream.stop_clock()

    def _patience_s(self, *, first: bool) -> float:
        services = self._services
        usual_s = services.timeouts.head_s if first else services.timeouts.keepalive_idle_s
        return usual_s if services.drain.stage is Stage.SERVING else min(usual_s, LAST_CALL_S)

    def _skip_blank_lines(self) -> bool:
        """True where nothing else has come."""
        stream = self.stream
        blank = _BLANK_LINES.match(stream.buffer)
        if blank is not None:
            stream.take(blank.end())
        return stream.buffer in (b"", b"\r")

    async def _read_head(self) -> RequestHead:
        stream = self.stream
        searched = 0
        clock_runs = False
        while True:
            buffer = stream.buffer
            end = buffer.find(HEAD_END, searched)
            if end >= 0:
                stream.stop_clock()
                return self._services.heads.parse(stream.take(end + 4))
            check_begun_head(buffer, self._limits)
            searched = max(0, len(buffer) - 3)
            if not clock_runs:
                stream.set_clock(math.inf, self._services.timeouts.head_s)
                clock_runs = True
            try:
                if not await stream.fill():
                    raise DownstreamError("bad_request", "The request ended in the middle of its head.")
            except StreamTimeout as exc:
                raise DownstreamError("head_timeout", "The request head took too long.") from exc

    def _begin(self, head: RequestHead, exchange: Exchange) -> None:
        exchange.method = self._method = head.method
        exchange.path = head.path
        self._body_owed = head.has_body
        self._owed_bytes = head.content_length
        self._continue_owed = head.expects_continue
        if not is_preflight(head.method, head):  # whose answer has CORS fields of its own
            self._own += field_lines(self._services.gate.cors_headers(head.origin))
        if not head.keep_alive or self._services.drain.stage is not Stage.SERVING:
            self.close_after()
        elif head.http_10:
            self._own += KEEP_ALIVE

    def limit_body(self, head: RequestHead, most_bytes: int) -> None:
        """Take no more than this of a body. Raises DownstreamError `body_too_large` where more is announced."""
        self.body_limit_bytes = most_bytes
        if head.content_length is not None and head.content_length > most_bytes:
            raise body_too_large(most_bytes)

    def invite_body(self) -> None:
        """The body is wanted: say so to a client that waits for it (RFC 9110 10.1.1)."""
        if self._continue_owed:
            self._continue_owed = False
            if not self.stream.buffer:
                self.stream.put(CONTINUE)

    async def receive_body(self, head: RequestHead) -> list[bytes]:
        """The whole body, as the pieces in which it came."""
        stream = self.stream
        length = head.content_length
        if length is not None and length <= len(stream.buffer):
            self.body_arrived()
            return [stream.take(length)] if length else []
        self.invite_body()
        return await self.receive_rest(request_walker(length), ReplayBuffer(self.body_limit_bytes))

    async def receive_rest(self, walker: Walker, replay: ReplayBuffer) -> list[bytes]:
        """The whole body: what `replay` has of it, and what is still to come."""
        stream = self.stream
        pump = Pump(stream, replay, walker)
        body_s = self._services.timeouts.body_s
        stream.set_clock(body_s, body_s, SLOWEST_UPLOAD_BYTES_PER_S)
        try:
            stream.start_pump(pump)
            await stream.pumped(pump)
        except (FramingError, StreamTimeout, StreamLost) as exc:
            raise bad_upload(exc) from exc
        stream.stop_clock()
        self.body_arrived()
        return replay.seal()

    async def receive_begin(self, window_bytes: int) -> bytes:
        """The first bytes of a body, still in the buffer: as many as `window_bytes`, or all there are."""
        stream = self.stream
        self.invite_body()
        body_s = self._services.timeouts.body_s
        stream.set_clock(body_s, body_s, SLOWEST_UPLOAD_BYTES_PER_S)
        try:
            while len(stream.buffer) < window_bytes:
                if not await stream.fill():
                    raise DownstreamError("bad_request", "The request ended in the middle of its body.")
        except StreamTimeout as exc:
            raise bad_upload(exc) from exc
        stream.stop_clock()
        return stream.buffer

    @property
    def owes_body(self) -> bool:
        """Whether the client still sends its request."""
        return self._body_owed

    def body_begun(self) -> None:
        """From here on the body is taken piece by piece: it can no longer be skipped by its length."""
        self._owed_bytes = None

    def body_arrived(self) -> None:
        """The request is complete: from here on a client that ends has left, also one that ended already."""
        self._body_owed = False
        if self.stream.ended:
            self._client_ended()

    # --- the answer

    def own_lines(self, exchange: Exchange) -> bytes:
        """The header lines that every answer of this exchange carries."""
        return self._own + attempts_line(exchange.attempts)

    def close_after(self) -> None:
        """This exchange is the last one, and the client is told."""
        if self._keep_alive:
            self._keep_alive = False
            self._own = self._own.replace(KEEP_ALIVE, b"") + CLOSE

    def answer(self, answer: LocalAnswer, exchange: Exchange) -> None:
        """Send a whole answer of our own."""
        self._finish_request()
        exchange.commit(answer.status, self._services.runtime.now())
        response = local_response(answer, method=self._method, own=self.own_lines(exchange))
        exchange.response_bytes = len(answer.body)
        self.stream.put(response)

    def _refuse(self, error: QProxyError, exchange: Exchange) -> None:
        """Answer with an error, where there is still an answer to give."""
        if exchange.committed:
            self._keep_alive = False
            if self._is_waiting_stream:
                self.stream.put(chunk(sse_error_event(error)))
            return
        if error.kind.closes:
            self.close_after()
        self.answer_error(error_answer(error, exchange.request_id), exchange)

    def begin_stream(self, exchange: Exchange) -> None:
        """Commit to a stream before the upstream has answered: its client waits for too long already."""
        self._finish_request()
        self._is_waiting_stream = True
        exchange.commit(200, self._services.runtime.now())
        self.stream.put(stream_head(self.own_lines(exchange)))

    def continue_stream(self) -> None:
        """Of a stream that has been begun by us: the upstream's answer follows, without its head."""
        self._is_waiting_stream = False

    def fail_stream(self, answer: LocalAnswer, exchange: Exchange) -> None:
        """In a stream that has been begun by us, say in an event what would have been the answer."""
        self._keep_alive = False
        self._is_waiting_stream = False
        exchange.status = answer.status  # the truth, for the access log
        self.stream.put(chunk(b"data: %b\n\n" % answer.body))

    def answer_error(self, answer: LocalAnswer, exchange: Exchange) -> None:
        """Send a whole answer that brings its own request id."""
        if self._is_waiting_stream:
            self.fail_stream(answer, exchange)
            return
        self._own = self._own.replace(b"x-request-id: %b\r\n" % exchange.request_id, b"")
        self.answer(answer, exchange)

    def _finish_request(self) -> None:
        """Before an answer that comes early: a body that is here already is skipped, else the connection must end."""
        owed = self._owed_bytes
        if not self._body_owed:
            return
        if owed is not None and owed <= len(self.stream.buffer):
            self.stream.take(owed)
            self._body_owed = False
        else:
            self.close_after()

    def delimit_by_close(self) -> None:
        """The end of the answer is the connection's end. Until the answer is complete and sent that end is a RST,
        whoever closes, since FIN would say complete (`faults.md` section 1.3)."""
        self.close_after()
        self._ends_body = True
        self._close_with(_RESET)

    def answer_complete(self) -> None:
        self._ends_body = False

    def _close_with(self, linger: bytes) -> None:
        sock = self.stream.get_extra_info("socket")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError:
            pass  # the client was faster

"""One client's connection: heads and bodies in, heads and bodies out, one exchange after the other, and its end.

A client that leaves cancels everything that runs for it: its end is seen in the read callback, which cancels the one
scope around the connection. Only while a request body is still owed does an end mean a broken request instead.
"""

from __future__ import annotations

import logging
import math
import socket
import struct
import traceback

import anyio

from qproxy.core.exchange import Exchange
from qproxy.core.framing import FramingError, request_walker
from qproxy.core.http1 import HEAD_END, RequestHead, headers_too_large, parse_request_head, target_too_long
from qproxy.core.local import LocalAnswer, error_answer
from qproxy.core.outgoing import CLOSE, CONTINUE, KEEP_ALIVE, field_lines, local_response
from qproxy.core.replay import ReplayBuffer, body_too_large
from qproxy.edge.http11 import bad_upload
from qproxy.edge.proxy import serve_exchange
from qproxy.edge.pump import Pump
from qproxy.edge.services import Services
from qproxy.edge.streams import Stream, StreamLost, StreamTimeout
from qproxy.errors import DownstreamError, InternalError, QProxyError

log = logging.getLogger(__name__)

LINGER_S = 2.0  # faults.md section 3, close order
RESET_DELAY_S = 0.05
_TOKEN_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\r\n")


class Connection:
    """A client's connection."""

    def __init__(self, stream: Stream, peer: str, services: Services) -> None:
        self.stream = stream
        self._peer = peer
        self._services = services
        self._limits = services.limits
        self._scope = anyio.CancelScope()
        self._body_owed = False  # the client has not sent all of the request's body
        self._owed_bytes: int | None = 0  # its length; None: chunked
        self._reset = False
        self._continue_owed = False
        self._keep_alive = True
        self._method = b"GET"
        self._own = b""  # finished header lines of this exchange: request id, CORS, connection

    async def serve(self) -> None:
        """Until the client or we have had enough. Never raises but for cancellation from outside."""
        stream = self.stream
        stream.limit_stalls(self._services.timeouts.write_stall_s)
        try:
            with self._scope:
                await self._serve_all()
            stream.on_end = None
            if self._reset:
                await anyio.sleep(RESET_DELAY_S)
                self._send_reset()
            elif not stream.ended:
                await stream.linger(LINGER_S, self._limits.body_bytes)
        finally:
            stream.on_end = None
            stream.abort()

    async def _serve_all(self) -> None:
        stream = self.stream
        stream.on_end = self._client_ended
        if stream.ended:
            self._client_ended()
        first = True
        while self._keep_alive and await self._serve_one(first=first):
            first = False

    def _client_ended(self) -> None:
        if not self._body_owed or self.stream.lost:
            self._scope.cancel()

    async def _serve_one(self, *, first: bool) -> bool:
        """One exchange; False when there is none."""
        services = self._services
        exchange: Exchange | None = None
        try:
            if not await self._await_request(first=first):
                return False
            exchange = Exchange(services.new_request_id(), self._peer, services.runtime.now())
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
            self._keep_alive = False
            if exchange is not None:
                exchange.fail("internal_error")
                self._refuse(InternalError("internal_error", "Internal error; the log says more."), exchange)
        except anyio.get_cancelled_exc_class():
            if exchange is not None:
                exchange.fail("client_closed")
            raise
        finally:
            if exchange is not None:
                services.record(exchange.settle(services.runtime.now()))
        return True

    # --- the request

    async def _await_request(self, *, first: bool) -> bool:
        """Wait for the first byte of a request; False where none comes."""
        stream = self.stream
        if stream.buffer:
            return True
        timeouts = self._services.timeouts
        stream.set_clock(timeouts.head_s if first else timeouts.keepalive_idle_s)
        try:
            return await stream.fill()
        except StreamTimeout:
            self._keep_alive = False
            return False
        finally:
            stream.stop_clock()

    async def _read_head(self) -> RequestHead:
        stream = self.stream
        searched = 0
        clock_runs = False
        while True:
            buffer = stream.buffer
            if buffer.startswith(b"\r\n"):  # RFC 9112 2.2: an empty line before the request line is ignored
                stream.take(2)
                continue
            end = buffer.find(HEAD_END, searched)
            if end >= 0:
                stream.stop_clock()
                return parse_request_head(stream.take(end + 4), self._limits)
            self._check_incomplete(buffer)
            searched = max(0, len(buffer) - 3)
            if not clock_runs:
                stream.set_clock(math.inf, self._services.timeouts.head_s)
                clock_runs = True
            try:
                if not await stream.fill():
                    raise DownstreamError("bad_request", "The request ended in the middle of its head.")
            except StreamTimeout as exc:
                raise DownstreamError("head_timeout", "The request head took too long.") from exc

    def _check_incomplete(self, buffer: bytes) -> None:
        if buffer and buffer[0] not in _TOKEN_BYTES:
            raise DownstreamError("bad_request_line", "This port speaks plain HTTP/1.1.")
        if len(buffer) > self._limits.target_bytes + 48 and b"\n" not in buffer:
            raise target_too_long(self._limits)
        if len(buffer) > self._limits.head_bytes:
            raise headers_too_large(self._limits)

    def _begin(self, head: RequestHead, exchange: Exchange) -> None:
        exchange.method = self._method = head.method
        exchange.path = head.path
        self._body_owed = head.has_body
        self._owed_bytes = head.content_length
        self._continue_owed = head.expects_continue
        self._keep_alive = head.keep_alive
        cors = self._services.gate.cors_headers(head.origin)
        if cors:
            self._own += field_lines(cors)
        if not head.keep_alive:
            self._own += CLOSE
        elif head.http_10:
            self._own += KEEP_ALIVE

    def check_size(self, head: RequestHead) -> None:
        """Raises DownstreamError `body_too_large` where the announced length is."""
        if head.content_length is not None and head.content_length > self._limits.body_bytes:
            raise body_too_large(self._limits.body_bytes)

    def invite_body(self) -> None:
        """The body is wanted: say so to a client that waits for it (RFC 9110 10.1.1)."""
        if self._continue_owed:
            self._continue_owed = False
            if not self.stream.buffer:
                self.stream.put(CONTINUE)

    async def receive_body(self, head: RequestHead) -> list[bytes]:
        """The whole body, as the pieces in which it came."""
        self.check_size(head)
        stream = self.stream
        length = head.content_length
        if length is not None and length <= len(stream.buffer):
            self._body_owed = False
            return [stream.take(length)] if length else []
        self.invite_body()
        replay = ReplayBuffer(self._limits.body_bytes)
        pump = Pump(stream, replay, request_walker(length))
        stream.set_clock(self._services.timeouts.body_s)
        try:
            stream.start_pump(pump)
            await stream.pumped(pump)
        except (FramingError, StreamTimeout, StreamLost) as exc:
            raise bad_upload(exc) from exc
        stream.stop_clock()
        self._body_owed = False
        return replay.seal()

    def body_arrived(self) -> None:
        """A body that went up while it arrived is complete."""
        self._body_owed = False

    # --- the answer

    @property
    def own_lines(self) -> bytes:
        """The header lines that every answer of this exchange carries."""
        return self._own

    def close_after(self) -> None:
        """This exchange is the last one, and the client is told."""
        if self._keep_alive:
            self._keep_alive = False
            self._own = self._own.replace(KEEP_ALIVE, b"") + CLOSE

    def answer(self, answer: LocalAnswer, exchange: Exchange) -> None:
        """Send a whole answer of our own."""
        self._finish_request()
        exchange.commit(answer.status, self._services.runtime.now())
        response = local_response(answer, method=self._method, own=self._own)
        exchange.response_bytes = len(answer.body)
        self.stream.put(response)

    def _refuse(self, error: QProxyError, exchange: Exchange) -> None:
        """Answer with an error, where there is still an answer to give."""
        if exchange.committed:
            self._keep_alive = False
            return
        if error.kind.closes:
            self.close_after()
        own, self._own = self._own, self._own.replace(b"x-request-id: %b\r\n" % exchange.request_id, b"")
        self.answer(error_answer(error, exchange.request_id), exchange)
        self._own = own

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

    def reset_after(self) -> None:
        """End with RST after what was queued: for answers whose end is the connection's end, where FIN would say
        complete (`faults.md` section 1.3)."""
        self._keep_alive = False
        self._reset = True

    def _send_reset(self) -> None:
        sock = self.stream.get_extra_info("socket")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the client was faster

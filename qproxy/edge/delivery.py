"""The way down: an upstream's answer, from the verdict to its last byte, or to an end that nobody takes for clean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from qproxy.core.exchange import Exchange
from qproxy.core.framing import LAST_CHUNK, FramingError, Walker, bare_walker, chunking_walker, relay_walker
from qproxy.core.http1 import RequestHead, ResponseHead
from qproxy.core.local import LocalAnswer, error_in_stream, foreign_error_answer, hidden_error_answer, sse_error_event
from qproxy.core.outcome import Verdict, judge
from qproxy.core.outgoing import CHUNKED, content_length, response_head
from qproxy.core.route import ForwardEndpoint
from qproxy.core.sse import TailWatch
from qproxy.core.usage import usage_in
from qproxy.edge.attempts import Answer
from qproxy.edge.keepalive import KeepAlive
from qproxy.edge.services import Services
from qproxy.edge.streams import StreamLost, StreamTimeout
from qproxy.errors import QProxyError, UpstreamError

if TYPE_CHECKING:
    from qproxy.edge.connection import Connection


ERROR_BYTES = 16 * 1024
ERROR_WAIT_S = 2.0


async def deliver(
    connection: Connection,
    head: RequestHead,
    exchange: Exchange,
    services: Services,
    endpoint: ForwardEndpoint,
    answer: Answer,
    keep_alive: KeepAlive | None,
) -> None:
    """Pass an answer on. Raises QProxyError where it broke on its way."""
    response = answer.response
    if response.early:
        connection.close_after()
    instead = _in_its_place(answer, exchange)
    if instead is not None:
        connection.answer_error(instead, exchange)
        return
    begun = connection.continue_stream()
    if begun and not (response.status == 200 and response.head.is_stream):
        payload = await response.peek(ERROR_BYTES, ERROR_WAIT_S)
        connection.fail_stream(error_in_stream(response.status, payload, exchange.request_id))
        return
    walker, framing = _stream_framing(response.head) if begun else _downstream_framing(response.head, head)
    if not framing and not walker.done:
        connection.delimit_by_close()
    opening = response.open(walker)
    end = LAST_CHUNK if framing is CHUNKED else b""
    tail = TailWatch(in_chunks=framing is CHUNKED)
    tail.see(opening)
    is_stream = response.head.is_stream
    watched = tail if is_stream else None

    def ending() -> bytes:
        if is_stream and not tail.is_complete(endpoint.end_markers):
            raise UpstreamError("stream_truncated", "The upstream ended the stream before the answer was complete.")
        exchange.usage = usage_in(tail.payload())
        return end

    first = opening
    if not begun:
        exchange.commit(response.status, services.runtime.now())
        first = response_head(response.head, framing=framing, own=_own_lines(connection, response.head)) + opening
    exchange.response_bytes = len(opening)
    if keep_alive is not None:
        keep_alive.until(tail.has_seen)
    try:
        try:
            first += ending() if response.done else b""
        finally:
            connection.stream.put(first)
        del first, opening  # the relay may take hours, and the first read may have been a long one
        if not response.done:
            idle_s = services.timeouts.stream_idle_s
            moved = await response.relay(connection.stream, idle_s=idle_s, tap=tail.see, ending=ending)
            exchange.response_bytes += moved
    except (FramingError, StreamTimeout, StreamLost, UpstreamError) as exc:
        error = _after_commit(exc)
        _break_off(connection, error, watched, framing)
        raise error from exc
    except anyio.get_cancelled_exc_class():
        _say_why(connection, watched, framing)
        raise
    connection.answer_complete()


def _in_its_place(answer: Answer, exchange: Exchange) -> LocalAnswer | None:
    """What the client gets for an error that is no JSON, or that hides in a 200; None: the answer itself."""
    response = answer.response
    if judge(response.head) is Verdict.WRAP:
        return foreign_error_answer(response.status, exchange.request_id)
    if answer.hidden is None or answer.outcome is None:
        return None
    return hidden_error_answer(answer.outcome.status, answer.hidden, answer.outcome.code, exchange.request_id)


def _downstream_framing(response: ResponseHead, request: RequestHead) -> tuple[Walker, bytes]:
    """The walker of the body, and the header line that announces it; no line: the connection's end is the body's."""
    length = response.content_length
    if response.bodyless:
        return relay_walker(0, chunked=False), b""
    if length is not None:
        return relay_walker(length, chunked=False), content_length(length)
    if request.http_10:
        return bare_walker(None, chunked=response.chunked), b""
    return relay_walker(None, chunked=response.chunked), CHUNKED


def _stream_framing(response: ResponseHead) -> tuple[Walker, bytes]:
    """The same where a stream in chunks has been announced already."""
    return chunking_walker(response.content_length, chunked=response.chunked), CHUNKED


def _own_lines(connection: Connection, response: ResponseHead) -> bytes:
    lines = connection.own_lines
    if response.has_request_id:  # the upstream's own id is worth more to whoever asks its support
        lines = lines[lines.index(b"\r\n") + 2 :]
    return lines


def _after_commit(cause: Exception) -> UpstreamError:
    if isinstance(cause, UpstreamError):
        return cause
    if isinstance(cause, StreamTimeout):
        return UpstreamError("stream_idle_timeout", "The upstream fell silent in the middle of its answer.")
    return UpstreamError("upstream_closed", "The upstream broke off in the middle of its answer.")


def _say_why(connection: Connection, tail: TailWatch | None, framing: bytes) -> None:
    """The relay is cancelled: where it is the server that leaves, its client is told."""
    if connection.broken_off is not None:
        _break_off(connection, connection.broken_off, tail, framing)


def _break_off(connection: Connection, error: QProxyError, tail: TailWatch | None, framing: bytes) -> None:
    """Never a clean end: say what happened where an event may stand, then leave the body without its last chunk."""
    connection.close_after()
    stream = connection.stream
    if tail is not None and tail.at_event_boundary():
        event = sse_error_event(error)
        stream.put(b"%x\r\n%b\r\n" % (len(event), event) if framing is CHUNKED else event)

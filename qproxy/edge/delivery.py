"""The way down: an upstream's answer, from the verdict to its last byte, or to an end that nobody takes for clean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from qproxy.core.classify import late_error
from qproxy.core.exchange import ERROR_IN_STREAM, Exchange
from qproxy.core.framing import LAST_CHUNK, FramingError, Walker, bare_walker, chunking_walker, relay_walker
from qproxy.core.http1 import RequestHead, ResponseHead
from qproxy.core.local import LocalAnswer, error_in_stream, foreign_error_answer, hidden_error_answer, sse_error_event
from qproxy.core.outcome import Verdict, judge
from qproxy.core.outgoing import CHUNKED, chunk, content_length, response_head
from qproxy.core.route import ForwardEndpoint
from qproxy.core.sse import TailWatch
from qproxy.core.usage import usage_in
from qproxy.edge.attempts import Answer
from qproxy.edge.http11 import UpstreamResponse
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
    if response.status >= 400 or exchange.committed or answer.hidden is not None:
        instead = await _said_better(answer, exchange, services, keep_alive, instead)
    if instead is not None:
        connection.answer_error(instead, exchange)
        return
    begun = exchange.committed  # by a comment: the answer continues a stream of ours
    walker, framing = _stream_framing(response.head) if begun else _downstream_framing(response.head, head)
    if not framing and not walker.done:
        connection.delimit_by_close()
    first = opening = response.open(walker)
    passage = _Passage(connection, exchange, services, endpoint, answer, is_chunked=framing is CHUNKED)
    passage.tail.see(opening)
    if begun:
        connection.continue_stream()
    else:
        exchange.commit(response.status, services.runtime.now())
        own = _own_lines(connection.own_lines(exchange), response.head)
        first = response_head(response.head, framing=framing, own=own) + opening
    exchange.response_bytes = len(opening)
    if keep_alive is not None:
        passage.comment_until_it_begins(keep_alive)
    try:
        try:
            first += passage.ending() if response.done else b""
        finally:
            connection.stream.put(first)
        del first, opening  # the relay may take hours, and the first read may have been a long one
        if not response.done:
            idle_s, tap = services.timeouts.stream_idle_s, passage.tail.see
            exchange.response_bytes += await response.relay(
                connection.stream, idle_s=idle_s, tap=tap, ending=passage.ending
            )
    except UpstreamError as exc:
        passage.break_off(exc)
        raise
    except (FramingError, StreamTimeout, StreamLost) as exc:
        raise passage.broken_off(_after_commit(exc)) from exc  # no name for it: its traceback holds this frame
    except anyio.get_cancelled_exc_class():
        if connection.broken_off is not None:  # it is the server that ends it, and its client is told
            passage.break_off(connection.broken_off)
        raise
    connection.answer_complete()


class _Passage:
    """One answer on its way, in the framing that its client was told of."""

    __slots__ = (
        "_accounts", "_connection", "_end_markers", "_exchange", "_has_events", "_is_chunked", "_lease", "tail",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        exchange: Exchange,
        services: Services,
        endpoint: ForwardEndpoint,
        answer: Answer,
        *,
        is_chunked: bool,
    ) -> None:
        head = answer.response.head
        self._connection = connection
        self._exchange = exchange
        self._accounts = services.accounts
        self._lease = answer.lease  # and not the answer, which holds the pump that holds this
        self._end_markers = endpoint.end_markers
        self._has_events = head.is_stream and not head.is_packed
        self._is_chunked = is_chunked
        self.tail = TailWatch(in_chunks=is_chunked)

    def ending(self) -> bytes:
        """What the body ends with, where it is complete. Raises UpstreamError `stream_truncated`."""
        payload = self.tail.payload()
        if self._has_events:
            if self._note_late_error(payload):
                self._exchange.fail(ERROR_IN_STREAM)
            elif not self.tail.is_complete(self._end_markers):
                raise UpstreamError("stream_truncated", "The upstream ended the stream before the answer was complete.")
        self._exchange.usage = usage_in(payload)
        return LAST_CHUNK if self._is_chunked else b""

    def _note_late_error(self, payload: bytes) -> bool:
        """Whether the stream ends with an error of the upstream's, which passes as it is and counts for its account as
        if it had come before the commit (`faults.md` U27)."""
        outcome = late_error(payload) if self._exchange.hides_errors else None
        if outcome is None:
            return False
        self._accounts.note(self._lease, outcome)
        return True

    def comment_until_it_begins(self, keep_alive: KeepAlive) -> None:
        """Comments go on until the first byte has come, where they are none of the body's own bytes."""
        if self._has_events and self._is_chunked:
            keep_alive.until(self.tail.has_seen)
        else:
            keep_alive.stop()

    def broken_off(self, error: UpstreamError) -> UpstreamError:
        """`break_off` with this error, to be raised."""
        self.break_off(error)
        return error

    def break_off(self, error: QProxyError) -> None:
        """Never a clean end: say what happened where an event may stand, then leave the body without its last chunk."""
        connection = self._connection
        connection.close_after()
        if not self._has_events:
            return
        self._note_late_error(self.tail.payload())
        if self.tail.at_event_boundary():
            event = sse_error_event(error)
            connection.stream.put(chunk(event) if self._is_chunked else event)


def _may_continue(head: ResponseHead) -> bool:
    """Whether a stream that has begun can go on with this answer."""
    return head.status == 200 and head.is_stream and not head.is_packed


async def _said_better(
    answer: Answer, exchange: Exchange, services: Services, keep_alive: KeepAlive | None, instead: LocalAnswer | None
) -> LocalAnswer | None:
    """An error about a limit in clear words, or in the form that a stream takes which has begun; else `instead`. Raises
    UpstreamError."""
    if keep_alive is not None and answer.response.status >= 400:
        keep_alive.stop()  # the error is read before its head goes down, and no comment may begin a stream meanwhile
    explained = await services.limit_answers.explain(answer, exchange)
    if explained is not None:
        return explained
    if instead is not None or not exchange.committed or _may_continue(answer.response.head):
        return instead
    return await _said(answer.response, exchange)


async def _said(response: UpstreamResponse, exchange: Exchange) -> LocalAnswer:
    """What an answer says that cannot continue a stream. Raises UpstreamError where it is no error."""
    if response.status < 400:
        message = "The upstream answered with something else where a stream was asked for."
        raise UpstreamError("upstream_protocol_error", message)
    payload = await response.peek(ERROR_BYTES, ERROR_WAIT_S)
    return error_in_stream(response.status, payload, exchange.request_id)


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
    if length is not None and not response.is_stream:
        return relay_walker(length, chunked=False), content_length(length)
    # A stream with a length would be whole when that has come, with or without its end (`faults.md` U28).
    if request.http_10:
        return bare_walker(length, chunked=response.chunked), b""
    return chunking_walker(length, chunked=response.chunked), CHUNKED


def _stream_framing(response: ResponseHead) -> tuple[Walker, bytes]:
    """The same where a stream in chunks has been announced already."""
    return chunking_walker(response.content_length, chunked=response.chunked), CHUNKED


def _own_lines(lines: bytes, response: ResponseHead) -> bytes:
    if response.has_request_id:  # the upstream's own id is worth more to whoever asks its support
        lines = lines[lines.index(b"\r\n") + 2 :]
    return lines


def _after_commit(cause: Exception) -> UpstreamError:
    if isinstance(cause, StreamTimeout):
        return UpstreamError("stream_idle_timeout", "The upstream fell silent in the middle of its answer.")
    return UpstreamError("upstream_closed", "The upstream broke off in the middle of its answer.")

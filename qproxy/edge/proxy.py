"""The life of one request, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.core.admit import check_json_content_type, is_preflight
from qproxy.core.exchange import Attempt, Exchange, Phase
from qproxy.core.framing import LAST_CHUNK, FramingError, Walker, bare_walker, relay_walker, upload_walker
from qproxy.core.http1 import RequestHead, ResponseHead
from qproxy.core.local import LocalRequest, foreign_error_answer, options_answer, sse_error_event
from qproxy.core.models import Choice
from qproxy.core.outcome import Verdict, judge
from qproxy.core.outgoing import CHUNKED, content_length, response_head
from qproxy.core.route import BodyRule, ForwardEndpoint, LocalEndpoint, Route
from qproxy.core.splice import BodyFacts, DefaultModel, Edit, IncludeUsage, Rename, apply, examine
from qproxy.core.sse import TailWatch
from qproxy.edge.http11 import KnownBody, LiveBody, UpstreamResponse
from qproxy.edge.services import Services
from qproxy.edge.streams import StreamLost, StreamTimeout
from qproxy.edge.upstreams import Outgoing
from qproxy.errors import UpstreamError

if TYPE_CHECKING:
    from qproxy.edge.connection import Connection


async def serve_exchange(connection: Connection, head: RequestHead, exchange: Exchange, services: Services) -> None:
    """From a request head to a settled answer. Raises QProxyError where it failed, before or after the commit."""
    if is_preflight(head.method, head):
        connection.answer(services.gate.preflight(head), exchange)
        return
    if head.method == b"OPTIONS":
        services.gate.check(head, needs_key=False)
        connection.answer(options_answer(services.routes.allow(head.path)), exchange)
        return
    route = services.routes.match(head.method, head.path)
    services.gate.check(head, needs_key=route.endpoint.needs_key)
    exchange.enter(Phase.ADMITTED)
    exchange.endpoint = route.endpoint.name
    if isinstance(route.endpoint, LocalEndpoint):
        await _answer_locally(connection, head, exchange, services, route)
        return
    outgoing = await _prepare(connection, head, exchange, services, route)
    exchange.enter(Phase.WAITING)
    exchange.attempt = Attempt(outgoing.upstream)
    response = await services.upstreams.send(outgoing, exchange.attempt)
    try:
        await _deliver(connection, head, exchange, services, route.endpoint, response)
    finally:
        response.close()


async def _answer_locally(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, route: Route
) -> None:
    assert isinstance(route.endpoint, LocalEndpoint)
    if head.has_body:
        await connection.receive_body(head)
    request = LocalRequest(head.method, head.path, route.tail, head.query, services.local)
    connection.answer(await route.endpoint.answer(request), exchange)


async def _prepare(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, route: Route
) -> Outgoing:
    """What goes up: the whole body where it may have to be edited, else whatever arrives."""
    endpoint = route.endpoint
    assert isinstance(endpoint, ForwardEndpoint)
    exchange.enter(Phase.RECEIVING)
    pinned = head.pinned_upstream.decode("latin-1") if head.pinned_upstream is not None else None
    if endpoint.body is BodyRule.JSON:
        return await _prepare_json(connection, head, exchange, services, endpoint.upstream_path(route.tail), pinned)
    choice = services.models.resolve(None, pinned)
    exchange.upstream = choice.upstream
    connection.check_size(head)
    body = None
    if head.has_body:
        connection.invite_body()
        body = LiveBody(
            connection.stream,
            upload_walker(head.content_length),
            chunked=head.content_length is None,
            limit_bytes=services.limits.body_bytes,
            silence_s=services.timeouts.body_s,
            arrived=connection.body_arrived,
        )
    exchange.request_bytes = size = head.content_length or 0
    path = endpoint.upstream_path(route.tail)
    return Outgoing(choice.upstream, path, head, body, wants_identity=False, is_plain=True, body_bytes=size)


async def _prepare_json(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, path: bytes, pinned: str | None
) -> Outgoing:
    check_json_content_type(head.content_type, head.content_encoding)
    pieces = await connection.receive_body(head)
    exchange.received = services.runtime.now()
    facts = examine(pieces, inspect_bytes=services.limits.inspect_bytes)
    choice = services.models.resolve(facts.model, pinned)
    exchange.upstream = choice.upstream
    exchange.model = choice.model
    edits = _edits(choice, facts, include_usage=services.include_usage)
    body = KnownBody(apply(pieces, facts, edits) if edits else pieces)
    exchange.request_bytes = body.size
    return Outgoing(
        choice.upstream,
        path,
        head,
        body,
        wants_identity=facts.stream is not False,
        is_plain=facts.stream is not True,
        body_bytes=body.size,
    )


def _edits(choice: Choice, facts: BodyFacts, *, include_usage: bool) -> list[Edit]:
    edits: list[Edit] = []
    if choice.model is not None:
        if choice.rename:
            edits.append(Rename(choice.model))
        elif not facts.has_model:
            edits.append(DefaultModel(choice.model))
    if include_usage:
        edits.append(IncludeUsage())
    return edits


async def _deliver(
    connection: Connection,
    head: RequestHead,
    exchange: Exchange,
    services: Services,
    endpoint: ForwardEndpoint,
    response: UpstreamResponse,
) -> None:
    if response.early:
        connection.close_after()
    if judge(response.head) is Verdict.WRAP:
        connection.answer_error(foreign_error_answer(response.status, exchange.request_id), exchange)
        return
    walker, framing = _downstream_framing(response.head, head)
    if not framing and not walker.done:
        connection.delimit_by_close()
    opening = response.open(walker)
    end = LAST_CHUNK if framing is CHUNKED else b""
    tail = TailWatch() if response.head.is_stream else None

    def ending() -> bytes:
        if tail is not None and not tail.is_complete(endpoint.end_markers):
            raise UpstreamError("stream_truncated", "The upstream ended the stream before the answer was complete.")
        return end

    if tail is not None:
        tail.see(opening)
    exchange.commit(response.status, services.runtime.now())
    begun = response_head(response.head, framing=framing, own=_own_lines(connection, response.head)) + opening
    exchange.response_bytes = len(opening)
    try:
        try:
            begun += ending() if response.done else b""
        finally:
            connection.stream.put(begun)
        if not response.done:
            idle_s = services.timeouts.stream_idle_s
            tap = tail.see if tail is not None else None
            exchange.response_bytes += await response.relay(connection.stream, idle_s=idle_s, tap=tap, ending=ending)
    except (FramingError, StreamTimeout, StreamLost, UpstreamError) as exc:
        error = _after_commit(exc)
        _break_off(connection, error, tail, framing)
        raise error from exc
    connection.answer_complete()


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


def _break_off(connection: Connection, error: UpstreamError, tail: TailWatch | None, framing: bytes) -> None:
    """Never a clean end: say what happened where an event may stand, then leave the body without its last chunk."""
    connection.close_after()
    stream = connection.stream
    if tail is not None and tail.at_event_boundary():
        event = sse_error_event(error)
        stream.put(b"%x\r\n%b\r\n" % (len(event), event) if framing is CHUNKED else event)

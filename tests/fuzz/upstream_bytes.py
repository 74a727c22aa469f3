"""What an upstream answers: one head for both of our readers, and downstream the message that h11 reads upstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import h11

from qproxy.core.framing import LAST_CHUNK, FramingError, Walker, bare_walker
from qproxy.core.http1 import (
    HEAD_END,
    RequestHead,
    ResponseHead,
    fields_by_h11,
    is_informational,
    parse_response_head,
    plain_fields,
)
from qproxy.core.limits import Limits
from qproxy.core.outgoing import CHUNKED, response_head
from qproxy.edge.delivery import _downstream_framing, _stream_framing
from qproxy.errors import UpstreamError
from tests.fuzz.splits import splits

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = Limits()


class Passage(NamedTuple):
    """What a walker made of a body. `rest` is what came behind it."""

    out: bytes
    is_whole: bool
    rest: bytes


@dataclass
class Message:
    """A response as h11's client reads it; `rest` is what stands behind a whole one."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    is_whole: bool = False
    rest: bytes = b""


def one_input(data: bytes) -> None:
    for method in (b"POST", b"HEAD"):
        raw, body = _first_answer(data)
        head = _checked_head(raw, method) if raw else None
        if head is not None:
            _check_answer(head, raw, body, method)


def _check_answer(head: ResponseHead, raw: bytes, body: bytes, method: bytes) -> None:
    theirs = read_by_h11(raw + body, method)
    assert theirs is not None, "h11 refuses the head"
    payload = _passed(bare_walker(head.content_length, chunked=head.chunked), [body])
    assert theirs.status == head.status
    if payload.is_whole:
        assert (theirs.body, theirs.is_whole, theirs.rest) == (payload.out, True, payload.rest)
    else:
        assert theirs.body.startswith(payload.out)
        assert head.chunked or not theirs.is_whole, "only chunks are read more strictly than h11 reads them"
    for reads in splits(body):
        assert _passed(bare_walker(head.content_length, chunked=head.chunked), reads) == payload
        for walker, framing in _ways_down(head, method):
            passage = _passed(walker, reads)
            assert (passage.is_whole, passage.rest) == payload[1:]
            _check_downstream(head, passage, payload, framing, method)


def _ways_down(head: ResponseHead, method: bytes) -> Iterator[tuple[Walker, bytes]]:
    """To clients of HTTP/1.1 and 1.0, and into a stream that has been begun by us."""
    yield _downstream_framing(head, RequestHead(method, b"/", b"", http_10=False))
    yield _downstream_framing(head, RequestHead(method, b"/", b"", http_10=True))
    if not head.bodyless:
        yield _stream_framing(head)


def _check_downstream(head: ResponseHead, passage: Passage, payload: Passage, framing: bytes, method: bytes) -> None:
    """It is one message, with the upstream's payload, and whole where that was."""
    end = LAST_CHUNK if framing is CHUNKED and passage.is_whole else b""
    ours = read_by_h11(response_head(head, framing=framing, own=b"") + passage.out + end, method)
    assert ours is not None, "h11 refuses the head that we write"
    assert (ours.status, ours.body, ours.rest) == (head.status, payload.out, b"")
    assert ours.is_whole == (payload.is_whole or not framing)  # without framing the end of the connection says how
    fields = iter(ours.fields)
    assert all((name.lower(), value) in fields for name, value in head.passed)
    assert sum(name in (b"content-length", b"transfer-encoding") for name, _ in ours.fields) == bool(framing)


def _first_answer(data: bytes) -> tuple[bytes, bytes]:
    """The first head that is no interim answer, and what follows it; no head where there is none."""
    while (end := data.find(HEAD_END)) >= 0:
        raw, data = data[: end + 4], data[end + 4 :]
        if not is_informational(raw):
            return raw, data
    return b"", b""


def _checked_head(raw: bytes, method: bytes) -> ResponseHead | None:
    """None where it is refused. What reads plain heads fast must find in them what h11 finds."""
    plain = plain_fields(raw)
    assert plain is None or plain == fields_by_h11(raw, LIMITS)
    try:
        return parse_response_head(raw, LIMITS, method=method)
    except UpstreamError:
        return None


def _passed(walker: Walker, reads: list[bytes]) -> Passage:
    """What goes down for a body in these reads, after which the upstream closes."""
    pieces: list[bytes] = []
    is_whole = False
    try:
        for read in reads:
            pieces.append(walker.walk(read))  # noqa: PERF401 - what came before an error counts
        if not walker.done:
            walker.end_of_input()
        is_whole = True
    except FramingError as exc:
        pieces.append(exc.passed)
    return Passage(b"".join(pieces), is_whole, walker.rest)


def read_by_h11(data: bytes, method: bytes) -> Message | None:
    """The response that a connection brings, up to its end; None where its head is refused."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Response):
        return None
    message = Message(event.status_code, list(event.headers))
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            message.body += event.data
    except h11.RemoteProtocolError:
        return message
    message.is_whole = isinstance(event, h11.EndOfMessage)
    message.rest = connection.trailing_data[0]
    return message

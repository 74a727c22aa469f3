"""The requests in a client's bytes: as the core reads them, by the steps of `edge/connection.py`, and as h11 does."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11

from qproxy.core.framing import FramingError, Walker, request_walker
from qproxy.core.http1 import HEAD_END, RequestHead, check_begun_head
from qproxy.core.known_heads import KnownHeads
from qproxy.core.limits import Limits
from qproxy.errors import DownstreamError

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMITS = Limits()
BLANK_LINES = re.compile(rb"(?:\r\n)+")


@dataclass
class ReadRequest:
    """One request; `start` is the offset of its first byte."""

    head: RequestHead
    start: int
    body: bytes = b""
    is_whole: bool = False

    @property
    def facts(self) -> dict[str, object]:
        """All that is known of it, to be compared."""
        of_head = {name: getattr(self.head, name) for name in RequestHead.__slots__}
        return {**of_head, "start": self.start, "body": self.body, "is_whole": self.is_whole}


@dataclass
class Conversation:
    """What a client has said so far. `refusal` is the code of what ended it, if anything did."""

    requests: list[ReadRequest] = field(default_factory=list)
    refusal: str = ""

    @property
    def facts(self) -> list[dict[str, object]]:
        return [request.facts for request in self.requests]


def read_requests(reads: Iterable[bytes], heads: KnownHeads | None = None) -> Conversation:
    """The requests in the reads of one connection, up to the first refusal or to one that says it is the last."""
    reader = _Reader(heads or KnownHeads(LIMITS))
    for read in reads:
        if not reader.is_over:
            reader.feed(read)
    return reader.conversation


class _Reader:
    def __init__(self, heads: KnownHeads) -> None:
        self.conversation = Conversation()
        self.is_over = False
        self._heads = heads
        self._buffer = b""
        self._offset = 0  # of the buffer's first byte
        self._begun = False  # something but empty lines has come of a head
        self._walker: Walker | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data
        try:
            while not self.is_over and self._step():
                pass
        except DownstreamError as exc:
            self._refuse(exc.code)
        except FramingError:
            self._refuse("bad_chunk")

    def _refuse(self, code: str) -> None:
        self.conversation.refusal = code
        self.is_over = True

    def _step(self) -> bool:
        """False where more has to come first."""
        if self._walker is not None:
            return self._walk(self._walker)
        if not self._begun:
            blank = BLANK_LINES.match(self._buffer)
            self._take(blank.end() if blank else 0)
            self._begun = self._buffer not in (b"", b"\r")
            return self._begun
        end = self._buffer.find(HEAD_END)
        if end < 0:
            check_begun_head(self._buffer, LIMITS)
            return False
        start = self._offset
        head = self._heads.parse(self._take(end + len(HEAD_END)))
        self.conversation.requests.append(ReadRequest(head, start))
        self._walker = request_walker(head.content_length)
        return True

    def _walk(self, walker: Walker) -> bool:
        request = self.conversation.requests[-1]
        came = self._take(len(self._buffer))
        try:
            request.body += walker.walk(came)
        except FramingError as exc:
            request.body += exc.passed
            raise
        if not walker.done:
            return False
        request.is_whole = True
        self._buffer = walker.rest
        self._offset -= len(walker.rest)
        self._walker = None
        self._begun = False
        self.is_over = not request.head.keep_alive
        return True

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        self._offset += size
        return taken


@dataclass
class H11Request:
    """One request as h11 reads it. `names` are lower-case; `rest` is what stands behind a whole one."""

    method: bytes
    target: bytes
    version: bytes
    fields: list[tuple[bytes, bytes]]
    raw_fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    is_whole: bool = False
    is_broken: bool = False
    is_last: bool = False
    rest: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a field, in order."""
        return [value for key, value in self.fields if key == name]

    def value(self, name: bytes) -> bytes | None:
        """The one value of a field; None where there is none."""
        values = self.values(name)
        assert len(values) < 2, values
        return values[0] if values else None


def read_by_h11(data: bytes) -> H11Request | None:
    """The request that `data` begins with; None where its head is refused, or not whole."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    request = H11Request(event.method, event.target, event.http_version, list(event.headers), event.headers.raw_items())
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            request.body += event.data
    except h11.RemoteProtocolError:
        request.is_broken = True
    if isinstance(event, h11.EndOfMessage):
        request.is_whole = True
        request.is_last = connection.their_state is h11.MUST_CLOSE
        request.rest = connection.trailing_data[0]
    return request

"""Server-sent events as far as a relay has to know them: was the stream complete when it ended?

No event is parsed while it passes. The watch keeps references to the last pieces and looks at them once, at the end.
Sources: WHATWG server-sent events; `qwen-wire.md` 6.2 and 6.4; `faults.md` U28, U29.
"""

from __future__ import annotations

import re

TAIL_BYTES = 8 * 1024
"""Holds the last content event, the finish event, the usage event and `[DONE]` of the longest streams seen."""

_SIZE_LINE = re.compile(rb"\r\n[0-9A-Fa-f]{1,16}+\r\n")  # with the line end of the chunk before it
FINISH_REASON = re.compile(rb'"finish_reason"\s*:\s*"')
_EVENT_END = re.compile(rb"\n\n|\r\n\r\n|\r\r")
_SILENCE = re.compile(rb"(?:[ \t\r\n]++|(?:event|id|retry)?:[^\r\n]*+)*+")
_LAST_EVENTS = 4  # an error that is said twice, the usage, `[DONE]`
COMMENT = b"e\r\n: keep-alive\n\n\r\n"
"""A comment that every reader of events skips, as a chunk."""

# At the start of a line, since a model may write about it: looked at behind, a search for the fixed part is faster.
_DATA = rb"data:(?<![^\r\n]data:)[ \t]*"
ERROR_EVENT = re.compile(_DATA + rb'\{\s*"error"\s*:')  # faults.md U27: passed as it is, and enough
DONE_EVENT = re.compile(_DATA + rb"\[DONE\]")


def first_event(payload: bytes) -> bytes | None:
    """The first event of a stream that has data, without its end; None where it has not come whole. Comments and a bare
    retry field are no events."""
    at = 0
    while (end := _EVENT_END.search(payload, at)) is not None:
        block = payload[at : end.start()]
        if b"data" in block or b"{" in block:  # some gateways send an error as a bare line of JSON
            return block
        at = end.end()
    return None


def has_event(payload: bytes) -> bool:
    """Whether a whole event is in it."""
    return first_event(payload) is not None


def says_nothing(payload: bytes) -> bool:
    """Whether no data has begun in it: white space, comments and the names of events say nothing."""
    return _SILENCE.fullmatch(payload) is not None


def last_events(tail: bytes) -> list[bytes]:
    """The last few events of a stream that ends with `tail`, the last one first and without their ends."""
    blocks = [block for block in _EVENT_END.split(tail) if block]
    return blocks[: -_LAST_EVENTS - 1 : -1]


class TailWatch:
    """Remembers the end of a stream as it was sent: with the framing of chunks between, or bare."""

    __slots__ = ("_in_chunks", "_pieces", "_size")

    def __init__(self, *, in_chunks: bool) -> None:
        self._in_chunks = in_chunks
        self._pieces: list[bytes] = []
        self._size = 0

    def see(self, piece: bytes) -> None:
        if len(piece) > TAIL_BYTES:
            piece = piece[-TAIL_BYTES:]
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > 4 * TAIL_BYTES:  # trimmed seldom, so that a piece costs an append
            tail = b"".join(self._pieces)[-TAIL_BYTES:]
            self._pieces = [tail]
            self._size = len(tail)

    def has_seen(self) -> bool:
        return bool(self._size)

    def tail(self) -> bytes:
        """The last bytes as they were sent."""
        return b"".join(self._pieces)[-TAIL_BYTES:]

    def payload(self) -> bytes:
        """The tail without framing: a marker, or the end of an event, may have been cut by a chunk border."""
        tail = self.tail()
        if not self._in_chunks:
            return tail
        # A search for a fixed beginning is eight times as fast as one for a line or the start of the text.
        payload = _SIZE_LINE.sub(b"", b"\r\n" + tail).removesuffix(b"\r\n")
        return _unframed(tail) if b"\r" in payload else payload

    def is_complete(self, end_markers: tuple[re.Pattern[bytes], ...]) -> bool:
        """True where one of the markers stands in the tail; always where there are none to look for."""
        if not end_markers:
            return True
        payload = self.payload()
        return any(marker.search(payload) for marker in end_markers)

    def at_event_boundary(self) -> bool:
        """True where an event of our own would not be glued to half a line of the upstream's."""
        payload = self.payload()
        return not payload or payload.endswith((b"\n\n", b"\r\r", b"\n\r\n"))


def _unframed(tail: bytes) -> bytes:
    """The payload in the last bytes of a chunked body, which may begin inside a chunk. Where events have CR LF, a line
    of theirs that a chunk border has cut may look like a size line (`\\r\\nda`).

    The first size line is the first one from which size after size leads to the very end.
    """
    text = b"\r\n" + tail
    end = len(text) - 2
    tried: set[int] = set()  # each size line once, or a hostile upstream could make this quadratic
    for first in _SIZE_LINE.finditer(text):
        line: re.Match[bytes] | None = first
        parts = [text[2 : first.start()]]
        while line is not None and line.start() not in tried:
            tried.add(line.start())
            behind = line.end() + int(line[0], 16)  # which takes the line ends for white space
            parts.append(text[line.end() : behind])
            if behind == end:
                return b"".join(parts)
            line = _SIZE_LINE.match(text, behind)
    return tail.removesuffix(b"\r\n")

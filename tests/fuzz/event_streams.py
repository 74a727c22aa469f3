"""The end of a stream tells the same whether it came bare or in chunks, and its first event is seen as soon as a client
sees one."""

from __future__ import annotations

import re
import zlib

from qproxy.core.framing import ChunkRelay
from qproxy.core.sse import DONE_EVENT, ERROR_EVENT, FINISH_REASON, TAIL_BYTES, TailWatch, first_event, has_event
from qproxy.core.usage import usage_in
from tests.fuzz.splits import splits

MARKERS = ((DONE_EVENT,), (FINISH_REASON,), (ERROR_EVENT,))
LINE_ENDS = (b"\n", b"\r\n", b"\r")
HEX_LINE = re.compile(rb"(?:\A|\r\n)[0-9A-Fa-f]{1,16}(?=\r\n|\Z)")
"""May be taken for framing, and fall out of the tail: as a field it has no name that anybody knows."""

DATA_LINE = re.compile(rb"(?:\A\xef\xbb\xbf|^)data(?::|$)", re.MULTILINE)


def one_input(data: bytes) -> None:
    _check_first_event(data)
    _check_tail(data)


def _check_first_event(data: bytes) -> None:
    found = first_event(data)
    for reads in splits(data):
        came = b""
        for read in reads:
            came += read
            assert has_event(came) == (first_event(came) is not None)
            assert first_event(came) in (None, found), "what is seen as the first event changes"
    seen = _first_seen_by_a_client(data)
    if seen is not None:
        assert first_event(data[:seen]) is not None


def _first_seen_by_a_client(data: bytes) -> int | None:
    """Where the first event with data ends (WHATWG, server-sent events); None where there is none, or where the line
    ends are of more than one kind, which no server sends."""
    line_end = next((end for end in LINE_ENDS if end in data), b"\n")
    if any(byte in data.replace(line_end, b"") for byte in b"\r\n"):
        return None
    at = 0
    while (end := data.find(line_end * 2, at)) >= 0:
        if DATA_LINE.search(data[at:end].replace(line_end, b"\n")):
            return end + 2 * len(line_end)
        at = end + len(line_end)
    return None


def _check_tail(data: bytes) -> None:
    """The tail of a stream, with what was sent before it out of sight."""
    bare = _watched([data], in_chunks=False)
    assert bare.tail() == bare.payload() == data[-TAIL_BYTES:]
    usage_in(bare.payload())
    pieces = _pieces(data)
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    for reads in ([wire], *splits(wire)):
        relay = ChunkRelay()
        chunked = _watched([relay.walk(read) for read in reads], in_chunks=True)
        if len(wire) <= TAIL_BYTES // 8 and not HEX_LINE.search(data):  # bytewise, framing takes six times the room
            assert chunked.payload() == data
            assert chunked.at_event_boundary() == bare.at_event_boundary()
            assert [chunked.is_complete(each) for each in MARKERS] == [bare.is_complete(each) for each in MARKERS]


def _watched(pieces: list[bytes], *, in_chunks: bool) -> TailWatch:
    watch = TailWatch(in_chunks=in_chunks)
    for piece in pieces:
        watch.see(piece)
    return watch


def _pieces(data: bytes) -> list[bytes]:
    """The data in pieces of 1 to 32 bytes, by sizes that the data itself chooses; none is empty."""
    pieces = []
    chance = zlib.crc32(data)
    while data:
        size = 1 + chance % 32
        chance = zlib.crc32(b"%d" % chance)
        pieces.append(data[:size])
        data = data[size:]
    return pieces

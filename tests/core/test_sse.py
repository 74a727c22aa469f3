"""Whether a stream was complete, and whether an event of our own may stand at its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.framing import ChunkRelay
from qproxy.core.sse import DONE_EVENT, FINISH_REASON, TAIL_BYTES, TailWatch, first_event, last_events, says_nothing

MARKERS = (DONE_EVENT, FINISH_REASON)
CONTENT = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def watching(*pieces: bytes, in_chunks: bool = False) -> TailWatch:
    watch = TailWatch(in_chunks=in_chunks)
    for piece in pieces:
        watch.see(piece)
    return watch


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, over and over."""
    pieces = []
    while data:
        for size in sizes:
            pieces.append(data[:size])
            data = data[size:]
    return [piece for piece in pieces if piece]


COMPLETE: dict[str, list[bytes]] = {
    "finish reason, usage, [DONE]": [CONTENT, FINISH, USAGE, DONE],
    "no [DONE] (U29)": [CONTENT, FINISH, USAGE],
    "[DONE] alone": [CONTENT, DONE],
    "[DONE] without a space": [CONTENT, b"data:[DONE]\n\n"],
    "[DONE] with CR LF": [CONTENT, b"data: [DONE]\r\n\r\n"],
    "[DONE] without the empty line": [CONTENT, b"data: [DONE]\n"],
    "spaces around the colon": [b'data: {"finish_reason" :\t"length"}\n\n'],
}
TRUNCATED: dict[str, list[bytes]] = {
    "nothing": [],
    "content alone (U28)": [CONTENT] * 3,
    "usage alone": [CONTENT, USAGE],
    "a model that writes about [DONE]": [b'data: {"content":"then comes data: [DONE]"}\n\n'],
    "a model that writes about finish reasons": [rb'data: {"content":"{\"finish_reason\": \"stop\"}"}' + b"\n\n"],
    "[DONE] of another field": [b"event: [DONE]\n\n", b": data\n[DONE]\n\n"],
    "cut in [DONE]": [CONTENT, b"data: [DON"],
}


@pytest.mark.parametrize("framed", [False, True], ids=["bare", "chunks"])
class TestCompleteness:
    @pytest.mark.parametrize("events", COMPLETE.values(), ids=COMPLETE)
    def test_complete(self, events: list[bytes], *, framed: bool) -> None:
        pieces = [chunk(event) for event in events] if framed else events
        assert watching(*pieces, in_chunks=framed).is_complete(MARKERS)
        assert watching(b"".join(pieces), in_chunks=framed).is_complete(MARKERS)

    @pytest.mark.parametrize("events", TRUNCATED.values(), ids=TRUNCATED)
    def test_truncated(self, events: list[bytes], *, framed: bool) -> None:
        pieces = [chunk(event) for event in events] if framed else events
        assert not watching(*pieces, in_chunks=framed).is_complete(MARKERS)
        assert not watching(b"".join(pieces), in_chunks=framed).is_complete(MARKERS)


def test_without_markers_every_end_is_good() -> None:
    assert watching(b"anything").is_complete(())
    assert TailWatch(in_chunks=False).is_complete(())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_a_marker_is_found_wherever_chunks_and_reads_are_cut(chunk_sizes: list[int], read_sizes: list[int]) -> None:
    for events, complete in ((FINISH, True), (DONE, True), (USAGE, False)):
        wire = b"".join(map(chunk, cut(CONTENT + events, chunk_sizes)))
        relay = ChunkRelay()
        out = [relay.walk(read) for read in cut(wire, read_sizes)]
        assert watching(*out, in_chunks=True).is_complete(MARKERS) == complete


def test_only_the_tail_counts_and_the_rest_is_not_kept() -> None:
    watch = watching(FINISH)
    for _ in range(1000):
        watch.see(CONTENT)
    assert len(watch.tail()) == TAIL_BYTES
    assert sum(map(len, watch._pieces)) <= 4 * TAIL_BYTES + len(CONTENT)
    assert not watch.is_complete(MARKERS)


@pytest.mark.parametrize("size", [1, TAIL_BYTES - 1, TAIL_BYTES, 5 * TAIL_BYTES])
def test_the_tail_is_the_end_of_what_was_seen(size: int) -> None:
    data = bytes(byte % 251 for byte in range(size))
    assert watching(*cut(data, [1000])).tail() == data[-TAIL_BYTES:]
    assert watching(data).tail() == data[-TAIL_BYTES:]


BOUNDARIES: dict[str, tuple[list[bytes], bool]] = {
    "nothing yet": ([], True),
    "an event": ([CONTENT], True),
    "a comment": ([b": waiting\n\n"], True),
    "two events": ([CONTENT, DONE], True),
    "half an event": ([CONTENT, CONTENT[:20]], False),
    "an event without its empty line": ([CONTENT[:-1]], False),
    "a character cut in the middle (U10)": ([CONTENT, b'data: {"content":"\xe9\x80'], False),
    "CR alone": ([b"data: a\r\r"], True),
    "a name and no empty line": ([CONTENT, b"event: x\n"], False),
}


@pytest.mark.parametrize(("pieces", "at_boundary"), BOUNDARIES.values(), ids=BOUNDARIES)
def test_where_an_event_may_stand(pieces: list[bytes], *, at_boundary: bool) -> None:
    assert watching(*pieces).at_event_boundary() == at_boundary
    assert watching(*map(chunk, pieces), in_chunks=True).at_event_boundary() == at_boundary
    assert watching(b"", *map(chunk, pieces), in_chunks=True).at_event_boundary() == at_boundary


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_line_ends_of_a_chunked_stream(end: bytes) -> None:
    assert watching(chunk(b"data: a" + end), in_chunks=True).at_event_boundary()
    assert not watching(chunk(b"data: a" + end), chunk(b"data: b"), in_chunks=True).at_event_boundary()
    assert not watching(chunk(b"data: a\n"), in_chunks=True).at_event_boundary()
    assert not watching(chunk(b"data: a\r\n"), in_chunks=True).at_event_boundary()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 3 * len(CONTENT)))
def test_a_boundary_is_one_however_it_was_cut(sizes: list[int], length: int) -> None:
    payload = (CONTENT * 3)[:length]
    at_boundary = length % len(CONTENT) == 0
    assert watching(*map(chunk, cut(payload, sizes)), in_chunks=True).at_event_boundary() == at_boundary
    assert watching(*cut(payload, sizes)).at_event_boundary() == at_boundary


@pytest.mark.parametrize("second", [1, 2, 3, 40])
def test_a_line_that_a_chunk_border_cuts_is_no_framing(second: int) -> None:
    r"""`\r\nda` before a border, as in `data`, reads like the line of a chunk's size."""
    payload = (b"\n" + CONTENT + FINISH + DONE).replace(b"\n", b"\r\n")
    for first in range(len(payload)):
        pieces = [payload[:first], payload[first : first + second], payload[first + second :]]
        watch = watching(*map(chunk, filter(None, pieces)), in_chunks=True)
        assert watch.payload() == payload
        assert watch.is_complete((DONE_EVENT,))
        assert watch.at_event_boundary()


def test_events_with_cr_lf_behind_half_a_chunk() -> None:
    long = CONTENT.replace(b"\n", b"\r\n") * (TAIL_BYTES // len(CONTENT))
    payload = watching(chunk(long), chunk(b"\r\nd"), chunk(b"ata: x\r\n\r\n"), in_chunks=True).payload()
    assert (long + b"\r\ndata: x\r\n\r\n").endswith(payload)
    assert len(payload) > TAIL_BYTES - 20
    alone = watching(chunk(long + b"\r\nda\r\n"), in_chunks=True).payload()
    assert (long + b"\r\nda\r\n").endswith(alone)


@pytest.mark.parametrize(
    "payload", [b"", b"\r\n", b": a\n\n", b":\r\n\r\n", b"event: x\nid: 1\n\n", b"retry: 5", b" \t\n: data"]
)
def test_nothing_has_been_said(payload: bytes) -> None:
    assert says_nothing(payload)


@pytest.mark.parametrize("payload", [b"d", b"data:", b"{", b": a\n{}", b"\x1f\x8b", b"0", b"event\n: a", b"id:\n\nx"])
def test_something_has_been_said(payload: bytes) -> None:
    assert not says_nothing(payload)


@given(st.lists(st.sampled_from([b": x\n", b"event: y\n", b"\n", b"\r\n", b"id:\n", b"data: z\n", b"{}"])))
def test_whoever_has_sent_an_event_with_data_has_said_something(lines: list[bytes]) -> None:
    payload = b"".join(lines)
    assert says_nothing(payload) is not any(line in (b"data: z\n", b"{}") for line in lines)
    assert not (says_nothing(payload) and first_event(payload))


def test_the_last_events_come_first() -> None:
    assert last_events(b"".join(b"data: %d\r\n\r\n" % number for number in range(9)))[:2] == [b"data: 8", b"data: 7"]
    assert last_events(b"half\n\n" + DONE + b": x") == [b": x", b"data: [DONE]", b"half"]
    assert last_events(b"") == []

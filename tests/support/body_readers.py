"""Chunked bodies as h11's reader and as our walkers read them, and the comparison of all three."""

from __future__ import annotations

from typing import Literal, NamedTuple

import h11

from qproxy.core.framing import LAST_CHUNK, ChunkReader, ChunkRelay, FramingError

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
Verdict = Literal["whole", "open", "refused"]


class Reading(NamedTuple):
    """What came of the reads: payload so far, and what is left behind a whole body."""

    verdict: Verdict
    payload: bytes
    rest: bytes


def read_by_h11(*reads: bytes) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(HEAD)
    assert isinstance(connection.next_event(), h11.Request)
    payload = b""
    for index, read in enumerate(reads):
        if not read:
            continue  # to h11 an empty read is the end
        connection.receive_data(read)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return Reading("refused", payload, b"")
            if isinstance(event, h11.Data):
                payload += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Reading("whole", payload, connection.trailing_data[0] + b"".join(reads[index + 1 :]))
            else:
                break
    return Reading("open", payload, b"")


def read_by(walker: ChunkReader | ChunkRelay, *reads: bytes) -> tuple[Reading, list[bytes]]:
    """Also what was let out for each read."""
    out: list[bytes] = []
    verdict: Verdict = "open"
    try:
        for read in reads:
            out.append(walker.walk(read))  # noqa: PERF401 - what came before an error counts
        if walker.done:
            verdict = "whole"
    except FramingError:
        verdict = "refused"
    return Reading(verdict, b"".join(out), walker.rest), out


def check(*reads: bytes) -> Verdict:
    """Compares all three; the walkers' verdict."""
    theirs = read_by_h11(*reads)
    ours, _ = read_by(ChunkReader(), *reads)
    relayed, pieces = read_by(ChunkRelay(), *reads)
    assert relayed.verdict == ours.verdict
    if theirs.verdict == "refused":
        assert ours.verdict != "whole"
    if ours.verdict != "refused":
        assert ours == theirs
        check_relayed(pieces, ours)
    return ours.verdict


def check_relayed(pieces: list[bytes], reading: Reading) -> None:
    """Each piece stands for itself: no size was announced for payload that had not come."""
    payload = b""
    for piece in pieces:
        again = read_by_h11(piece + LAST_CHUNK)
        assert again.verdict == "whole"
        assert again.rest == b""
        payload += again.payload
    assert payload == reading.payload


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]

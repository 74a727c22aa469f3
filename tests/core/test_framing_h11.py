"""The chunk walkers against h11's reader: what h11 refuses is refused, what both take has one payload.

Where the walkers refuse more, `STRICTER` says so, and each of its rows is shown here.
"""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core.framing import LAST_CHUNK, STRICTER
from tests.support.body_readers import bytewise, check, read_by_h11

SIZE = st.one_of(
    st.integers(0, 40).map(lambda size: b"%x" % size),
    st.integers(0, 40).map(lambda size: b"%02X" % size),
    st.sampled_from([b"", b"+1", b"-1", b"0x1", b" 1", b"1 ", b"1_0", b"g"]),
    st.sampled_from([b"1" * 17, b"0" * 16 + b"1", b"0" * 15 + b"1"]),
)  # fmt: skip
EXTENSION = st.one_of(
    st.just(b""),
    st.sampled_from([b";a", b";a=b", b" ;a", b"; \t", b";\x00", b";\r", b";\n", b";\x80", b" \t", b"\x0b", b";\x7f"]),
)
LINE_END = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"", b"\r\r\n", b" \r\n"])
TRAILER = st.sampled_from(
    b"|A: b\r\n|A:\r\n|A : b\r\n|: b\r\n| b\r\n|A: \x01\r\n|A: b\n|A: \xff\r\n|A\r\n"
    b"|Content-Length: 5\r\n|content-length: +5\r\n|Transfer-Encoding: Chunked\r\n|Transfer-Encoding: gzip\r\n".split(
        b"|"
    ),
)  # fmt: skip


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """One chunk, mostly sound."""
    payload = draw(st.binary(max_size=40))
    size = draw(st.one_of(st.just(b"%x" % len(payload)), st.just(b"%x" % len(payload)), SIZE))
    return size + draw(EXTENSION) + draw(LINE_END) + payload + draw(LINE_END)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    body = b"".join(draw(st.lists(chunks(), max_size=5)))
    body += draw(st.sampled_from([b"0\r\n", b"0\r\n", b"00;x\r\n", b"", b"0\n"]))
    body += b"".join(draw(st.lists(TRAILER, max_size=2))) + draw(LINE_END)
    return body + draw(st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"\x00"]))


@st.composite
def splits(draw: st.DrawFn) -> list[bytes]:
    body = draw(bodies())
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=6)))
    return [body[first:last] for first, last in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@settings(max_examples=600)
@given(splits())
def test_any_body_in_any_reads(reads: list[bytes]) -> None:
    check(*reads)


@settings(max_examples=150)
@given(bodies())
def test_the_reads_make_no_difference(body: bytes) -> None:
    """Whole, in two at every place, and byte by byte."""
    verdict = check(body)
    assert check(*bytewise(body)) == verdict
    for cut in range(1, len(body)):
        assert check(body[:cut], body[cut:]) == verdict


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from([b"0", b"1", b"a", b"\r", b"\n", b"\r\n", b";", b" ", b"\x00", b"A:", b"\xff"]), max_size=24
    )
)
def test_the_bytes_that_make_the_framing(parts: list[bytes]) -> None:
    check(*parts)
    check(b"".join(parts))


@settings(max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=12), st.lists(st.integers(1, 40), max_size=8))
def test_sound_bodies_are_taken(payloads: list[bytes], sizes: list[int]) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + LAST_CHUNK
    reads = []
    for size in sizes:
        reads.append(body[:size])
        body = body[size:]
    assert check(*reads, body) == "whole"


def one_byte_chunks() -> bytes:
    return b"1\r\na\r\n" * 20_000 + LAST_CHUNK


STRICTER_BODIES: dict[str, bytes] = {
    "size of more than 16 digits": b"00000000000000001\r\na\r\n0\r\n\r\n",
    "size line of more than 256 bytes": b"1;" + b"x" * 255 + b"\r\na\r\n0\r\n\r\n",
    "control character in an extension": b"1;\x00\r\na\r\n0\r\n\r\n",
    "framing above four times the payload, after 64 KiB": one_byte_chunks(),
    "trailers of more than 8 KiB": b"0\r\n" + b"a: b\r\n" * 1366 + b"\r\n",
    "folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "control character in a trailer": b"0\r\na: \x01\r\n\r\n",
    "bare LF in the trailers": b"0\r\na: b\n\r\n",
    "repeated Content-Length in the trailers": b"0\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
}


def test_every_further_refusal_is_shown() -> None:
    assert STRICTER_BODIES.keys() == STRICTER.keys()


@pytest.mark.parametrize("body", STRICTER_BODIES.values(), ids=STRICTER_BODIES)
def test_what_h11_takes_and_the_walkers_refuse(body: bytes) -> None:
    assert read_by_h11(body).verdict == "whole"
    assert check(body) == "refused"
    if len(body) < 20_000:
        assert check(*bytewise(body)) == "refused"


@pytest.mark.parametrize(
    "body",
    [
        b"0000000000000001\r\na\r\n0\r\n\r\n",
        b"1;" + b"x" * 254 + b"\r\na\r\n0\r\n\r\n",
        b"1;\t\x80\r\na\r\n0\r\n\r\n",
        b"2\r\nab\r\n" * 20_000 + LAST_CHUNK,
        b"0\r\n" + b"a: b\r\n" * 1365 + b"\r\n",
    ],
    ids=["size", "size line", "extension", "framing", "trailers"],
)
def test_what_is_just_not_refused(body: bytes) -> None:
    assert check(body) == "whole"


@pytest.mark.parametrize("length", [0, 1, 5])
@given(data=st.binary(max_size=8), cut=st.integers(0, 8))
def test_a_body_with_a_length(length: int, data: bytes, cut: int) -> None:
    from qproxy.core.framing import LengthWalker

    walker = LengthWalker(length)
    out = walker.walk(data[:cut]) + walker.walk(data[cut:])
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + data)
    events = [connection.next_event() for _ in range(4)]
    assert out == b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    assert walker.done == any(isinstance(event, h11.EndOfMessage) for event in events)
    assert walker.rest == (connection.trailing_data[0] if walker.done else b"")

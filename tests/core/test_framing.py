"""The walkers one by one: what they let out for what comes in, whatever the reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.framing import (
    ChunkingWalker,
    ChunkReader,
    ChunkRelay,
    CloseWalker,
    FramingError,
    LengthWalker,
    Walker,
    bare_walker,
    relay_walker,
    request_walker,
)


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def walked(walker: Walker, *reads: bytes) -> bytes:
    return b"".join(walker.walk(read) for read in reads)


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


class TestLength:
    def test_the_body_in_one_read_is_the_same_object(self) -> None:
        body = bytes(1000)
        walker = LengthWalker(1000)
        assert walker.walk(body) is body
        assert walker.done
        assert walker.rest == b""

    def test_a_part_is_the_same_object(self) -> None:
        part = bytes(10)
        walker = LengthWalker(11)
        assert walker.walk(part) is part
        assert not walker.done

    def test_what_comes_behind_is_kept_apart(self) -> None:
        walker = LengthWalker(3)
        assert walked(walker, b"ab", b"cde", b"f") == b"abc"
        assert walker.rest == b"def"

    def test_an_empty_body_is_done_before_it_begins(self) -> None:
        walker = LengthWalker(0)
        assert walker.done
        walker.end_of_input()
        assert walker.walk(b"x") == b""
        assert walker.rest == b"x"

    @pytest.mark.parametrize("came", [b"", b"a", b"ab"])
    def test_too_little(self, came: bytes) -> None:
        walker = LengthWalker(3)
        walker.walk(came)
        with pytest.raises(FramingError):
            walker.end_of_input()

    @given(st.binary(max_size=50), st.integers(0, 50), st.lists(st.integers(1, 9)))
    def test_any_split(self, data: bytes, length: int, sizes: list[int]) -> None:
        walker = LengthWalker(length)
        assert walked(walker, *split(data, sizes)) == data[:length]
        assert walker.done == (len(data) >= length)
        assert walker.rest == data[length:]


class TestClose:
    def test_everything_passes_until_the_end(self) -> None:
        walker = CloseWalker()
        assert walked(walker, b"a", b"0\r\n\r\n") == b"a0\r\n\r\n"
        assert not walker.done
        walker.end_of_input()
        assert walker.done
        assert walker.rest == b""

    def test_everything_passes_in_chunks(self) -> None:
        walker = ChunkingWalker()
        assert walked(walker, b"a", b"", b"bcdefghijklmnopq") == chunk(b"a") + chunk(b"bcdefghijklmnopq")
        walker.end_of_input()
        assert walker.done


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in reads of these sizes, what is left in one."""
    reads = []
    for size in sizes:
        reads.append(data[:size])
        data = data[size:]
    return [*reads, data]


WHOLE: list[tuple[bytes, bytes]] = [
    (b"0\r\n\r\n", b""),
    (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    (b"003\r\nabc\r\n00\r\n\r\n", b"abc"),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    (b"3;name=value\r\nabc\r\n0;last\r\n\r\n", b"abc"),
    (b'3;a="\t\x80";b \t\r\nabc\r\n0\r\n\r\n', b"abc"),
    (b"3 \t\r\nabc\r\n0\r\n\r\n", b"abc"),
    (b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\n\r\n", b"abc"),
    (b"5\r\n\r\n0\r\n\r\n0\r\n\r\n", b"\r\n0\r\n"),
    (b"1001\r\n" + bytes(4097) + b"\r\n0\r\n\r\n", bytes(4097)),
]

BROKEN: dict[str, bytes] = {
    "no size": b"\r\nabc\r\n",
    "plus": b"+3\r\nabc\r\n",
    "minus": b"-3\r\nabc\r\n",
    "0x": b"0x3\r\nabc\r\n",
    "underscore": b"1_0\r\nabc\r\n",
    "space before": b" 3\r\nabc\r\n",
    "tab before": b"\t3\r\nabc\r\n",
    "space in between": b"3 3\r\nabc\r\n",
    "space before an extension": b"3 ;a\r\nabc\r\n",
    "letter": b"g\r\nabc\r\n",
    "comma": b"3,\r\nabc\r\n",
    "17 digits": b"00000000000000003\r\nabc\r\n",
    "not ASCII": "٣\r\nabc\r\n".encode(),
    "bare LF behind the size": b"3\nabc\r\n",
    "bare CR behind the size": b"3\rabc\r\n",
    "CR CR LF behind the size": b"3\r\r\nabc\r\n",
    "bare LF behind the payload": b"3\r\nabc\n0\r\n\r\n",
    "bare CR behind the payload": b"3\r\nabc\r0\r\n\r\n",
    "nothing behind the payload": b"3\r\nabc0\r\n\r\n",
    "payload too long": b"3\r\nabcd\r\n0\r\n\r\n",
    "payload too short": b"4\r\nabc\r\n0\r\n\r\n",
    "LF in an extension": b"3;a\nb\r\nabc\r\n",
    "CR in an extension": b"3;a\rb\r\nabc\r\n",
    "NUL in an extension": b"3;a\x00\r\nabc\r\n",
    "endless extension": b"3;" + b"a" * 300,
    "bare LF ends the body": b"0\n\n",
    "LF behind the last chunk": b"0\r\n\n",
    "trailer without a colon": b"0\r\nabc\r\n\r\n",
    "trailer without a name": b"0\r\n: a\r\n\r\n",
    "trailer with a space before the colon": b"0\r\na : b\r\n\r\n",
    "folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "another chunk behind the last": b"0\r\n3\r\nabc\r\n0\r\n\r\n",
    "endless trailer": b"0\r\na: " + b"a" * 9000,
    "endless trailers": b"0\r\n" + b"a: b\r\n" * 1500,
}


@pytest.mark.parametrize("kind", [ChunkReader, ChunkRelay])
class TestChunked:
    @pytest.mark.parametrize(("wire", "payload"), WHOLE)
    def test_whole_bodies(self, kind: type[ChunkReader], wire: bytes, payload: bytes) -> None:
        """C32, U32: extensions and trailers go no further."""
        for reads in ([wire], bytewise(wire)):
            walker = kind()
            assert payload_of(kind, walked(walker, *reads)) == payload
            assert walker.done
            assert walker.rest == b""
            walker.end_of_input()

    @pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN)
    def test_broken_bodies(self, kind: type[ChunkReader], wire: bytes) -> None:
        """C16, C17, U15."""
        for reads in ([wire], bytewise(wire)):
            walker = kind()
            with pytest.raises(FramingError):
                walked(walker, *reads)

    @pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN)
    def test_broken_behind_a_good_chunk(self, kind: type[ChunkReader], wire: bytes) -> None:
        walker = kind()
        with pytest.raises(FramingError):
            walked(walker, chunk(b"good") + wire)

    def test_what_comes_behind_is_kept_apart(self, kind: type[ChunkReader]) -> None:
        walker = kind()
        walked(walker, b"1\r\na\r\n0\r\n", b"\r\nGET /", b" HTTP/1.1")
        assert walker.rest == b"GET / HTTP/1.1"

    def test_every_end_before_the_end_is_a_failure(self, kind: type[ChunkReader]) -> None:
        wire = b"3;x\r\nabc\r\n0\r\nX: y\r\n\r\n"
        for end in range(len(wire)):
            walker = kind()
            walked(walker, wire[:end])
            with pytest.raises(FramingError):
                walker.end_of_input()

    def test_what_stood_before_a_break_is_told(self, kind: type[ChunkReader]) -> None:
        for wire in (b"1\r\na\r\n2\r\nbc\r\nzz\r\n", b"1\r\na\r\n2\r\nbcd"):
            with pytest.raises(FramingError) as caught:
                kind().walk(wire)
            assert payload_of(kind, caught.value.passed) == b"abc"

    def test_payload_is_never_held_back(self, kind: type[ChunkReader]) -> None:
        walker = kind()
        assert payload_of(kind, walker.walk(b"ff\r\nabc")) == b"abc"
        assert payload_of(kind, walker.walk(b"d")) == b"d"

    def test_one_byte_chunks_are_refused_in_the_long_run(self, kind: type[ChunkReader]) -> None:
        """C17."""
        walker = kind()
        with pytest.raises(FramingError):
            walked(walker, *[b"1\r\na\r\n"] * 20_000)

    def test_what_is_refused_is_not_complete(self, kind: type[ChunkReader]) -> None:
        walker = kind()
        with pytest.raises(FramingError):
            walker.walk(b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n")
        assert not walker.done

    def test_a_long_request_behind_a_short_body_is_none_of_its_framing(self, kind: type[ChunkReader]) -> None:
        walker = kind()
        walker.walk(b"2\r\n{}\r\n0\r\n\r\n" + bytes(200_000))
        assert walker.done
        assert walker.rest == bytes(200_000)

    def test_long_extensions_are_refused_in_the_long_run(self, kind: type[ChunkReader]) -> None:
        """C17."""
        walker = kind()
        with pytest.raises(FramingError):
            walked(walker, *[b"1;" + b"x" * 200 + b"\r\na\r\n"] * 1000)

    def test_chunks_of_two_bytes_are_not(self, kind: type[ChunkReader]) -> None:
        """A token in a chunk of its own is framing of 5 bytes."""
        walker = kind()
        assert payload_of(kind, walked(walker, *[b"2\r\nab\r\n"] * 30_000)) == b"ab" * 30_000


def payload_of(kind: type[object], out: bytes) -> bytes:
    """Reads what a relay let out as strictly as can be: lower-case sizes, whole chunks."""
    if kind is not ChunkRelay:
        return out
    parts = []
    while out:
        size_line, out = out.split(b"\r\n", 1)
        size = int(size_line, 16)
        assert len(out) >= size + 2, "a size was announced ahead of its payload"
        assert out[size : size + 2] == b"\r\n"
        assert size > 0
        parts.append(out[:size])
        out = out[size + 2 :]
    return b"".join(parts)


class TestRelay:
    def test_whole_chunks_leave_as_the_very_same_object(self) -> None:
        read = b"".join(chunk(b"data: %d\n\n" % number) for number in range(50))
        assert ChunkRelay().walk(read) is read

    def test_the_end_of_the_body_is_the_callers(self) -> None:
        walker = ChunkRelay()
        assert walker.walk(b"1\r\na\r\n0\r\n\r\n") == b"1\r\na\r\n"
        assert walker.done

    def test_a_chunk_that_comes_in_parts_leaves_in_parts(self) -> None:
        walker = ChunkRelay()
        reads = [b"a\r\n01234", b"56", b"789\r", b"\n3\r\nabc\r\n2\r", b"\nde\r\n"]
        leaves = [b"5\r\n01234\r\n", b"2\r\n56\r\n", b"3\r\n789\r\n", b"3\r\nabc\r\n", b"2\r\nde\r\n"]
        assert [walker.walk(read) for read in reads] == leaves

    def test_extensions_are_dropped(self) -> None:
        assert ChunkRelay().walk(b"3;a=b\r\nabc\r\n2\r\nde\r\n") == b"3\r\nabc\r\n2\r\nde\r\n"

    def test_back_to_whole_chunks_after_a_split_one(self) -> None:
        walker = ChunkRelay()
        walked(walker, b"3\r\na", b"bc\r\n")
        read = chunk(b"de") + chunk(b"fg")
        assert walker.walk(read) is read


@pytest.mark.parametrize(
    ("walker", "kind"),
    [
        (request_walker(5), LengthWalker),
        (request_walker(None), ChunkReader),
        (relay_walker(5, chunked=False), LengthWalker),
        (relay_walker(None, chunked=True), ChunkRelay),
        (relay_walker(None, chunked=False), ChunkingWalker),
        (bare_walker(5, chunked=False), LengthWalker),
        (bare_walker(None, chunked=True), ChunkReader),
        (bare_walker(None, chunked=False), CloseWalker),
    ],
)
def test_which_walker_serves_which_body(walker: Walker, kind: type[Walker]) -> None:
    assert type(walker) is kind

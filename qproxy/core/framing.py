"""Body framing: walkers that check the framing of a body while its bytes pass, without an object per chunk.

A walker takes the bytes of one read and returns the bytes to send on. It never holds payload back: of a chunk that has
come in part, the part goes on at once under a size line of its own, so that no size is ever announced for payload that
may not come. Whole chunks go on as they came. Chunk extensions and trailers are dropped. What a walker returns never
includes the end of the body: the caller writes `LAST_CHUNK` once it knows that the message is complete.

What is refused is a subset of what h11 accepts (tested against it at every split), plus the rows of `STRICTER`.
Sources: RFC 9112 6 and 7.1; `faults.md` C16, C17, U15.
"""

from __future__ import annotations

import re
from typing import Protocol

LAST_CHUNK = b"0\r\n\r\n"

STRICTER: dict[str, str] = {
    "size of more than 16 digits": "h11 takes 20; 16 digits are 2**64 already",
    "size line of more than 256 bytes": "h11 has no limit of its own for it",
    "control character in an extension": "h11 takes everything but LF; parsers differ on bare CR and NUL",
    "framing above four times the payload, after 64 KiB": "one-byte chunks keep a core busy (faults.md C17)",
    "trailers of more than 8 KiB": "h11 has no limit of its own for them",
    "folded trailer": "RFC 9112 5.2 lets a server refuse it; h11 joins the lines",
    "control character in a trailer": "h11 refuses only NUL and white space",
    "bare LF in the trailers": "h11 takes it for a line end there, and nowhere else in a body",
    "repeated Content-Length in the trailers": "h11 merges equal ones, which are refused in a head too (faults.md C19)",
}
"""Chunked bodies that h11 accepts and this module refuses, each with its reason. Every row has a test."""

_SIZE_LINE_BYTES = 256
_TRAILER_BYTES = 8 * 1024
_FREE_OVERHEAD_BYTES = 64 * 1024
_OVERHEAD_FACTOR = 4

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?[ \t]*")
_SIZE_LINE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,16}(?:[ \t]*|;[\t\x20-\x7e\x80-\xff]*)\r?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_TRAILER_OF_FRAMING = re.compile(
    rb"content-length:[ \t]*[0-9]{1,20}[ \t]*|transfer-encoding:[ \t]*chunked[ \t]*", re.IGNORECASE
)
_NAMES_OF_FRAMING = (b"content-length", b"transfer-encoding")

# One look-up instead of a match and an int() per chunk. An SSE event of a chat stream has 150 to 400 bytes.
_SIZES: dict[bytes, int] = {b"%x" % size: size for size in range(1, 4097)}


class FramingError(Exception):
    """The body's framing is broken, or it ended before its end. The message says what, for the log.

    `passed` is what stood before the break in the same read, as the walker would have let it go on.
    """

    passed: bytes = b""


class Truncated(FramingError):
    """The body ended before its end."""


class Walker(Protocol):
    """Checks one body."""

    @property
    def done(self) -> bool:
        """True from the last byte of the body on."""
        ...

    @property
    def rest(self) -> bytes:
        """What came behind the body."""
        ...

    def walk(self, data: bytes) -> bytes:
        """The bytes to send on for the bytes of one read. Raises FramingError."""
        ...

    def end_of_input(self) -> None:
        """The sender has closed. Raises Truncated where the body is not complete by that."""
        ...


class LengthWalker:
    """A body of `length` bytes, passed on as it comes."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""

    def walk(self, data: bytes) -> bytes:
        if self.done:
            self.rest += data
            return b""
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        self.done = True
        self._left = 0
        if left == 0:
            return data
        self.rest = data[left:]
        return data[:left]

    def end_of_input(self) -> None:
        if not self.done:
            raise Truncated(f"body ended {self._left} bytes before its length")


class CloseWalker:
    """A body that ends with its connection, passed on bare: for a peer that is told the same way."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def walk(self, data: bytes) -> bytes:
        return data

    def end_of_input(self) -> None:
        self.done = True


class ChunkingWalker(CloseWalker):
    """A body that ends with its connection, passed on as chunks."""

    __slots__ = ()

    def walk(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class ChunkingLengthWalker(LengthWalker):
    """A body of `length` bytes, passed on as chunks."""

    __slots__ = ()

    def walk(self, data: bytes) -> bytes:
        out = super().walk(data)
        return b"%x\r\n%b\r\n" % (len(out), out) if out else b""


class _ChunkedBody:
    """The states of a chunked body. Children say what leaves: chunks or bare payload."""

    __slots__ = (
        "_carry", "_in_trailer", "_left", "_payload", "_seen", "_trailer_bytes", "_trailers_of_framing", "done", "rest",
    )  # fmt: skip

    def __init__(self) -> None:
        self._carry = b""  # a size line, line end or trailer line that has come in part
        self._left = 0  # bytes of the current chunk still to come, with its line end: 2 means payload complete
        self._in_trailer = False
        self._trailer_bytes = 0
        self._trailers_of_framing: tuple[bytes, ...] = ()
        self._payload = 0
        self._seen = 0
        self.done = False
        self.rest = b""

    @property
    def payload_bytes(self) -> int:
        """What has passed, without its framing."""
        return self._payload

    def end_of_input(self) -> None:
        if not self.done:
            raise Truncated("chunked body ended before its last chunk")

    def _account(self, seen: int, payload: int) -> None:
        self._seen += seen
        self._payload += payload
        overhead = self._seen - self._payload
        if overhead > _FREE_OVERHEAD_BYTES and overhead > _OVERHEAD_FACTOR * self._payload:
            self.done = False  # what is refused must not pass for complete
            raise FramingError("chunk framing outweighs the payload")

    def _framed(self, parts: list[bytes]) -> bytes:
        """What leaves for these payload parts."""
        raise NotImplementedError

    def _careful(self, data: bytes) -> bytes:
        """The walk for whatever is not just whole chunks."""
        parts: list[bytes] = []
        try:
            self._collect(data, parts)
        except FramingError as exc:
            exc.passed = self._framed(parts)
            raise
        return self._framed(parts)

    def _collect(self, data: bytes, parts: list[bytes]) -> None:
        """Every payload part in `data`, in order, none empty."""
        seen = len(data)
        if self._carry:
            data = self._carry + data
            self._carry = b""
        payload = 0
        at = 0
        end = len(data)
        while at < end and not self.done:
            if self._left > 2:
                part = data[at : at + self._left - 2]
                at += len(part)
                payload += len(part)
                self._left -= len(part)
                parts.append(part)
            elif self._left:
                at = self._line_end(data, at)
            elif self._in_trailer:
                at = self._trailer_line(data, at)
            else:
                at = self._size_line(data, at)
        if self.done:
            self.rest = data[at:]
        self._account(seen - len(self.rest), payload)

    def _line_end(self, data: bytes, at: int) -> int:
        """The CR LF behind a payload; `_left` counts down from 2."""
        for wanted in (b"\r", b"\n")[2 - self._left :]:
            if at == len(data):
                return at
            if data[at : at + 1] != wanted:
                raise FramingError("chunk payload is not followed by CR LF")
            self._left -= 1
            at += 1
        return at

    def _size_line(self, data: bytes, at: int) -> int:
        line_end = data.find(b"\r\n", at, at + _SIZE_LINE_BYTES + 2)
        if line_end < 0:
            self._carry = data[at:]
            if len(self._carry) > _SIZE_LINE_BYTES or not _SIZE_LINE_BEGUN.fullmatch(self._carry):
                raise FramingError("malformed chunk size")
            return len(data)
        match = _SIZE_LINE.fullmatch(data, at, line_end)
        if match is None:
            raise FramingError("malformed chunk size")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailer = True
        return line_end + 2

    def _trailer_line(self, data: bytes, at: int) -> int:
        line_end = data.find(b"\r\n", at, at + _TRAILER_BYTES)
        if line_end < 0:
            self._carry = data[at:]
            if b"\n" in self._carry or b"\r" in self._carry[:-1]:
                raise FramingError("malformed trailer")
            self._check_trailer(len(self._carry))
            return len(data)
        self._trailer_bytes += line_end + 2 - at
        self._check_trailer(0)
        if line_end == at:
            self.done = True
        else:
            self._check_trailer_line(data[at:line_end])
        return line_end + 2

    def _check_trailer_line(self, line: bytes) -> None:
        """Trailers are dropped; a length or coding among them must be one that h11 would have."""
        name = line.partition(b":")[0].lower()
        is_of_framing = name in _NAMES_OF_FRAMING
        pattern = _TRAILER_OF_FRAMING if is_of_framing else _TRAILER_LINE
        if not pattern.fullmatch(line) or name in self._trailers_of_framing:
            raise FramingError("malformed trailer")
        if is_of_framing:
            self._trailers_of_framing += (name,)

    def _check_trailer(self, begun_bytes: int) -> None:
        if self._trailer_bytes + begun_bytes > _TRAILER_BYTES:
            raise FramingError("the trailers are too long")


class ChunkReader(_ChunkedBody):
    """Chunks in, bare payload out: for a peer without chunks, and for bodies that are kept."""

    __slots__ = ()

    def walk(self, data: bytes) -> bytes:
        if self.done:
            self.rest += data
            return b""
        return self._careful(data)

    def _framed(self, parts: list[bytes]) -> bytes:
        return parts[0] if len(parts) == 1 else b"".join(parts)


class ChunkRelay(_ChunkedBody):
    """Chunks in, chunks out; a read that brought whole chunks leaves as the very same object."""

    __slots__ = ()

    def walk(self, data: bytes) -> bytes:
        # Hot: one find, one look-up and one comparison a chunk (bench: T3, T4).
        if self.done:
            self.rest += data
            return b""
        if self._left or self._carry or self._in_trailer:
            return self._careful(data)
        at = 0
        end = len(data)
        framing = 0
        sizes = _SIZES
        find = data.find
        while at < end:
            line_end = find(b"\r\n", at, at + 6)
            size = sizes.get(data[at:line_end]) if line_end > 0 else None
            if size is None:
                break
            behind = line_end + size + 4
            if behind > end or data[behind - 2 : behind] != b"\r\n":
                break
            framing += line_end - at + 4
            at = behind
        if at:
            self._account(at, at - framing)
        if at == end:
            return data
        try:
            return data[:at] + self._careful(data[at:])
        except FramingError as exc:
            exc.passed = data[:at] + exc.passed
            raise

    def _framed(self, parts: list[bytes]) -> bytes:
        return b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts])


def request_walker(content_length: int | None) -> Walker:
    """For a request body whose payload is kept or sent on under a length; None means chunked."""
    return ChunkReader() if content_length is None else LengthWalker(content_length)


def relay_walker(content_length: int | None, *, chunked: bool) -> Walker:
    """For a response that goes down under its own length, or else in chunks."""
    if chunked:
        return ChunkRelay()
    return ChunkingWalker() if content_length is None else LengthWalker(content_length)


def chunking_walker(content_length: int | None, *, chunked: bool) -> Walker:
    """For a response that goes down in chunks, however it came."""
    if content_length is None:
        return relay_walker(None, chunked=chunked)
    return ChunkingLengthWalker(content_length)


def bare_walker(content_length: int | None, *, chunked: bool) -> Walker:
    """For a response whose bare payload is wanted: by a client without chunks, or by ourselves."""
    if chunked:
        return ChunkReader()
    return CloseWalker() if content_length is None else LengthWalker(content_length)

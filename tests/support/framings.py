"""Ways to say where a body ends, right ones and wrong ones; they fit a body of 40 bytes, of requests and of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.hostile_requests import BROKEN_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""A character of a name, as a pattern."""

LENGTHS = (
    b"", b"Content-Length: 40", b"Content-Length: 5", b"Content-Length: 0", b"Content-Length:40",
    b"Content-Length: 040", b"Content-Length: 40 ", b"CONTENT-LENGTH:\t40", b"Content-Length: 40, 40",
    b"Content-Length: 40, 5", b"Content-Length: +40", b"Content-Length: 4 0", b"Content-Length: 0x28",
    b"Content-Length: 40\x0b",
    b"Content-Length:", b"Content-Length : 40", b"Content_Length: 40", b" Content-Length: 40",
    b"X: a\nContent-Length: 40",
    b"X: a\rContent-Length: 40", b"Content-Length: 40\r\nContent-Length: 40",
    b"Content-Length: 5\r\nContent-Length: 40",
)  # fmt: skip
CODINGS = (
    b"", b"Transfer-Encoding: chunked", b"Transfer-Encoding:chunked", b"TRANSFER-ENCODING: CHUNKED",
    b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\x0c",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunkedx", b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: chunked,", b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: identity", b"Transfer-Encoding:",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b"Transfer_Encoding: chunked",
    b" Transfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: identity\r\n\tchunked",
    b"X: a\nTransfer-Encoding: chunked", b"X: a\rTransfer-Encoding: chunked", b"TE: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
)  # fmt: skip
SIZES = (
    b"5", b"05", b"5 ", b"5\t", b" 5", b"5;a", b"5;a=b", b'5;a="b"', b"5 ;a", b"0x5", b"+5", b"-5", b"5_", b"",
    b"5\x0b", b"5;\x00", b"5;a\nb", b"5;a\rb",
)  # fmt: skip
LINE_ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n")
LAST_CHUNKS = (
    b"0\r\n\r\n", b"00\r\n\r\n", b"0;a\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n",
    b"0\r\n X: y\r\n\r\n", b"0\r\nX: y\n\r\n", b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\n\r", b"0\r\nX\r\n\r\n",
)  # fmt: skip

STRICTER_LINES = {
    "CR and LF stand together, at the end of a line": rb"(?<!\r)\n|\r(?!\n)",
    "no control characters": rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
}
STRICTER_CHUNKS = {
    **STRICTER_LINES,
    "no blanks before an extension": rb"[0-9A-Fa-f][ \t]+;",
    "a trailer is a name, a colon and a value": rb"0\r\n(?!" + TOKEN + rb"+:)[^\r]",
    "there are limits": rb"(?s)^.{4000}",
}
"""What heads and chunks have to keep to although other parsers may not ask for it, as what shows that they do not."""


def chunked_bodies() -> Iterator[bytes]:
    """Bodies in chunks, each with one thing that parsers may differ about."""
    for chunks in BROKEN_CHUNKS.values():
        yield b"1\r\na\r\n" + chunks
    for size in SIZES:
        yield size + b"\r\nhello\r\n0\r\n\r\n"
    for first in LINE_ENDS:
        for second in LINE_ENDS:
            yield b"5" + first + b"hello" + second + b"0\r\n\r\n"
    for last in LAST_CHUNKS:
        yield b"5\r\nhello\r\n" + last

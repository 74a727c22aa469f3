"""What the memory says of a head is what the parser says of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.http1 import RequestHead, parse_request_head
from qproxy.core.known_heads import REMEMBERED, KnownHeads
from qproxy.core.limits import Limits
from qproxy.errors import QProxyError

LIMITS = Limits()

FIELDS = st.sampled_from([
    b"Host: a.example", b"Host: b.example", b"Content-Length: 5", b"content-length: 7", b"Content-Length: 5, 5",
    b"Content-Length: +5", b"CONTENT-LENGTH: 9", b"Content-Length:5", b"Content-Length: 5 ", b"Content-Length : 5",
    b"CONTENT-LENGTH: 0", b"Content-Length:0", b"Content-Length: 00", b"Content-Length: 0",
    b"X-Note: Content-Length: 4", b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: x-note",
    b"Authorization: Bearer k", b"Expect: 100-continue", b"Accept-Encoding: gzip", b"X-Note: 1", b" folded: 3", b"bad",
])  # fmt: skip
LINES = st.sampled_from([
    b"POST /v1/chat/completions HTTP/1.1", b"GET / HTTP/1.1", b"POST /v1/chat/completions HTTP/1.0",
    b"GET http://c.example/v1/models HTTP/1.1", b"Content-Length: 5",
])  # fmt: skip


def said_of(parse: object, raw: bytes) -> object:
    assert callable(parse)
    try:
        head = parse(raw)
    except QProxyError as error:
        return error.code
    return {name: getattr(head, name) for name in RequestHead.__slots__}


@given(st.lists(st.tuples(LINES, st.lists(FIELDS, max_size=6)), min_size=1, max_size=8))
def test_it_says_what_the_parser_says(heads: list[tuple[bytes, list[bytes]]]) -> None:
    known = KnownHeads(LIMITS)
    for line, fields in heads:
        raw = b"\r\n".join([line, *fields]) + b"\r\n\r\n"
        expected = said_of(lambda head: parse_request_head(head, LIMITS), raw)
        assert said_of(known.parse, raw) == expected
        assert said_of(known.parse, raw) == expected


def test_a_head_is_parsed_once_for_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownHeads(LIMITS)
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-Note: 1\r\n\r\n"
    known.parse(raw % 3)
    monkeypatch.setattr("qproxy.core.known_heads.parse_request_head", None)
    assert [known.parse(raw % length).content_length for length in (4, 0, 5)] == [4, 0, 5]


def test_a_length_line_cannot_hide_another_one() -> None:
    known = KnownHeads(LIMITS)
    known.parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
    with pytest.raises(QProxyError) as caught:
        known.parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n")
    assert caught.value.code == "ambiguous_length"


@pytest.mark.parametrize("spelling", [b"CONTENT-LENGTH: 0", b"Content-Length:0", b"content-length: 0 "])
def test_a_length_of_nothing_in_another_spelling_cannot_hide_one_either(spelling: bytes) -> None:
    known = KnownHeads(LIMITS)
    assert known.parse(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % spelling).content_length == 0
    with pytest.raises(QProxyError) as caught:
        known.parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n%b\r\n\r\n" % spelling)
    assert caught.value.code == "ambiguous_length"


def test_the_memory_is_bounded() -> None:
    known = KnownHeads(LIMITS)
    for number in range(3 * REMEMBERED):
        known.parse(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
    assert len(known._heads) <= REMEMBERED

"""Heads: what is refused although h11 takes it, and what is read out of the heads that pass.

The rows are those of the fault matrix: C10 to C32 for requests, U16 to U20 for responses.
"""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qproxy.core.http1 import (
    RequestHead,
    ResponseHead,
    fields_by_h11,
    is_informational,
    parse_request_head,
    parse_response_head,
    plain_fields,
)
from qproxy.core.limits import Limits
from qproxy.errors import DownstreamError, UpstreamError
from tests.support.hostile_requests import REFUSED_REQUESTS, head

LIMITS = Limits()


def parsed(*fields: bytes, line: bytes = b"POST /v1/x HTTP/1.1", host: bytes | None = b"Host: a") -> RequestHead:
    return parse_request_head(head(*fields, line=line, host=host), LIMITS)


@pytest.mark.parametrize(("raw", "code"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS)
def test_a_request_that_two_parsers_could_read_in_two_ways_is_refused(raw: bytes, code: str) -> None:
    with pytest.raises(DownstreamError) as caught:
        parse_request_head(raw, LIMITS)
    assert caught.value.code == code
    assert caught.value.kind.closes


def test_a_head_of_exactly_the_limits_passes() -> None:
    fields = [b"X: a"] * (LIMITS.head_lines - 2)
    room = LIMITS.head_bytes - len(head(*fields, b"Y: "))
    raw = head(*fields, b"Y: " + b"y" * room)
    assert len(raw) == LIMITS.head_bytes
    assert len(parse_request_head(raw, LIMITS).passed) == LIMITS.head_lines - 1
    target = b"/" + b"t" * (LIMITS.target_bytes - 1)
    assert parsed(line=b"GET " + target + b" HTTP/1.1").path == target


def test_the_parts_of_a_plain_request() -> None:
    request = parsed(
        b"Content-Type: application/json",
        b"Content-Length: 12",
        b"Authorization: Bearer k",
        b"X-Api-Key:k2 ",
        b"Origin: http://b",
        b"User-Agent: curl",
        b"Accept-Encoding: gzip",
        b"accept-encoding: br",
        b"X-Qproxy-Upstream: mine",
        b"X-Custom:  v v ",
        line=b"POST /v1/chat/completions?a=b?c HTTP/1.1",
    )
    assert (request.method, request.path, request.query) == (b"POST", b"/v1/chat/completions", b"a=b?c")
    assert (request.host, request.authorization, request.x_api_key) == (b"a", b"Bearer k", b"k2")
    assert (request.origin, request.user_agent, request.pinned_upstream) == (b"http://b", b"curl", b"mine")
    assert request.accept_encoding == b"gzip, br"
    assert (request.content_length, request.chunked, request.has_body) == (12, False, True)
    assert request.keep_alive
    assert not request.http_10
    assert request.passed == [(b"Content-Type", b"application/json"), (b"X-Custom", b"v v")]


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        ([], 0, False),
        ([b"Content-Length: 0"], 0, False),
        ([b"content-LENGTH:  007 "], 7, False),
        ([b"Content-Length: " + b"9" * 18], 10**18 - 1, False),
        ([b"Transfer-Encoding: chunked"], None, True),
        ([b"TRANSFER-ENCODING:  Chunked "], None, True),
    ],
)
def test_the_length_of_a_body(fields: list[bytes], length: int | None, *, chunked: bool) -> None:
    request = parsed(*fields)
    assert (request.content_length, request.chunked) == (length, chunked)
    assert request.has_body == (length != 0)


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: x", b"Connection: CLOSE"], False),
        (b"1.1", [b"Connection: keep-alive"], True),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.0", [b"Connection: close"], False),
    ],
)
def test_whether_a_connection_stays_open(version: bytes, fields: list[bytes], *, keep_alive: bool) -> None:
    assert parsed(*fields, line=b"GET / HTTP/" + version).keep_alive == keep_alive


def test_http_10_needs_no_host() -> None:
    request = parsed(line=b"GET / HTTP/1.0", host=None)
    assert request.http_10
    assert request.host is None


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"http://b.example:8080/v1/models", b"b.example:8080", b"/v1/models"),
        (b"HTTP://b", b"b", b"/"),
        (b"https://[::1]:1?q", b"[::1]:1", b"/"),
    ],
)
def test_an_absolute_target_overrides_the_host(target: bytes, host: bytes, path: bytes) -> None:
    """C26; RFC 9112 3.2.2."""
    request = parsed(line=b"GET %b HTTP/1.1" % target)
    assert (request.host, request.path) == (host, path)


@pytest.mark.parametrize("target", [b"/v1/../admin", b"/v1/%2e%2e/x", b"/%00", b"//v1/models", b"/v1%2fmodels"])
def test_nothing_in_a_path_is_decoded_or_normalised(target: bytes) -> None:
    """C27."""
    assert parsed(line=b"GET %b HTTP/1.1" % target).path == target


def test_connect_finds_no_path() -> None:
    """C25: the route table answers 405, whatever the authority."""
    assert parsed(line=b"CONNECT a:443 HTTP/1.1").path == b"/"


@pytest.mark.parametrize("name", [b"X_Api_Key", b"content_length", b"transfer_encoding", b"a_b"])
def test_names_with_an_underscore_go_no_further(name: bytes) -> None:
    """C22."""
    request = parsed(name + b": 1")
    assert request.passed == []
    assert request.x_api_key is None
    assert request.content_length == 0


HOP_BY_HOP = [
    b"Connection: keep-alive",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Proxy-Authorization: Basic x",
    b"TE: trailers",
    b"Trailer: X",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    b"Cookie: a=b",
    b"X-Forwarded-For: 10.0.0.1",
    b"Forwarded: for=10.0.0.1",
    b"Via: 1.1 x",
    b"Authorization: Bearer k",
    b"X-API-Key: k",
    b"Api-Key: k",
]


@pytest.mark.parametrize("field", HOP_BY_HOP)
def test_fields_that_end_here(field: bytes) -> None:
    """C30, C31, C39."""
    assert parsed(field).passed == []


def test_fields_named_by_connection_end_here() -> None:
    """C31."""
    request = parsed(b"Connection: X-Secret, content-type", b"x-secret: 1", b"Content-Type: a/b", b"X-Public: 2")
    assert request.passed == [(b"X-Public", b"2")]


def test_naming_framing_fields_in_connection_changes_no_framing() -> None:
    """C31."""
    request = parsed(b"Connection: content-length, authorization", b"Content-Length: 3", b"Authorization: Bearer k")
    assert request.content_length == 3
    assert request.authorization == b"Bearer k"


@pytest.mark.parametrize(("line", "expects"), [(b"POST / HTTP/1.1", True), (b"POST / HTTP/1.0", False)])
def test_expect_continue(line: bytes, *, expects: bool) -> None:
    """C11; RFC 9110 10.1.1: an expectation of HTTP/1.0 is ignored."""
    assert parsed(b"Expect: 100-Continue", line=line).expects_continue == expects


def h11_reads(raw: bytes) -> h11.Request | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


TOKEN = st.sampled_from([b"Content-Length", b"content-length", b"Transfer-Encoding", b"Host", b"Connection", b"X-A"])
PIECES = st.sampled_from(
    [b"1", b"0", b"chunked", b"close", b",", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\x00", b":", b";", b"\x80", b"\x1f"]
)  # fmt: skip
FIELD = st.tuples(TOKEN, st.lists(PIECES, max_size=5).map(b"".join)).map(lambda pair: b"%b: %b" % pair)
LINE = st.one_of(
    st.just(b"POST /v1/x HTTP/1.1"),
    st.lists(st.sampled_from([b"GET", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"http://a", b"*", b"#"]), max_size=6).map(
        b"".join
    ),
)


@given(line=LINE, fields=st.lists(FIELD, max_size=5))
def test_what_passes_is_what_h11_reads(line: bytes, fields: list[bytes]) -> None:
    raw = head(*fields, line=line)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        request = parse_request_head(raw, LIMITS)
    except DownstreamError:
        return
    event = h11_reads(raw)
    assert event is not None
    assert event.method == request.method
    lengths = [value for name, value in event.headers if name == b"content-length"]
    codings = [value for name, value in event.headers if name == b"transfer-encoding"]
    assert codings == ([b"chunked"] if request.chunked else [])
    assert [int(value) for value in lengths] == ([request.content_length] if lengths else [])
    assert not (lengths and codings)
    assert all(field in event.headers.raw_items() for field in request.passed)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(garbage: bytes) -> None:
    with pytest.raises(DownstreamError):
        parse_request_head(b"\x00" + garbage + b"\r\n\r\n", LIMITS)


# --- responses


def answer(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"".join(each + b"\r\n" for each in (line, *fields)) + b"\r\n"


def read(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"POST") -> ResponseHead:
    return parse_response_head(answer(*fields, line=line), LIMITS, method=method)


REFUSED_RESPONSES: dict[str, bytes] = {
    "U16 unequal lengths": answer(b"Content-Length: 1", b"Content-Length: 2"),
    "U16 unequal list": answer(b"Content-Length: 1, 2"),
    "U16 negative": answer(b"Content-Length: -1"),
    "U16 thousands of digits": answer(b"Content-Length: " + b"1" * 5000),
    "U16 another coding": answer(b"Transfer-Encoding: gzip"),
    "U16 repeated coding": answer(*[b"Transfer-Encoding: chunked"] * 2),
    "U18 unsolicited 101": answer(b"Upgrade: x", b"Connection: upgrade", line=b"HTTP/1.1 101 Switching Protocols"),
    "U19 status 099": answer(line=b"HTTP/1.1 099 OK"),
    "U19 status 600": answer(line=b"HTTP/1.1 600 OK"),
    "U19 status 999": answer(line=b"HTTP/1.1 999 OK"),
    "U19 status of two digits": answer(line=b"HTTP/1.1 20 OK"),
    "U19 status of four digits": answer(line=b"HTTP/1.1 2000 OK"),
    "U19 status of letters": answer(line=b"HTTP/1.1 abc OK"),
    "U19 no status": answer(line=b"HTTP/1.1"),
    "U19 HTTP/2": answer(line=b"HTTP/2 200 OK"),
    "U19 HTTP/2.0": answer(line=b"HTTP/2.0 200 OK"),
    "U19 HTTP/0.9 text": b"<html>hello\r\n\r\n",
    "U19 banner": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "U19 ICY": answer(line=b"ICY 200 OK"),
    "U20 too large": answer(b"X: " + b"a" * LIMITS.upstream_head_bytes),
    "U20 too many lines": answer(*[b"X: a"] * (LIMITS.upstream_head_lines + 1)),
    "U20 folded": answer(b"X: a\r\n b"),
    "U20 bare LF": b"HTTP/1.1 200 OK\nX: a\r\n\r\n",
    "U20 bare CR": answer(b"X: a\rb"),
    "U20 NUL": answer(b"X: a\x00b"),
    "U20 control byte in the reason": answer(line=b"HTTP/1.1 200 O\x01K"),
    "U20 escape in a value": answer(b"X: \x1b[2J"),
    "U20 space before the colon": answer(b"Content-Length : 5"),
    "U20 no colon": answer(b"nothing"),
}


@pytest.mark.parametrize("raw", REFUSED_RESPONSES.values(), ids=REFUSED_RESPONSES)
def test_a_response_that_breaks_http_is_refused(raw: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        parse_response_head(raw, LIMITS, method=b"POST")
    assert caught.value.code == "upstream_protocol_error"


@pytest.mark.parametrize(
    ("line", "fields", "length", "chunked", "reusable"),
    [
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5"], 5, False, True),
        (b"HTTP/1.1 200", [b"Content-Length: 5"], 5, False, True),
        (b"HTTP/1.1 200 ", [b"Content-Length: 5", b"Content-Length: 5"], 5, False, True),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: close"], 5, False, False),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: x", b"Connection: Close"], 5, False, False),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: Chunked"], None, True, True),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked", b"Content-Length: 5"], None, True, False),
        (b"HTTP/1.1 200 OK", [], None, False, False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5"], 5, False, False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5", b"Connection: keep-alive"], 5, False, True),
        (b"HTTP/1.0 200 OK", [b"Connection: keep-alive"], None, False, False),
    ],
)
def test_how_a_response_ends(
    line: bytes, fields: list[bytes], length: int | None, *, chunked: bool, reusable: bool
) -> None:
    """U16; RFC 9112 6.3."""
    response = read(*fields, line=line)
    assert (response.content_length, response.chunked, response.reusable) == (length, chunked, reusable)
    assert not response.bodyless


@pytest.mark.parametrize(
    ("status", "method", "field"),
    [
        (204, b"POST", b"X: y"),
        (304, b"GET", b"Content-Length: 5"),
        (200, b"HEAD", b"Content-Length: 5"),
        (200, b"HEAD", b"Transfer-Encoding: chunked"),
        (204, b"POST", b"Transfer-Encoding: chunked"),
    ],
)
def test_responses_without_a_body(status: int, method: bytes, field: bytes) -> None:
    response = read(field, line=b"HTTP/1.1 %d X" % status, method=method)
    assert response.bodyless
    assert (response.content_length, response.chunked, response.reusable) == (0, False, True)


def test_fields_of_an_upstream_that_end_here() -> None:
    """U32, U35."""
    response = read(
        b"Set-Cookie: a=b",
        b"set-cookie: c=d",
        b"Connection: X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Alt-Svc: h3",
        b"Trailer: X",
        b"Upgrade: h2",
        b"Access-Control-Allow-Origin: *",
        b"Content-Length: 2",
        b"Content-Type: Application/JSON",
        b"X-Request-Id: r1",
        b"X-RateLimit-Limit: 5",
    )
    assert response.passed == [
        (b"Content-Type", b"Application/JSON"),
        (b"X-Request-Id", b"r1"),
        (b"X-RateLimit-Limit", b"5"),
    ]
    assert response.content_type == b"application/json"
    assert response.has_request_id
    assert response.reusable


@pytest.mark.parametrize(
    ("value", "is_stream"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream; charset=utf-8", True),
        (b"application/json", False),
        (b"text/plain", False),
    ],
)
def test_what_is_a_stream(value: bytes, *, is_stream: bool) -> None:
    assert read(b"Content-Type: " + value).is_stream == is_stream


@pytest.mark.parametrize(
    ("line", "informational"),
    [
        (b"HTTP/1.1 100 Continue", True),
        (b"HTTP/1.1 103 Early Hints", True),
        (b"HTTP/1.0 199", True),
        (b"HTTP/1.1 101 Switching Protocols", False),
        (b"HTTP/1.1 200 OK", False),
        (b"HTTP/1.1 1000 OK", False),
        (b"HTTP/1.1 1 OK", False),
        (b"HTTP/1.1 1xx OK", False),
        (b"HTTP/2.1 100 OK", False),
    ],
)
def test_interim_answers(line: bytes, *, informational: bool) -> None:
    """U17, U18: what only looks like an interim answer is no reason to wait for another one."""
    assert is_informational(answer(line=line)) == informational


@given(st.binary(max_size=200))
def test_garbage_of_an_upstream_is_refused_and_nothing_else_happens(garbage: bytes) -> None:
    with pytest.raises(UpstreamError):
        parse_response_head(b"\x00" + garbage + b"\r\n\r\n", LIMITS, method=b"POST")


RESPONSE_FIELD = st.tuples(
    st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Connection", b"X"]),
    st.lists(PIECES, max_size=4).map(b"".join),
).map(lambda pair: b"%b: %b" % pair)


@given(status=st.integers(0, 999), fields=st.lists(RESPONSE_FIELD, max_size=5))
def test_any_response_is_read_or_refused(status: int, fields: list[bytes]) -> None:
    raw = answer(*fields, line=b"HTTP/1.1 %03d X" % status)
    try:
        response = parse_response_head(raw[: raw.index(b"\r\n\r\n") + 4], LIMITS, method=b"GET")
    except UpstreamError:
        return
    assert 200 <= response.status <= 599
    assert response.content_length is None or response.content_length >= 0


LINE_PARTS = st.sampled_from(
    b"a|B-c|:| |\t|\r\n|\n|\x00|\x7f|\xe9|(|/|5|05|,|X: |chunked|Chunked|gzip|Content-Length|content-LENGTH: 5"
    b"|Transfer-Encoding: chunked".split(b"|")
)
STATUS_LINES = st.sampled_from(b"HTTP/1.1 200 OK|HTTP/1.1 404|HTTP/1.1 503 |HTTP/1.0 200 OK|HTTP/1.1 600 X".split(b"|"))


@pytest.mark.parametrize("raw", REFUSED_RESPONSES.values(), ids=REFUSED_RESPONSES)
def test_a_broken_response_is_never_plain(raw: bytes) -> None:
    oversized = len(raw) > LIMITS.upstream_head_bytes or raw.count(b"\n") > LIMITS.upstream_head_lines
    assert oversized or plain_fields(raw) is None


@given(
    line=STATUS_LINES,
    lines=st.lists(st.lists(LINE_PARTS, max_size=6).map(b"".join), max_size=5),
)
@example(line=b"HTTP/1.1 200 OK", lines=[b"Content-Type: text/plain", b"X:", b"Y: \t", b"Content-Length:5"])
@example(line=b"HTTP/1.1 200 OK", lines=[b"content-length: 5", b"a: content-length: 6", b"X: a b\tc"])
def test_what_is_read_at_once_is_what_h11_reads(line: bytes, lines: list[bytes]) -> None:
    raw = answer(*lines, line=line)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    at_once = plain_fields(raw)
    if at_once is not None:
        assert at_once == list(fields_by_h11(raw, LIMITS))


def test_the_answer_of_a_usual_server_is_plain() -> None:
    fields = [b"content-type: text/event-stream;charset=UTF-8", b"transfer-encoding: chunked", b"x-request-id: 1-2"]
    assert plain_fields(answer(*fields, b"date: Sat, 21 Nov 2026 10:00:00 GMT", b"vary: Origin, Accept")) is not None

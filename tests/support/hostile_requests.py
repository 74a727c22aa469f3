"""Requests that must be refused, by row of the fault matrix: heads with the code of the refusal, chunks."""

from __future__ import annotations

from qproxy.core.limits import Limits

LIMITS = Limits()
CONTROL_BYTES = [bytes([byte]) for byte in (*range(0x20), 0x7F) if byte != 0x09]


def head(*fields: bytes, line: bytes = b"POST /v1/x HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    lines = (line, *([host] if host is not None else []), *fields)
    return b"".join(each + b"\r\n" for each in lines) + b"\r\n"


REFUSED_REQUESTS: dict[str, tuple[bytes, str]] = {
    # C13, C14
    "C13 head too large": (head(b"X: " + b"a" * LIMITS.head_bytes), "headers_too_large"),
    "C13 too many lines": (head(*[b"X: a"] * LIMITS.head_lines), "headers_too_large"),
    "C14 target too long": (head(line=b"GET /" + b"a" * LIMITS.target_bytes + b" HTTP/1.1"), "target_too_long"),
    "C14 target longer than the whole head may be": (
        head(line=b"GET /" + b"a" * LIMITS.head_bytes + b" HTTP/1.1"),
        "target_too_long",
    ),
    # C18, C19, C20
    "C18 both lengths": (head(b"Content-Length: 1", b"Transfer-Encoding: chunked"), "ambiguous_length"),
    "C18 both lengths, other order": (head(b"transfer-encoding: chunked", b"CONTENT-LENGTH: 1"), "ambiguous_length"),
    "C19 equal lengths": (head(b"Content-Length: 1", b"Content-Length: 1"), "ambiguous_length"),
    "C19 unequal lengths": (head(b"Content-Length: 1", b"content-length: 2"), "ambiguous_length"),
    "C19 list": (head(b"Content-Length: 1, 1"), "ambiguous_length"),
    "C19 plus": (head(b"Content-Length: +1"), "ambiguous_length"),
    "C19 minus": (head(b"Content-Length: -1"), "ambiguous_length"),
    "C19 hex": (head(b"Content-Length: 0x1"), "ambiguous_length"),
    "C19 underscore": (head(b"Content-Length: 1_0"), "ambiguous_length"),
    "C19 tab": (head(b"Content-Length:\t1"), "ambiguous_length"),
    "C19 empty": (head(b"Content-Length: "), "ambiguous_length"),
    "C19 not ASCII digits": (head(b"Content-Length: \xd9\xa1"), "ambiguous_length"),
    "C19 nineteen digits": (head(b"Content-Length: " + b"1" * 19), "ambiguous_length"),
    "C19 thousands of digits": (head(b"Content-Length: " + b"1" * 5000), "ambiguous_length"),
    "C20 gzip": (head(b"Transfer-Encoding: gzip"), "unsupported_transfer_coding"),
    "C20 gzip, chunked": (head(b"Transfer-Encoding: gzip, chunked"), "unsupported_transfer_coding"),
    "C20 chunked twice": (head(b"Transfer-Encoding: chunked, chunked"), "unsupported_transfer_coding"),
    "C20 repeated": (head(*[b"Transfer-Encoding: chunked"] * 2), "unsupported_transfer_coding"),
    "C20 identity": (head(b"Transfer-Encoding: identity"), "unsupported_transfer_coding"),
    "C20 with a parameter": (head(b"Transfer-Encoding: chunked;a=b"), "unsupported_transfer_coding"),
    "C20 empty": (head(b"Transfer-Encoding:"), "unsupported_transfer_coding"),
    "C20 tab": (head(b"Transfer-Encoding: chunked\t"), "unsupported_transfer_coding"),
    "C20 vertical tab": (head(b"Transfer-Encoding: \x0bchunked"), "bad_header"),
    "C20 HTTP/1.0": (head(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), "ambiguous_length"),
    "C20 folded": (head(b"Transfer-Encoding:\r\n chunked"), "bad_header"),
    "C20 space before the colon": (head(b"Transfer-Encoding : chunked"), "bad_header"),
    # C21
    "C21 folded with a space": (head(b"X: a\r\n b"), "bad_header"),
    "C21 folded with a tab": (head(b"X: a\r\n\tb"), "bad_header"),
    "C21 folded first line": (head(b" X: a", host=None), "bad_header"),
    "C21 space before the colon": (head(b"X : a"), "bad_header"),
    "C21 tab before the colon": (head(b"X\t: a"), "bad_header"),
    "C21 empty name": (head(b": a"), "bad_header"),
    "C21 no colon": (head(b"nothing"), "bad_header"),
    "C21 name with a space": (head(b"a b: c"), "bad_header"),
    "C21 name with a bracket": (head(b"a(b): c"), "bad_header"),
    "C21 name not ASCII": (head("ä: c".encode()), "bad_header"),
    "C21 bare LF ends a line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "bad_header"),
    "C21 bare LF everywhere but at the end": (b"GET / HTTP/1.1\nHost: a\nX: b\r\n\r\n", "bad_header"),
    **{f"C21 {byte!r} in a value": (head(b"X: a" + byte + b"b"), "bad_header") for byte in CONTROL_BYTES},
    **{f"C21 {byte!r} in a name": (head(b"X" + byte + b"Y: b"), "bad_header") for byte in CONTROL_BYTES},
    # C23
    "C23 no Host": (head(host=None), "bad_header"),
    "C23 two Hosts": (head(b"Host: a"), "bad_header"),
    "C23 two Hosts on HTTP/1.0": (head(b"Host: a", line=b"GET / HTTP/1.0"), "bad_header"),
    "C23 empty Host": (head(host=b"Host:"), "invalid_host"),
    "C23 Host with a path": (head(host=b"Host: a/b"), "invalid_host"),
    "C23 Host with a user": (head(host=b"Host: u@a"), "invalid_host"),
    "C23 Host with a space": (head(host=b"Host: a b"), "invalid_host"),
    "C23 Host list": (head(host=b"Host: a, b"), "invalid_host"),
    "C23 Host with a bad port": (head(host=b"Host: a:b"), "invalid_host"),
    "C23 Host with a long port": (head(host=b"Host: a:123456"), "invalid_host"),
    "C23 Host is not ASCII": (head(host="Host: ä".encode()), "invalid_host"),
    "C23 Host with half a bracket": (head(host=b"Host: [::1"), "invalid_host"),
    # C25, C26, C27
    "C25 no method": (head(line=b" / HTTP/1.1"), "bad_request_line"),
    "C25 method with a bracket": (head(line=b"G(T / HTTP/1.1"), "bad_request_line"),
    "C25 method not ASCII": (head(line="GËT / HTTP/1.1".encode()), "bad_request_line"),
    "C25 method of 33 bytes": (head(line=b"G" * 33 + b" / HTTP/1.1"), "bad_request_line"),
    "C27 two spaces": (head(line=b"GET  / HTTP/1.1"), "bad_request_line"),
    "C27 space at the end": (head(line=b"GET / HTTP/1.1 "), "bad_request_line"),
    "C27 tab": (head(line=b"GET\t/ HTTP/1.1"), "bad_request_line"),
    "C27 space in the target": (head(line=b"GET /a b HTTP/1.1"), "bad_request_line"),
    "C27 target not ASCII": (head(line="GET /ä HTTP/1.1".encode()), "bad_request_line"),
    "C27 authority-form": (head(line=b"GET a:80 HTTP/1.1"), "bad_request_line"),
    "C27 asterisk": (head(line=b"GET * HTTP/1.1"), "bad_request_line"),
    "C27 asterisk with OPTIONS": (head(line=b"OPTIONS * HTTP/1.1"), "bad_request_line"),
    "C27 fragment": (head(line=b"GET /a#b HTTP/1.1"), "bad_request_line"),
    "C27 no slash": (head(line=b"GET v1/models HTTP/1.1"), "bad_request_line"),
    "C27 no target": (head(line=b"GET HTTP/1.1"), "bad_request_line"),
    "C26 another scheme": (head(line=b"GET ftp://a/ HTTP/1.1"), "bad_request_line"),
    "C26 no authority": (head(line=b"GET http:///a HTTP/1.1"), "invalid_host"),
    "C26 authority with a user": (head(line=b"GET http://u:p@a/ HTTP/1.1"), "invalid_host"),
    # C12, C29
    "C12 unknown expectation": (head(b"Expect: 200-ok"), "expectation_failed"),
    "C12 two expectations": (head(b"Expect: 100-continue", b"Expect: 100-continue"), "expectation_failed"),
    "C12 empty expectation": (head(b"Expect:"), "expectation_failed"),
    "C29 HTTP/0.9": (b"GET /\r\n\r\n", "bad_request_line"),
    "C29 HTTP/0.9 with a version": (head(line=b"GET / HTTP/0.9"), "http_version"),
    "C29 HTTP/1.2": (head(line=b"GET / HTTP/1.2"), "http_version"),
    "C29 HTTP/2.0": (head(line=b"GET / HTTP/2.0"), "http_version"),
    "C29 two digits": (head(line=b"GET / HTTP/1.10"), "bad_request_line"),
    "C29 lower case": (head(line=b"GET / http/1.1"), "bad_request_line"),
    "C29 h2 preface": (b"PRI * HTTP/2.0\r\n\r\n", "http_version"),
    # Fields that must be single.
    "two Authorization": (head(b"Authorization: Bearer a", b"authorization: Bearer b"), "bad_header"),
    "two X-API-Key": (head(b"X-API-Key: a", b"X-API-Key: a"), "bad_header"),
    "two Content-Type": (head(b"Content-Type: application/json", b"Content-Type: text/plain"), "bad_header"),
    "two Origin": (head(b"Origin: http://a", b"Origin: http://b"), "bad_header"),
}

BROKEN_CHUNKS: dict[str, bytes] = {
    "C16 plus": b"+1\r\n1\r\n",
    "C16 minus": b"-1\r\n1\r\n",
    "C16 0x": b"0x1\r\n1\r\n",
    "C16 underscore": b"1_0\r\n1\r\n",
    "C16 space before": b" 1\r\n1\r\n",
    "C16 empty": b"\r\n1\r\n",
    "C16 17 digits": b"00000000000000001\r\n1\r\n",
    "C16 2**64": b"FFFFFFFFFFFFFFFFF\r\n1\r\n",
    "C16 wrong end": b"1\r\n1}\r\n",
    "C16 bare LF behind the size": b"1\n1\r\n",
    "C16 bare LF behind the payload": b"1\r\n1\n0\r\n\r\n",
    "C16 bare LF in an extension": b"1;a\nb\r\n1\r\n",
    "C16 bare CR in an extension": b"1;a\rb\r\n1\r\n",
    "C16 NUL in an extension": b"1;\x00\r\n1\r\n",
    "C16 LF LF as the last chunk": b"0\n\n",
    "C17 huge extension": b"1;" + b"x" * 300,
    "C17 huge extensions": (b"1;" + b"x" * 200 + b"\r\n1\r\n") * 500,
    "C17 one-byte chunks": b"1\r\n1\r\n" * 20_000,
    "C32 trailer without a colon": b"0\r\nnothing\r\n\r\n",
    "C32 endless trailers": b"0\r\n" + b"a: b\r\n" * 2000,
}
"""What stands behind a good chunk in a body that must be refused."""

"""HTTP/1.1 heads: bytes in, a checked head out. h11 parses; what h11 lets pass and RFC 9112 forbids is refused here.

Only heads come this way. A head is the bytes up to and including the empty line; the caller finds it in its own buffer,
so that not one byte of a body is ever given to h11 and has to be taken back. The matrix of what is refused stands in
`faults.md` sections 4.1 (requests), 4.2 (responses) and 5 (what h11 accepts).

A request that breaks a rule is a DownstreamError that closes the connection; nothing of it is sent on.
A response that breaks a rule is an UpstreamError `upstream_protocol_error`; nothing of it reaches the client.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus

import h11

from qproxy.core.headers import FORWARDED, REQUEST_RULES, RESPONSE_RULES, RawHeaders, Rule, connection_options
from qproxy.core.limits import Limits
from qproxy.errors import DownstreamError, QProxyError, UpstreamError

HEAD_END = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
# RFC 9110 5.6.3 allows tabs too; nginx takes them for a part of the value, and reads another length.
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,18}) *\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r\n")
_INTERIM_LINE = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9][ \r]")
# A response head in the shape that nearly all have: what matches has for h11 the fields that `_PLAIN_FIELD` finds.
_FIELD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[ \t]*+(?:[!-~]++(?:[ \t]++[!-~]++)*+)?"
_PLAIN_HEAD = re.compile(rb"HTTP/1\.1 [2-5][0-9][0-9](?: [ -~]*+)?(?:\r\n" + _FIELD + rb")*+\r\n\r\n")
_PLAIN_FIELD = re.compile(rb"\r\n([^\r\n:]++):[ \t]*+([^\r\n]*+)")
_PLAIN_FRAMING = re.compile(
    rb"\r\n(?:(?i:content-length):[ \t]*+[0-9]{1,18}|(?i:transfer-encoding):[ \t]*+chunked)(?=\r\n)"
)
# The first byte of a request line; CR too, since an empty line may come before it (RFC 9112 2.2).
_FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\r")
_LINE_FRAME_BYTES = 48  # what a request line may have beside its target
# Everything but the control characters: HTAB, SP, VCHAR, obs-text, and the CR LF that are counted apart.
_ALLOWED = bytes([0x09, 0x0A, 0x0D, *range(0x20, 0x7F), *range(0x80, 0x100)])

STATUS_LINES: dict[int, bytes] = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, next((s.phrase.encode() for s in HTTPStatus if s == status), b""))
    for status in range(200, 600)
}


class RequestHead:
    """A checked request head. Header attributes are the field's value, None where it is absent.

    `path` and `query` are the target's raw parts (`query` without the question mark). `authority` is the Host field or,
    with an absolute-form target, that one's (RFC 9112 3.2.2). `passed` are the fields that may go on, as they came.
    `content_length` is None for a chunked body and 0 where there is none. `is_forwarded`: a field names somebody behind
    the peer.
    """

    __slots__ = (
        "accept_encoding", "authority", "authorization", "chunked", "content_encoding", "content_length",
        "content_type", "expects_continue", "http_10", "is_forwarded", "keep_alive", "method", "named_account",
        "origin", "passed", "path", "pinned_upstream", "query", "request_headers", "request_method", "user_agent",
        "x_api_key",
    )  # fmt: skip

    def __init__(self, method: bytes, path: bytes, query: bytes, *, http_10: bool) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.http_10 = http_10
        self.passed: RawHeaders = []
        self.authority: bytes | None = None
        self.authorization: bytes | None = None
        self.x_api_key: bytes | None = None
        self.origin: bytes | None = None
        self.user_agent: bytes | None = None
        self.content_type: bytes | None = None
        self.content_encoding: bytes | None = None
        self.accept_encoding: bytes | None = None
        self.request_method: bytes | None = None
        self.request_headers: bytes | None = None
        self.pinned_upstream: bytes | None = None
        self.named_account: bytes | None = None
        self.content_length: int | None = 0
        self.chunked = False
        self.keep_alive = not http_10
        self.expects_continue = False
        self.is_forwarded = False

    @property
    def host(self) -> bytes | None:
        """The authority that the client believes it is talking to."""
        return self.authority

    @property
    def has_body(self) -> bool:
        return self.content_length != 0

    def with_length(self, length: int) -> RequestHead:
        """The same head in front of a body of another length. Its fields are shared: nobody changes a parsed head."""
        # Line by line, once a request: a loop over the names takes ten times as long. A test knows all names.
        head = RequestHead.__new__(RequestHead)
        head.method = self.method
        head.path = self.path
        head.query = self.query
        head.http_10 = self.http_10
        head.passed = self.passed
        head.authority = self.authority
        head.authorization = self.authorization
        head.x_api_key = self.x_api_key
        head.origin = self.origin
        head.user_agent = self.user_agent
        head.content_type = self.content_type
        head.content_encoding = self.content_encoding
        head.accept_encoding = self.accept_encoding
        head.request_method = self.request_method
        head.request_headers = self.request_headers
        head.pinned_upstream = self.pinned_upstream
        head.named_account = self.named_account
        head.content_length = length
        head.chunked = self.chunked
        head.keep_alive = self.keep_alive
        head.expects_continue = self.expects_continue
        head.is_forwarded = self.is_forwarded
        return head


def check_begun_head(begun: bytes, limits: Limits) -> None:
    """Refuse a head that no further byte can mend, so that the answer is the same however its bytes are split."""
    _check_size(begun, limits)
    if begun.count(b"\n") != begun.count(b"\r\n"):
        raise _bad_header("Lines of a head must end with CR LF.")


def _check_size(begun: bytes, limits: Limits) -> None:
    if begun and begun[0] not in _FIRST_BYTES:
        raise DownstreamError("bad_request_line", "This port speaks plain HTTP/1.1.")
    line_bytes = limits.target_bytes + _LINE_FRAME_BYTES
    if len(begun) > line_bytes and begun.find(b"\n", 0, line_bytes + 1) < 0:
        raise target_too_long(limits)
    if len(begun) > limits.head_bytes or begun.count(b"\n") - 2 > limits.head_lines:
        raise headers_too_large(limits)


def parse_request_head(raw: bytes, limits: Limits) -> RequestHead:
    """`raw` ends with the empty line. Raises DownstreamError; every code it uses closes the connection."""
    _check_size(raw, limits)
    lowered = _check_bytes(raw, _bad_header)
    head = _request_line(raw, limits)
    _check_request_framing(lowered, head)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes + 1)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        if exc.error_status_hint == 501:
            raise DownstreamError(
                "unsupported_transfer_coding", "Only 'Transfer-Encoding: chunked' is understood."
            ) from exc
        raise _bad_header("The request head is not valid HTTP/1.1.") from exc
    if type(event) is not h11.Request:
        raise _bad_header("The request head is not valid HTTP/1.1.")
    _take_request_fields(head, event.headers.raw_items())
    return head


def headers_too_large(limits: Limits) -> DownstreamError:
    return DownstreamError(
        "headers_too_large",
        f"The request head may have {limits.head_bytes} bytes and {limits.head_lines} fields at most.",
    )


def target_too_long(limits: Limits) -> DownstreamError:
    return DownstreamError("target_too_long", f"The request target may have {limits.target_bytes} bytes at most.")


def _bad_header(message: str) -> DownstreamError:
    return DownstreamError("bad_header", message)


def _broken_response(message: str) -> UpstreamError:
    return UpstreamError("upstream_protocol_error", message)


def _check_bytes(raw: bytes, refuse: Callable[[str], QProxyError]) -> bytes:
    """The head in lower case, after the checks that concern bytes and not meaning."""
    lines = raw.count(b"\r\n")
    if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
        raise refuse("Lines of a head must end with CR LF.")
    if raw.translate(None, _ALLOWED):
        raise refuse("A head must not contain control characters.")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise refuse("Folded header lines are not accepted.")
    return raw.lower()


def _request_line(raw: bytes, limits: Limits) -> RequestHead:
    match = _REQUEST_LINE.fullmatch(raw, 0, raw.find(b"\r\n"))
    if match is None:
        raise DownstreamError("bad_request_line", "The first line must be 'METHOD /path HTTP/1.1'.")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise DownstreamError("http_version", "This server speaks HTTP/1.1 and HTTP/1.0.")
    if len(target) > limits.target_bytes:
        raise target_too_long(limits)
    if b"#" in target:
        raise DownstreamError("bad_request_line", "A request target has no fragment.")
    authority = None
    if not target.startswith(b"/"):
        authority, target = _absolute_form(method, target)
    path, _, query = target.partition(b"?")
    head = RequestHead(method, path, query, http_10=minor == b"0")
    head.authority = authority
    return head


def _absolute_form(method: bytes, target: bytes) -> tuple[bytes | None, bytes]:
    if method == b"CONNECT":
        return None, b"/"  # the route table answers 405: no row has this method
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise DownstreamError("bad_request_line", "The request target must be a path such as /v1/chat/completions.")
    authority, rest = match.groups()
    if not _AUTHORITY.fullmatch(authority):
        raise DownstreamError("invalid_host", "The authority of the request target is not a valid host.")
    return authority, rest if rest.startswith(b"/") else b"/" + rest


def _check_request_framing(lowered: bytes, head: RequestHead) -> None:
    """Body length as RFC 9112 6.3 has it, refusing everything that two parsers could read in two ways."""
    lengths = lowered.count(b"\r\ncontent-length:")
    codings = lowered.count(b"\r\ntransfer-encoding:")
    if codings:
        _check_codings(lowered, head, codings, lengths)
        head.chunked = True
        head.content_length = None
    elif lengths:
        match = _CONTENT_LENGTH.search(lowered)
        if lengths > 1 or match is None:
            raise DownstreamError("ambiguous_length", "Content-Length must stand once, as a plain decimal number.")
        head.content_length = int(match[1])


def _check_codings(lowered: bytes, head: RequestHead, codings: int, lengths: int) -> None:
    if lengths:
        raise DownstreamError("ambiguous_length", "Content-Length and Transfer-Encoding must not be sent together.")
    if head.http_10:
        raise DownstreamError("ambiguous_length", "HTTP/1.0 has no Transfer-Encoding.")
    start = lowered.index(b"\r\ntransfer-encoding:") + 20
    value = lowered[start : lowered.index(b"\r\n", start)].strip(b" ")  # as _CONTENT_LENGTH
    if codings > 1 or value != b"chunked":
        raise DownstreamError("unsupported_transfer_coding", "Only 'Transfer-Encoding: chunked' is understood, once.")


def _take_request_fields(head: RequestHead, fields: RawHeaders) -> None:
    """The one walk over the fields."""
    kept: dict[bytes, bytes] = {}
    passed = head.passed
    rules = REQUEST_RULES
    for field in fields:
        name = field[0].lower()
        rule = rules.get(name)
        if rule is None:
            if b"_" not in name:  # gateways that map names to variables would read x_api_key as x-api-key
                passed.append(field)
                if name == b"content-type":
                    head.content_type = _only(name, head.content_type, field[1])
                elif name == b"content-encoding":
                    head.content_encoding = _only(name, head.content_encoding, field[1])
        elif rule is Rule.DROP:
            head.is_forwarded |= name in FORWARDED
        elif name not in kept:
            kept[name] = field[1]
        elif rule is Rule.SINGLE:
            raise _repeated(name)
        else:
            kept[name] += b", " + field[1]
    _set_fields(head, kept)
    options = kept.get(b"connection")
    if options is not None:
        _apply_connection(head, options)


def _only(name: bytes, before: bytes | None, value: bytes) -> bytes:
    if before is not None:
        raise _repeated(name)
    return value


def _repeated(name: bytes) -> DownstreamError:
    if name == b"host":
        return DownstreamError("invalid_host", "Host must not be repeated.")
    return _bad_header(f"{name.decode()} must not be repeated.")


def _set_fields(head: RequestHead, kept: dict[bytes, bytes]) -> None:
    get = kept.get
    host = get(b"host")
    if host is not None and not _AUTHORITY.fullmatch(host):
        raise DownstreamError("invalid_host", "The Host field is not a valid host.")
    if head.authority is None:
        head.authority = host
    head.authorization = get(b"authorization")
    head.x_api_key = get(b"x-api-key")
    head.origin = get(b"origin")
    head.user_agent = get(b"user-agent")
    head.accept_encoding = get(b"accept-encoding")
    head.request_method = get(b"access-control-request-method")
    head.request_headers = get(b"access-control-request-headers")
    head.pinned_upstream = get(b"x-qproxy-upstream")
    head.named_account = get(b"x-qwen-account")
    expect = get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise DownstreamError("expectation_failed", "The only expectation understood is 100-continue.")
        head.expects_continue = not head.http_10


def _apply_connection(head: RequestHead, value: bytes) -> None:
    options = connection_options(value)
    head.keep_alive = b"keep-alive" in options if head.http_10 else b"close" not in options
    named = options - {b"close", b"keep-alive"}
    if named:
        head.passed = [field for field in head.passed if field[0].lower() not in named]


class ResponseHead:
    """A checked response head.

    `content_length` is None where the body is chunked or ends with the connection. `bodyless`: no length is announced
    either (HEAD, 204, 304). `reusable`: the connection may serve another request once the body was read to its end.
    """

    __slots__ = (
        "bodyless", "cache_control", "chunked", "content_length", "content_type", "has_request_id", "passed", "raw",
        "reusable", "status",
    )  # fmt: skip

    def __init__(self, status: int, raw: RawHeaders) -> None:
        self.status = status
        self.raw = raw
        self.passed: RawHeaders = []
        self.content_type = b""
        self.cache_control: bytes | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.reusable = True
        self.has_request_id = False
        self.bodyless = False

    @property
    def is_stream(self) -> bool:
        return self.content_type.startswith(b"text/event-stream")

    @property
    def is_packed(self) -> bool:
        """Whether nobody but the client can read the body, although it was not to be compressed (`faults.md` U31)."""
        return any(name.lower() == b"content-encoding" for name, _ in self.passed)


def is_informational(raw: bytes) -> bool:
    """True for 1xx heads other than 101 (which is an answer to an upgrade that was never asked for)."""
    return _INTERIM_LINE.match(raw) is not None


def parse_response_head(raw: bytes, limits: Limits, *, method: bytes) -> ResponseHead:
    """`raw` ends with the empty line; `method` is the request's, since HEAD has no body. Raises UpstreamError."""
    if len(raw) > limits.upstream_head_bytes or raw.count(b"\n") - 2 > limits.upstream_head_lines:
        raise _broken_response("The upstream sent an oversized response head.")
    fields = plain_fields(raw)
    if fields is None:
        fields = fields_by_h11(raw, limits)
    head = ResponseHead(int(raw[9:12]), fields)
    options = _take_response_fields(head)
    _apply_response_framing(head, method)
    if raw.startswith(b"HTTP/1.0"):
        head.reusable = b"keep-alive" in options and head.reusable
    elif b"close" in options:
        head.reusable = False
    return head


def plain_fields(raw: bytes) -> RawHeaders | None:
    """The fields of a response head without any oddity, as h11 would find them; None: ask h11.

    Most of h11's time goes into checks of single lines and into objects (`docs/explanation/performance.md`): two
    expressions do the same for a whole head. Line ends in fields, a second framing field or other codings, obs-text,
    and white space at a line's end are h11's to judge.
    """
    if not _PLAIN_HEAD.fullmatch(raw):
        return None
    lowered = raw.lower()
    framing = lowered.count(b"\r\ncontent-length:") + lowered.count(b"\r\ntransfer-encoding:")
    if framing > 1 or (framing and not _PLAIN_FRAMING.search(raw)):
        return None
    return _PLAIN_FIELD.findall(raw)


def fields_by_h11(raw: bytes, limits: Limits) -> RawHeaders:
    """The fields of any response head. Raises UpstreamError `upstream_protocol_error`."""
    _check_bytes(raw, lambda _message: _broken_response("The upstream sent a malformed response head."))
    match = _STATUS_LINE.match(raw)
    if match is None or match[1].startswith(b"1"):
        raise _broken_response("The upstream did not answer in HTTP/1.1.")
    # A client-side connection that has sent nothing yet reads a response as well: servers may answer early (408).
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.upstream_head_bytes + 1)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise _broken_response("The upstream sent a malformed response head.") from exc
    if type(event) is not h11.Response:
        raise _broken_response("The upstream sent a malformed response head.")
    return event.headers.raw_items()


def _take_response_fields(head: ResponseHead) -> frozenset[bytes]:
    passed = head.passed
    rules = RESPONSE_RULES
    connection: bytes | None = None
    for field in head.raw:
        name = field[0].lower()
        rule = rules.get(name)
        if rule is None:
            passed.append(field)
            if name == b"content-type":
                head.content_type = field[1].lower()
            elif name == b"x-request-id":
                head.has_request_id = True
        elif name == b"content-length":
            head.content_length = int(field[1])  # h11 has merged equal ones and refused unequal ones
        elif name == b"transfer-encoding":
            head.chunked = True  # h11 refuses every other coding
        elif name == b"connection":
            connection = field[1] if connection is None else connection + b"," + field[1]
        elif name == b"cache-control":
            head.cache_control = field[1]
    if connection is None:
        return frozenset()
    options = connection_options(connection)
    named = options - {b"close", b"keep-alive"}
    if named:
        head.passed = [field for field in passed if field[0].lower() not in named]
    return options


def _apply_response_framing(head: ResponseHead, method: bytes) -> None:
    """RFC 9112 6.3, for the side that reads: no body; chunked wins over a length; a length; the connection's end."""
    if method == b"HEAD" or head.status in (204, 304):
        head.bodyless = True
        head.chunked = False
        head.content_length = 0
    elif head.chunked:
        if head.content_length is not None:
            head.content_length = None
            head.reusable = False
    elif head.content_length is None:
        head.reusable = False

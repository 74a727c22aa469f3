"""The heads that we write, in both directions, from values that were checked when they came in.

Written by hand: h11's serialiser costs 33 microseconds a head and would check again what it has just parsed.
"""

from __future__ import annotations

from collections.abc import Sequence

from qproxy.core.http1 import STATUS_LINES, RequestHead, ResponseHead
from qproxy.core.local import LocalAnswer
from qproxy.core.upstream import BaseUrl, Credential, Upstream

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"  # only HTTP/1.0 clients need to be told
CHUNKED = b"Transfer-Encoding: chunked\r\n"
STREAM_FIELDS = b"X-Accel-Buffering: no\r\nCache-Control: no-cache, no-transform\r\n"
IDENTITY = b"Accept-Encoding: identity\r\n"


def content_length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


def field_lines(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class UpstreamFace:
    """What every request to one upstream with one credential has in common, made once."""

    __slots__ = ("_lines", "_own_names", "base", "credential", "forward_user_agent")

    def __init__(self, upstream: Upstream, credential: Credential, base: BaseUrl, user_agent: bytes) -> None:
        self.base = base
        self.credential = credential
        self.forward_user_agent = upstream.forward_user_agent
        self._own_names = frozenset(name.lower() for name, _ in upstream.headers)
        lines = [(b"Host", base.authority.encode()), *upstream.headers]
        if credential.authorization:
            lines.append((b"Authorization", credential.authorization))
        if not upstream.forward_user_agent and b"user-agent" not in self._own_names:
            lines.append((b"User-Agent", user_agent))
        self._lines = field_lines(lines)

    def head(self, method: bytes, path: bytes, query: bytes, client: RequestHead, framing: bytes) -> bytes:
        """The request head; `framing` are the finished lines of length and encoding."""
        target = self.base.path.encode() + path
        if query:
            target += b"?" + query
        passed = client.passed
        if self._own_names:
            passed = [field for field in passed if field[0].lower() not in self._own_names]
        if self.forward_user_agent and client.user_agent is not None:
            framing = b"User-Agent: %b\r\n%b" % (client.user_agent, framing)
        return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (method, target, self._lines, field_lines(passed), framing)


def response_head(head: ResponseHead, *, framing: bytes, own: bytes) -> bytes:
    """The head of a relayed response; `framing` and `own` are finished lines."""
    if head.is_stream:
        own += STREAM_FIELDS
    elif head.cache_control is not None:
        own += b"Cache-Control: %b\r\n" % head.cache_control
    return b"%b%b%b%b\r\n" % (STATUS_LINES[head.status], field_lines(head.passed), framing, own)


def stream_head(own: bytes) -> bytes:
    """The head of a stream that begins before the upstream's has come; `own` are finished lines."""
    return b"%bContent-Type: text/event-stream\r\n%b%b%b\r\n" % (STATUS_LINES[200], CHUNKED, own, STREAM_FIELDS)


def attempts_line(attempts: int) -> bytes:
    """Says how often a request was sent, where that was more than once."""
    return b"X-Qproxy-Attempts: %d\r\n" % attempts if attempts > 1 else b""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def local_response(answer: LocalAnswer, *, method: bytes, own: bytes) -> bytes:
    """A whole response of our own; `own` are finished lines."""
    length = b"" if answer.status == 204 else content_length(len(answer.body))
    head = b"%b%b%b%b\r\n" % (STATUS_LINES[answer.status], field_lines(answer.headers), length, own)
    return head if method == b"HEAD" else head + answer.body

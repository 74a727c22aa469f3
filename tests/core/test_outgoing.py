"""The heads that are written, read back by h11."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core import outgoing
from qproxy.core.http1 import STATUS_LINES, RequestHead, ResponseHead, parse_request_head, parse_response_head
from qproxy.core.limits import Limits
from qproxy.core.local import LocalAnswer
from qproxy.core.outgoing import UpstreamFace
from qproxy.core.upstream import BaseUrl, Credential, Upstream

LIMITS = Limits()
SECRET = "sk-canary-1"


def request(*fields: bytes) -> RequestHead:
    raw = b"\r\n".join([b"POST /v1/chat/completions?a=b HTTP/1.1", b"Host: client.example", *fields, b"", b""])
    return parse_request_head(raw, LIMITS)


def face(
    base: str = "http://up.example:8000/v1",
    *,
    secret: str = SECRET,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    forward_user_agent: bool = False,
) -> UpstreamFace:
    url = BaseUrl.parse(base)
    upstream = Upstream("up", "openai", url, headers=headers, forward_user_agent=forward_user_agent)
    return UpstreamFace(upstream, Credential(secret), url, b"qproxy/1")


def read_request(raw: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert connection.trailing_data[0] == b""
    return event


def read_response(raw: bytes) -> tuple[h11.Response, bytes]:
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    return event, connection.trailing_data[0]


def sent(client: RequestHead, chosen: UpstreamFace, framing: bytes = b"") -> h11.Request:
    return read_request(chosen.head(b"POST", b"/chat/completions", client.query, client, framing))


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def test_a_request_as_the_upstream_reads_it() -> None:
    client = request(b"Content-Type: application/json", b"X-Custom: 1", b"Authorization: Bearer client-key", b"TE: x")
    event = sent(client, face(), outgoing.content_length(7) + outgoing.IDENTITY)
    assert (event.method, event.target, event.http_version) == (b"POST", b"/v1/chat/completions?a=b", b"1.1")
    assert list(event.headers) == [
        (b"host", b"up.example:8000"),
        (b"authorization", b"Bearer " + SECRET.encode()),
        (b"user-agent", b"qproxy/1"),
        (b"content-type", b"application/json"),
        (b"x-custom", b"1"),
        (b"content-length", b"7"),
        (b"accept-encoding", b"identity"),
    ]


def test_without_a_key_nothing_is_made_up_and_the_clients_own_goes_no_further() -> None:
    event = sent(request(b"Authorization: Bearer client-key", b"X-API-Key: k", b"Cookie: a=b"), face(secret=""))
    assert [name for name, _ in event.headers] == [b"host", b"user-agent"]


def test_an_upstreams_own_headers_win_over_the_clients() -> None:
    chosen = face(headers=((b"X-Plan", b"mine"), (b"User-Agent", b"own/1")))
    event = sent(request(b"x-plan: theirs", b"X-Other: 2", b"User-Agent: curl"), chosen)
    assert values(event.headers, b"x-plan") == [b"mine"]
    assert values(event.headers, b"user-agent") == [b"own/1"]
    assert values(event.headers, b"x-other") == [b"2"]


@pytest.mark.parametrize(("fields", "agents"), [([b"User-Agent: sdk/1"], [b"sdk/1"]), ([], [])])
def test_the_clients_user_agent_is_forwarded_where_that_is_set(fields: list[bytes], agents: list[bytes]) -> None:
    event = sent(request(*fields), face(forward_user_agent=True))
    assert values(event.headers, b"user-agent") == agents


@pytest.mark.parametrize(
    ("base", "host", "target"),
    [
        ("https://up.example/compatible-mode/v1/", b"up.example", b"/compatible-mode/v1/chat/completions?a=b"),
        ("https://up.example:444", b"up.example:444", b"/chat/completions?a=b"),
        ("http://[::1]:9/v1", b"[::1]:9", b"/v1/chat/completions?a=b"),
        ("http+unix:///run/model.sock", b"localhost", b"/v1/chat/completions?a=b"),
    ],
)
def test_where_a_request_goes(base: str, host: bytes, target: bytes) -> None:
    event = sent(request(), face(base))
    assert (values(event.headers, b"host"), event.target) == ([host], target)


def test_a_face_does_not_show_its_secret() -> None:
    assert SECRET not in repr(face())
    assert SECRET not in repr(Credential(SECRET))


TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=12).map(
    lambda name: b"X-T-" + name.encode()
)
VALUE = st.binary(max_size=20).map(lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F).strip())


@given(st.lists(st.tuples(TOKEN, VALUE), max_size=8))
def test_fields_pass_in_their_order_and_spelling(fields: list[tuple[bytes, bytes]]) -> None:
    client = request(*(b"%b: %b" % field for field in fields))
    event = sent(client, face(), outgoing.CHUNKED)
    assert [field for field in event.headers.raw_items() if field[0].startswith(b"X-T-")] == fields


def answered(*fields: bytes, status: int = 200) -> ResponseHead:
    raw = b"\r\n".join([b"HTTP/1.1 %d Whatever" % status, *fields, b"", b""])
    return parse_response_head(raw, LIMITS, method=b"POST")


def test_a_response_as_the_client_reads_it() -> None:
    response = answered(
        b"Content-Type: application/json", b"Content-Length: 5", b"Cache-Control: max-age=1", b"Set-Cookie: a=b"
    )
    raw = outgoing.response_head(response, framing=outgoing.content_length(5), own=b"x-request-id: r\r\n")
    event, rest = read_response(raw)
    assert (event.status_code, event.reason, rest) == (200, b"OK", b"")
    assert list(event.headers) == [
        (b"content-type", b"application/json"),
        (b"content-length", b"5"),
        (b"x-request-id", b"r"),
        (b"cache-control", b"max-age=1"),
    ]


def test_a_stream_is_not_to_be_buffered_on_its_way() -> None:
    response = answered(b"Content-Type: text/event-stream", b"Transfer-Encoding: chunked", b"Cache-Control: max-age=1")
    event, _ = read_response(outgoing.response_head(response, framing=outgoing.CHUNKED, own=outgoing.CLOSE))
    assert values(event.headers, b"x-accel-buffering") == [b"no"]
    assert values(event.headers, b"cache-control") == [b"no-cache, no-transform"]
    assert values(event.headers, b"transfer-encoding") == [b"chunked"]
    assert values(event.headers, b"connection") == [b"close"]


@pytest.mark.parametrize("status", sorted(STATUS_LINES))
def test_every_status_has_a_line(status: int) -> None:
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(STATUS_LINES[status] + b"\r\n")
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == status


ANSWER = LocalAnswer(404, ((b"content-type", b"application/json"), (b"allow", b"GET")), b"{}")


def test_an_answer_of_our_own() -> None:
    raw = outgoing.local_response(ANSWER, method=b"POST", own=b"x-request-id: r\r\n")
    event, rest = read_response(raw)
    assert (event.status_code, rest) == (404, b"{}")
    assert values(event.headers, b"content-length") == [b"2"]
    assert values(event.headers, b"allow") == [b"GET"]
    assert values(event.headers, b"x-request-id") == [b"r"]


def test_an_answer_to_head_announces_a_body_and_has_none() -> None:
    event, rest = read_response(outgoing.local_response(ANSWER, method=b"HEAD", own=b""))
    assert (values(event.headers, b"content-length"), rest) == ([b"2"], b"")


def test_no_content_has_no_length() -> None:
    """RFC 9110 8.6."""
    raw = outgoing.local_response(LocalAnswer(204, ((b"allow", b"GET"),), b""), method=b"OPTIONS", own=b"")
    assert values(read_response(raw)[0].headers, b"content-length") == []


def test_the_interim_answer() -> None:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Expect", "100-continue")]))
    connection.receive_data(outgoing.CONTINUE)
    event = connection.next_event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 100

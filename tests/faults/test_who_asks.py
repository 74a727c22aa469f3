"""Requests that are answered before their body is wanted: foreign hosts and pages, too much announced.

And fields that a client would like to have dropped on the way.
"""

from __future__ import annotations

import orjson
import pytest

from tests.hostile.conftest import guarded, recording
from tests.support.raw_client import Answer, End, post, raw_client, request_head

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
GOOD = b'{"model":"m"}'
JSON = b"Content-Type: application/json"
FOREIGN_HOSTS = [
    b"evil.example",
    b"EVIL.example:8080",
    b"localhost.evil.example",
    b"127.0.0.1.evil.example",
    b"10.0.0.1",
    b"[2001:db8::1]:80",
    b"0.0.0.0",
]
FOREIGN_ORIGINS = [
    b"https://page.example",
    b"http://localhost.evil.example",
    b"null",
    b"file://",
    b"http://10.0.0.1",
    b"http://user@localhost",
]


def for_host(request: bytes, host: bytes) -> bytes:
    return request.replace(b"Host: localhost\r\n", b"Host: " + host + b"\r\n", 1)


def assert_closing_refusal(answer: Answer, code: str) -> None:
    assert (answer.status, answer.error_code, answer.end) == (403, code, End.WHOLE)
    assert (answer.header(b"connection"), answer.header(b"x-should-retry")) == (b"close", b"false")
    assert not [name for name, _ in answer.headers if name.startswith(b"access-control")]
    assert orjson.loads(bytes(answer.body))["error"]["type"] == "permission_error"


class TestWithoutAKey:
    """C24: any page in a browser on this machine can reach us; its Host or its Origin gives it away."""

    @pytest.mark.parametrize("host", FOREIGN_HOSTS)
    @pytest.mark.parametrize("what", ["chat", "upload", "models", "health"])
    async def test_a_foreign_host(self, host: bytes, what: str) -> None:
        request = {
            "chat": post(CHAT, GOOD),
            "upload": post("/v1/files", b"x" * 10),
            "models": request_head("GET", "/v1/models"),
            "health": request_head("GET", "/health"),
        }[what]
        async with recording() as recorder, guarded(recorder.url) as proxy, raw_client(proxy.url) as client:
            assert_closing_refusal(await client.ask(for_host(request, host)), "host_not_allowed")
            assert await client.closed() == b""
            assert recorder.received_bytes == 0

    @pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
    @pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
    async def test_a_foreign_page(self, origin: bytes, method: str) -> None:
        """The last one is its browser, which asks before it sends."""
        line = b"Origin: " + origin
        request = {
            "POST": post(CHAT, GOOD, line),
            "GET": request_head("GET", "/v1/models", line),
            "OPTIONS": request_head("OPTIONS", CHAT, line, b"Access-Control-Request-Method: POST"),
        }[method]
        async with recording() as recorder, guarded(recorder.url) as proxy, raw_client(proxy.url) as client:
            assert_closing_refusal(await client.ask(request), "origin_not_allowed")
            assert await client.closed() == b""
            assert recorder.received_bytes == 0

    async def test_a_page_that_has_its_own_name_lead_here(self) -> None:
        """Host and Origin agree then: the Host alone tells."""
        request = for_host(post(CHAT, GOOD, b"Origin: http://evil.example:8080"), b"evil.example:8080")
        async with recording() as recorder, guarded(recorder.url) as proxy, raw_client(proxy.url) as client:
            assert_closing_refusal(await client.ask(request), "host_not_allowed")
            assert recorder.received_bytes == 0

    async def test_an_allowed_host(self) -> None:
        async with recording() as recorder, guarded(recorder.url, allowed_hosts=("proxy.example",)) as proxy:
            for host, status in ((b"proxy.example", 200), (b"Proxy.Example:99", 200), (b"other.example", 403)):
                async with raw_client(proxy.url) as client:
                    assert (await client.ask(for_host(post(CHAT, GOOD), host))).status == status


async def test_with_a_key_the_host_does_not_matter() -> None:
    async with recording() as recorder, guarded(recorder.url, api_keys=("k",)) as proxy:
        async with raw_client(proxy.url) as client:
            request = post(CHAT, GOOD, b"Authorization: Bearer k", b"Origin: https://page.example")
            answer = await client.ask(for_host(request, b"models.example"))
            assert answer.status == 200
            assert not answer.header(b"access-control-allow-origin")


class TestTooMuchAnnounced:
    """C11, C15: whoever asks first is not invited to send what is refused."""

    @pytest.mark.parametrize("path", [CHAT, "/v1/files"])
    @pytest.mark.parametrize("inspect_bytes", [10, 1 << 20])
    async def test_it_is_refused_and_not_invited(self, path: str, inspect_bytes: int) -> None:
        limits = {"body_bytes": 1000, "inspect_bytes": inspect_bytes}
        request = request_head("POST", path, JSON, b"Expect: 100-continue", b"Content-Length: 1001")
        async with recording() as recorder, guarded(recorder.url, limits=limits) as proxy:
            async with raw_client(proxy.url) as client:
                answer = await client.ask(request)
                assert (answer.status, answer.error_code) == (413, "body_too_large")
                assert (answer.header(b"connection"), answer.header(b"x-should-retry")) == (b"close", b"false")
                client.wire.half_close()
                assert await client.closed() == b""
            assert recorder.received_bytes == 0

    async def test_a_body_that_grows_is_invited_once(self) -> None:
        """In chunks nobody knows how long it will be."""
        request = request_head("POST", "/v1/files", b"Expect: 100-continue", b"Transfer-Encoding: chunked")
        async with recording() as recorder, guarded(recorder.url, limits={"body_bytes": 1000}) as proxy:
            async with raw_client(proxy.url) as client:
                await client.send(request)
                assert (await client.begin()).status == 100
                await client.send(b"400\r\n" + bytes(0x400) + b"\r\n")
                answer = await client.answer()
                assert (answer.status, answer.error_code) == (413, "body_too_large")
            await recorder.until_idle()
            assert recorder.requests == []


@pytest.mark.parametrize(
    "named", [b"Authorization", b"Content-Length", b"Host", b"Accept-Encoding, User-Agent", b"close, content-length"]
)
async def test_what_we_write_ourselves_cannot_be_named_away(named: bytes) -> None:
    """C31."""
    async with recording() as recorder, guarded(recorder.url, upstream_key="sk-up") as proxy:
        async with raw_client(proxy.url) as client:
            answer = await client.ask(post(CHAT, GOOD, b"Connection: " + named, b"Authorization: Bearer x"))
            assert (answer.status, bytes(answer.body)) == (200, b"{}")
    (request,) = recorder.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = {line.partition(b":")[0].lower(): line for line in head.split(b"\r\n")[1:]}
    assert lines[b"authorization"] == b"Authorization: Bearer sk-up"
    assert lines[b"content-length"] == b"Content-Length: %d" % len(GOOD)
    assert {b"host", b"accept-encoding", b"user-agent"} <= set(lines)
    assert b"connection" not in lines
    assert body == GOOD

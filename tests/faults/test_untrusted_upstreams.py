"""Upstreams that cannot prove who they are, and handshakes that come to nothing.

They are told of without any detail and never repeated, and nothing of a request is shown to them.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.simulator.wire import PeerLeft
from tests.hostile.conftest import DONE, FIRST_EVENT, guarded
from tests.support.certificates import authority, server_context
from tests.support.leaks import nothing_left, turns
from tests.support.raw_client import Answer, End, post, raw_client, request_head
from tests.support.scripted_upstream import (
    Connection,
    answer,
    chunk,
    close,
    expect_request,
    reset,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

SECRET = "sk-never-shown"
SOON_S = 0.1
CHAT = post("/v1/chat/completions", b'{"model":"m"}')
LONG = post("/v1/files", b"x" * 300_000)
OK = answer(200, [(b"content-type", b"application/json")], b"{}")


@pytest.fixture
def trusting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's certificates are those of the tests' authority."""
    bundle = tmp_path / "authority.pem"
    authority().cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))


def expired_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ended = datetime.now(UTC) - timedelta(days=1)
    leaf = authority().issue_cert("127.0.0.1", not_before=ended - timedelta(days=30), not_after=ended)
    leaf.configure_cert(context)
    return context


def assert_refusal(got: Answer) -> None:
    """Nothing of the certificate, of the name or of OpenSSL's words."""
    assert (got.status, got.error_code, got.end) == (502, "upstream_tls_failed", End.WHOLE)
    assert (got.header(b"x-should-retry"), got.header(b"connection")) == (b"false", b"")
    text = bytes(got.body).lower()
    assert not any(word in text for word in (b"certificate", b"self", b"expired", b"127.0.0.1", b"_ssl", b"other."))


async def test_one_that_can_prove_it(trusting: None) -> None:
    """Else the rest of this file would show nothing."""
    async with scripted_upstream([expect_request(), send(OK)], ssl_context=server_context("127.0.0.1")) as upstream:
        async with guarded(f"{upstream.url}/v1", upstream_key=SECRET) as proxy, raw_client(proxy.url) as client:
            assert (await client.ask(CHAT)).status == 200
        assert SECRET.encode() in upstream.connections[0].received


@pytest.mark.parametrize("request_bytes", [CHAT, LONG], ids=["stored", "passed on"])
@pytest.mark.parametrize("whose", ["an unknown authority's", "another host's", "expired"])
async def test_a_certificate_that_proves_nothing(
    request: pytest.FixtureRequest, whose: str, request_bytes: bytes
) -> None:
    """U04."""
    if whose != "an unknown authority's":
        request.getfixturevalue("trusting")
    context = {
        "an unknown authority's": lambda: server_context("127.0.0.1"),
        "another host's": lambda: server_context("other.example"),
        "expired": expired_context,
    }[whose]()
    async with scripted_upstream([expect_request(), send(OK)], ssl_context=context) as upstream:
        async with guarded(f"{upstream.url}/v1", upstream_key=SECRET) as proxy:
            async with raw_client(proxy.url) as client:
                await client.send(request_bytes)
                assert_refusal(await client.answer()) if request_bytes is CHAT else await client.answer()
            async with raw_client(proxy.url) as client:
                assert_refusal(await client.ask(CHAT))
        assert len(upstream.connections) == 2
        assert all(connection.received == b"" for connection in upstream.connections)


@pytest.mark.parametrize(
    "line", [b"X-Verify: false", b"X-Qproxy-Insecure: 1", b"X-Forwarded-Proto: http", b"Upgrade-Insecure-Requests: 1"]
)
async def test_no_client_turns_the_check_off(line: bytes) -> None:
    """U04."""
    async with scripted_upstream([expect_request(), send(OK)], ssl_context=server_context("127.0.0.1")) as upstream:
        async with guarded(f"{upstream.url}/v1") as proxy, raw_client(proxy.url) as client:
            body = b'{"model":"m","verify":false,"verify_ssl":false,"ssl_verify":false}'
            assert_refusal(await client.ask(post("/v1/chat/completions", body, line)))


async def never_shakes_hands(connection: Connection) -> None:
    await wait_for(anyio.Event())(connection)


async def leaves_after_the_hello(connection: Connection) -> None:
    await connection.wire.receive_more()
    connection.wire.close()
    raise PeerLeft


async def resets_after_the_hello(connection: Connection) -> None:
    await connection.wire.receive_more()
    connection.wire.reset()
    raise PeerLeft


async def leaves_in_the_middle(connection: Connection) -> None:
    await connection.wire.receive_more()
    await connection.wire.send(b"\x16\x03\x03\x40\x00" + bytes(100))
    connection.wire.close()
    raise PeerLeft


async def speaks_plain_http(connection: Connection) -> None:
    await connection.wire.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "script",
    [never_shakes_hands, leaves_after_the_hello, resets_after_the_hello, leaves_in_the_middle, speaks_plain_http],
)
async def test_a_handshake_that_comes_to_nothing(script: Step) -> None:
    """U04."""
    async with nothing_left(), scripted_upstream([script]) as upstream:
        url = upstream.url.replace("http:", "https:") + "/v1"
        async with guarded(url, timeouts={"tls_s": SOON_S}, upstream_key=SECRET) as proxy:
            async with raw_client(proxy.url) as client:
                assert_refusal(await client.ask(CHAT))
                assert (await client.ask(request_head("GET", "/livez"))).status == 200
        assert len(upstream.connections) == 1
        assert SECRET.encode() not in upstream.connections[0].received


async def test_a_client_that_leaves_during_the_handshake() -> None:
    """C09."""
    async with nothing_left(), scripted_upstream([never_shakes_hands]) as upstream:
        async with guarded(upstream.url.replace("http:", "https:") + "/v1", timeouts={"tls_s": 60.0}) as proxy:
            async with raw_client(proxy.url) as client:
                await client.send(CHAT)
                connection = await upstream.connected()
                while not connection.received:
                    await turns(1)
                client.wire.reset()
            await connection.peer_left.wait()


@pytest.mark.parametrize("how", [close, reset])
async def test_a_secure_stream_that_ends_without_a_farewell_is_cut(trusting: None, how: Callable[[], Step]) -> None:
    """U09: anybody on the way could have ended it."""
    seen = anyio.Event()
    script = [expect_request(), send(stream_head() + chunk(FIRST_EVENT)), wait_for(seen), how()]
    async with scripted_upstream(script, ssl_context=server_context("127.0.0.1")) as upstream:
        async with guarded(f"{upstream.url}/v1") as proxy, raw_client(proxy.url) as client:
            await client.send(post("/v1/chat/completions", b'{"model":"m","stream":true}'))
            got = await client.begin()
            await client.until(got, FIRST_EVENT)
            seen.set()
            while got.end is End.OPEN:
                await client.more(got)
            assert got.end is End.FIN
            assert b'"code":"upstream_closed"' in got.body
            assert DONE not in got.body

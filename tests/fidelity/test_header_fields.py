"""Which header fields cross the proxy, in both directions, seen from the two ends of the wire."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from qproxy import __version__, app
from tests.support.live import settings_for
from tests.support.raw_client import Answer, End, post, raw_client, request_head
from tests.support.response_player import Player, playing
from tests.support.scripted_upstream import answer, chunk, event, head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qproxy.simulator import Request, Simulator

pytestmark = pytest.mark.anyio
BODY = b'{"model":"m","input":"x","stream":false}'
EMBED = "/v1/embeddings"
CHAT = "/v1/chat/completions"

PASSED_UP = (
    b"X-Odd-CASE: two  words",
    b"accept: */*",
    b"X-Twice: 1",
    b"X-Twice: 2",
    b"x-empty:",
    b"Idempotency-Key: k",
    b"OpenAI-Organization: o",
    b"X-DashScope-DataInspection: enable",
    b"x-stainless-retry-count: 0",
    b"X-Latin: \xe9",
    b"X-Request-Id: of-the-client",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
STOPPED = (
    b"Connection: keep-alive, X-Hop, x-odd",
    b"X-Hop: 1",
    b"X-Odd: 1",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Proxy-Authorization: Basic eDp5",
    b"TE: trailers",
    b"Trailer: X-Sum",
    b"Upgrade: websocket, h2c",
    b"HTTP2-Settings: AAMAAABkAAQ",
    b"Cookie: session=1",
    b"Referer: http://localhost/page",
    b"Forwarded: for=192.0.2.1",
    b"X-Forwarded-For: 192.0.2.1",
    b"X-Forwarded-Host: example.com",
    b"X-Forwarded-Proto: https",
    b"X-Real-IP: 192.0.2.1",
    b"Via: 1.1 other",
    b"Authorization: Bearer of-the-client",
    b"X-API-Key: of-the-client",
    b"Api-Key: of-the-client",
    b"x_api_key: of-the-client",
    b"Content_Length: 5",
    b"User-Agent: of-the-client",
    b"Origin: http://localhost:3000",
    b"X-Qproxy-Upstream: default",
)
PASSED_DOWN = (
    (b"X-Odd-CASE", b"two  words"),
    (b"x-ratelimit-remaining-requests", b"7"),
    (b"Retry-After", b"2"),
    (b"X-Twice", b"1"),
    (b"X-Twice", b"2"),
    (b"OpenAI-Processing-Ms", b"12"),
    (b"X-Request-Id", b"of-the-upstream"),
    (b"Date", b"Wed, 21 Oct 2099 07:28:00 GMT"),
    (b"ETag", b'"x"'),
    (b"Content-Disposition", b"attachment"),
)
KEPT_UP = (
    (b"Connection", b"X-Hop"),
    (b"X-Hop", b"1"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Proxy-Authenticate", b"Basic"),
    (b"Set-Cookie", b"acw_tc=1; HttpOnly"),
    (b"Set-Cookie", b"b=2"),
    (b"Set-Cookie2", b"c=3"),
    (b"Alt-Svc", b'h3=":443"'),
    (b"Upgrade", b"h2c"),
    (b"Trailer", b"X-Sum"),
    (b"Access-Control-Allow-Origin", b"*"),
    (b"Access-Control-Allow-Credentials", b"true"),
    (b"X-Accel-Buffering", b"yes"),
)


@pytest.fixture(scope="module")
async def player(anyio_backend: object) -> AsyncIterator[Player]:
    async with playing() as running_player:
        yield running_player


async def received(proxy: app.Running, simulator: Simulator, request: bytes) -> Request:
    """The request as the upstream saw it."""
    async with raw_client(proxy.url) as client:
        got = await client.ask(request)
    assert got.status == 200, bytes(got.body)
    return simulator.requests[-1]


async def test_what_reaches_the_upstream(proxy: app.Running, simulator: Simulator) -> None:
    seen = await received(proxy, simulator, post(EMBED, BODY, *STOPPED[:9], *PASSED_UP, *STOPPED[9:]))
    own = [
        b"Host: 127.0.0.1:%d" % int(simulator.url.rpartition(":")[2]),
        f"User-Agent: qproxy/{__version__}".encode(),
        b"Content-Length: %d" % len(BODY),
        b"Accept-Encoding: identity",
    ]
    lines = seen.head.raw.split(b"\r\n")[1:-2]
    ours = [line for line in lines if line in own]
    passed = [line.rstrip() for line in lines if line not in own]
    assert sorted(ours) == sorted(own)
    assert passed == [b"Content-Type: application/json", *PASSED_UP]


async def test_the_upstreams_key_replaces_the_clients(simulator: Simulator) -> None:
    settings = settings_for(simulator.base_url, None, upstream_key="sk-up", api_keys=("ck",))
    async with app.running(settings) as proxy:
        for own in (b"Authorization: Bearer ck", b"authorization: bearer  ck", b"X-API-Key: ck"):
            seen = await received(proxy, simulator, post(EMBED, BODY, own))
            assert [value for name, value in seen.headers if name.lower() == b"authorization"] == [b"Bearer sk-up"]
            assert b"ck" not in seen.head.raw.replace(b"HTTP", b"").replace(b"check", b"")


async def test_target_and_query_reach_the_upstream_as_they_are(proxy: app.Running, simulator: Simulator) -> None:
    query = "a=%2F&b=%C3%A9&&c=+&d"
    seen = await received(proxy, simulator, request_head("GET", f"/v1/files?{query}"))
    assert (seen.head.target, seen.body) == (f"/v1/files?{query}", b"")
    assert not seen.header("content-length")


@pytest.mark.parametrize(
    ("body", "asked", "sent"),
    [
        (b'{"model":"m","stream":true}', b"gzip, br", "identity"),
        (b'{"model":"m","stream":null}', b"gzip, br", "identity"),
        (b'{"model":"m","stream":false}', b"gzip, br", "gzip, br"),
        (b'{"model":"m"}', b"gzip, br", "gzip, br"),
        (b'{"model":"m"}', b"", "identity"),
    ],
)
async def test_streams_are_asked_for_uncompressed(player: Player, body: bytes, asked: bytes, sent: str) -> None:
    lines = [b"Accept-Encoding: " + asked] if asked else []
    async with raw_client(player.url) as client:
        await player.exchange(client, post(CHAT, body, *lines), [answer(200, [], b"{}")])
    assert player.last_head().header("accept-encoding") == sent


async def test_a_compressed_answer_passes_untouched(player: Player) -> None:
    packed = b"\x1f\x8b\x08\x00\xff\x00\r\n\r\n\n\n"
    wire = answer(200, [(b"Content-Type", b"application/json"), (b"Content-Encoding", b"gzip")], packed)
    async with raw_client(player.url) as client:
        got = await player.exchange(client, post(CHAT, BODY, b"Accept-Encoding: gzip"), [wire])
        assert (bytes(got.body), got.header(b"content-encoding")) == (packed, b"gzip")


def down(got: Answer) -> list[tuple[bytes, bytes]]:
    """The header fields of an answer as they were spelt."""
    fields = (line.partition(b":") for line in got.head.split(b"\r\n")[1:-2])
    return [(name, value.strip()) for name, _, value in fields]


async def test_what_reaches_the_client(player: Player) -> None:
    json_type = (b"Content-Type", b"application/json")
    wire = answer(200, [json_type, *KEPT_UP[:6], *PASSED_DOWN, *KEPT_UP[6:], (b"Cache-Control", b"max-age=9")], b"{}")
    async with raw_client(player.url) as client:
        got = await player.exchange(client, post(CHAT, BODY), [wire])
    own = [(b"Content-Length", b"2"), (b"Cache-Control", b"max-age=9")]
    assert [field for field in down(got) if field not in own] == [json_type, *PASSED_DOWN]
    assert sorted(field for field in down(got) if field in own) == sorted(own)


async def test_what_reaches_the_client_of_a_stream(player: Player) -> None:
    kind = (b"content-type", b"text/event-stream;charset=UTF-8")
    fields = [kind, *KEPT_UP, *PASSED_DOWN, (b"Cache-Control", b"no-store"), (b"Transfer-Encoding", b"chunked")]
    wire = head(200, fields) + chunk(event(b"[DONE]")) + chunk(b"")
    async with raw_client(player.url) as client:
        got = await player.exchange(client, post(CHAT, b'{"model":"m","stream":true}'), [wire])
    own = [
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Accel-Buffering", b"no"),
        (b"Cache-Control", b"no-cache, no-transform"),
    ]
    assert [field for field in down(got) if field not in own] == [kind, *PASSED_DOWN]
    assert sorted(field for field in down(got) if field in own) == sorted(own)


async def test_an_answer_without_an_id_gets_one(player: Player) -> None:
    async with raw_client(player.url) as client:
        ids = {
            (await player.exchange(client, post(CHAT, BODY), [answer(200, [], b"{}")])).header(b"x-request-id")
            for _ in range(3)
        }
    assert len(ids) == 3
    assert b"" not in ids


async def test_cors_is_off_unless_an_origin_is_allowed(player: Player) -> None:
    async with raw_client(player.url) as client:
        wire = answer(200, [(b"Access-Control-Allow-Origin", b"*")], b"{}")
        got = await player.exchange(client, post(CHAT, BODY, b"Origin: http://localhost:3000"), [wire])
        assert not [name for name, _ in got.headers if name.startswith(b"access-control") or name == b"vary"]
        refused = await client.ask(post(CHAT, BODY, b"Origin: https://page.example"))
        assert (refused.status, refused.error_code) == (403, "origin_not_allowed")


async def test_cors_for_an_allowed_origin() -> None:
    page = b"https://page.example"
    preflight = request_head(
        "OPTIONS",
        CHAT,
        b"Origin: " + page,
        b"Access-Control-Request-Method: POST",
        b"Access-Control-Request-Headers: authorization, content-type, x-stainless-os, x-evil",
    )
    async with playing(cors_origins=(page.decode(),)) as player, raw_client(player.url) as client:
        allowed = await client.ask(preflight)
        assert (allowed.status, allowed.header(b"access-control-allow-origin")) == (204, page)
        assert b"POST" in allowed.header(b"access-control-allow-methods")
        assert allowed.header(b"access-control-allow-headers") == b"authorization, content-type, x-stainless-os"
        wire = answer(200, [(b"Access-Control-Allow-Origin", b"*"), (b"Vary", b"Accept")], b"{}")
        got = await player.exchange(client, post(CHAT, BODY, b"Origin: " + page), [wire])
        assert got.header(b"access-control-allow-origin") == page
        assert got.values(b"vary") == [b"Accept", b"Origin"]
        foreign = await client.ask(preflight.replace(b"page.", b"evil."))
        assert (foreign.status, foreign.values(b"access-control-allow-origin")) == (403, [])


@pytest.mark.parametrize("path", [EMBED, "/v1/files"])
async def test_a_body_is_invited_when_it_is_wanted(proxy: app.Running, simulator: Simulator, path: str) -> None:
    whole = post(path, BODY, b"Expect: 100-Continue")
    begun = whole[: -len(BODY)]
    async with raw_client(proxy.url) as client:
        await client.send(begun)
        invited = await client.begin()
        assert (invited.status, invited.headers, bytes(client.wire.buffer)) == (100, [], b"")
        await client.send(BODY)
        assert (await client.answer()).end is End.WHOLE
        assert (simulator.requests[-1].body, simulator.requests[-1].header("expect")) == (BODY, "")


async def test_a_body_that_is_not_wanted_is_not_invited(player: Player) -> None:
    for path, line, status in (
        ("/v1/nowhere", b"", 404),
        (EMBED, b"Content-Type: text/plain", 415),
        (EMBED, b"Origin: https://page.example", 403),
    ):
        lines = [line] if line else []
        async with raw_client(player.url) as client:
            request = request_head("POST", path, *lines, b"Expect: 100-continue", b"Content-Length: 9")
            got = await client.ask(request)
            assert (got.status, got.header(b"connection")) == (status, b"close")
            client.wire.half_close()
            assert await client.closed() == b""


async def test_an_old_client_is_not_invited(proxy: app.Running) -> None:
    async with raw_client(proxy.url) as client:
        got = await client.ask(post(EMBED, BODY, b"Expect: 100-continue", version=b"1.0"))
        assert got.status == 200


async def test_another_expectation_is_refused(proxy: app.Running) -> None:
    async with raw_client(proxy.url) as client:
        got = await client.ask(post(EMBED, BODY, b"Expect: 200-ok"))
        assert (got.status, got.error_code, got.header(b"connection")) == (417, "expectation_failed", b"close")


async def test_a_packed_body_that_is_only_passed_on_keeps_its_encoding(
    proxy: app.Running, simulator: Simulator
) -> None:
    packed = gzip.compress(b"one, two")
    request = post("/v1/files", packed, b"Content-Encoding: gzip")
    async with raw_client(proxy.url) as client:
        await client.ask(request)
    received = simulator.requests[-1]
    assert (bytes(received.body), received.header("content-encoding")) == (packed, "gzip")

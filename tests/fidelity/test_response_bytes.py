"""What the upstream answers reaches the client as the same payload, however it was cut on the way."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.raw_client import End, chunks, cut_at, post, raw_client, request_head
from tests.support.response_player import Player, playing
from tests.support.scripted_upstream import answer, chunk, event, head, stream_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
OFTEN = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CUTS = st.lists(st.integers(0, 2**20), max_size=8)
HI = b'{"model":"m","stream":true}'
CHAT = post("/v1/chat/completions", HI)
STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
JSON_TYPE = (b"content-type", b"application/json")
EVENTS = (
    ": 通义\r\n\r\n".encode(),
    'event: x\ndata: {"a":"🙂"}\n\n'.encode(),
    event(b'{"choices":[{"finish_reason":"stop"}]}'),
    event(b"[DONE]"),
)
PAYLOAD = b"".join(EVENTS)


@pytest.fixture(scope="module")
async def player(anyio_backend: object) -> AsyncIterator[Player]:
    async with playing() as running_player:
        yield running_player


def odd_chunks() -> bytes:
    """The payload in chunks whose size lines are all legal and all different, cut inside characters."""
    pieces = cut_at(PAYLOAD, [4, 5, 30, 40, 41, 43])
    lines = (b"%x", b"%X", b"000%x", b"%x;a=b", b'%X;q="\xe9"', b"%x", b"0%x")
    framed = [line % len(piece) + b"\r\n" + piece + b"\r\n" for line, piece in zip(lines, pieces, strict=True)]
    return b"".join(framed) + b"0\r\n\r\n"


async def test_a_stream_cut_at_every_point(player: Player) -> None:
    wire = stream_head() + odd_chunks()
    async with raw_client(player.url) as client:
        for cut in range(1, len(wire)):
            got = await player.exchange(client, CHAT, [wire[:cut], wire[cut:]])
            assert (bytes(got.body), got.end) == (PAYLOAD, End.WHOLE), wire[:cut]


async def test_a_stream_that_comes_byte_by_byte(player: Player) -> None:
    wire = stream_head() + odd_chunks()
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, cut_at(wire, range(len(wire))))
        assert (bytes(got.body), got.end) == (PAYLOAD, End.WHOLE)


async def test_a_chunk_for_every_byte(player: Player) -> None:
    bytewise = chunks(cut_at(PAYLOAD, range(len(PAYLOAD))))
    async with raw_client(player.url) as client:
        for pieces in ([stream_head() + b"".join(bytewise)], [stream_head(), *bytewise]):
            got = await player.exchange(client, CHAT, pieces)
            assert (bytes(got.body), got.end) == (PAYLOAD, End.WHOLE)


@OFTEN
@given(texts=st.lists(st.text(max_size=30), max_size=6), cuts=CUTS, wire_cuts=CUTS)
async def test_random_streams(player: Player, texts: list[str], cuts: list[int], wire_cuts: list[int]) -> None:
    payload = b"".join(event(text.encode("utf-8", "surrogatepass")) for text in texts) + event(b"[DONE]")
    wire = stream_head() + b"".join(chunks(cut_at(payload, cuts)))
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, cut_at(wire, wire_cuts))
        assert (bytes(got.body), got.end) == (payload, End.WHOLE)


@OFTEN
@given(body=st.binary(min_size=1, max_size=3000), cuts=CUTS, framing=st.sampled_from(["length", "chunks", "close"]))
async def test_random_plain_bodies(player: Player, body: bytes, cuts: list[int], framing: str) -> None:
    """No JSON is expected of them: what the upstream says is JSON is passed on."""
    async with raw_client(player.url) as client:
        wire = framed(JSON_TYPE, body, framing, cuts)
        got = await player.exchange(client, CHAT, cut_at(wire, cuts), closes=framing == "close")
        assert (bytes(got.body), got.end) == (body, End.WHOLE)


def framed(content_type: tuple[bytes, bytes], body: bytes, framing: str, cuts: list[int]) -> bytes:
    """A whole answer with the body in one of the three framings of HTTP/1.1."""
    if framing == "length":
        return answer(200, [content_type], body)
    if framing == "close":
        return head(200, [content_type]) + body
    return head(200, [content_type, (b"transfer-encoding", b"chunked")]) + b"".join(chunks(cut_at(body, cuts)))


@pytest.mark.parametrize("content_type", [STREAM_TYPE, JSON_TYPE], ids=["stream", "plain"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
async def test_every_framing_for_every_client(
    player: Player, framing: str, version: bytes, content_type: tuple[bytes, bytes]
) -> None:
    wire = framed(content_type, PAYLOAD, framing, [7, 50])
    async with raw_client(player.url) as client:
        request = post("/v1/chat/completions", HI, version=version)
        got = await player.exchange(client, request, cut_at(wire, [300]), closes=framing == "close")
        assert (bytes(got.body), got.end) == (PAYLOAD, End.WHOLE)
        with_length = framing == "length" and content_type is JSON_TYPE  # a stream has its end to tell that it is whole
        assert got.header(b"content-length") == (b"%d" % len(PAYLOAD) if with_length else b"")
        chunked = version == b"1.1" and not with_length
        assert got.header(b"transfer-encoding") == (b"chunked" if chunked else b"")
        assert got.header(b"connection") == (b"close" if version == b"1.0" else b"")
        if version == b"1.0":
            assert await client.closed() == b""


async def test_an_old_client_may_keep_its_connection(player: Player) -> None:
    request = post("/v1/chat/completions", HI, b"Connection: keep-alive", version=b"1.0")
    async with raw_client(player.url) as client:
        for _ in range(2):
            got = await player.exchange(client, request, [answer(200, [JSON_TYPE], b"{}")])
            assert (got.header(b"connection"), bytes(got.body)) == (b"keep-alive", b"{}")


async def test_an_upstream_of_http_1_0(player: Player) -> None:
    async with raw_client(player.url) as client:
        wire = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + PAYLOAD
        got = await player.exchange(client, CHAT, [wire], closes=True)
        assert (bytes(got.body), got.end, got.version) == (PAYLOAD, End.WHOLE, b"HTTP/1.1")


async def test_a_whole_chunk_keeps_its_size(player: Player) -> None:
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, [stream_head(), *chunks(EVENTS)])
        assert got.sizes == [*map(len, EVENTS), 0]


async def test_trailers_are_dropped(player: Player) -> None:
    ends = b"".join(chunks(EVENTS)).removesuffix(b"\r\n") + b"X-Sum: 1\r\n\r\n"
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, [stream_head(), ends])
        assert (bytes(got.body), got.end) == (PAYLOAD, End.WHOLE)
        assert (await client.ask(request_head("GET", "/livez"))).status == 200


@pytest.mark.parametrize("status", [201, 204, 304, 400, 429, 500, 503, 599])
async def test_status_and_body_of_every_class_pass(player: Player, status: int) -> None:
    body = b"" if status in (204, 304) else b'{ "error" : "\xc3\xa9" }'
    wire = head(status, [JSON_TYPE]) if not body else answer(status, [JSON_TYPE], body)
    async with raw_client(player.url) as client:
        player.pieces = [wire]
        await client.send(CHAT)
        got = await client.answer(bodyless=not body)
        assert (got.status, bytes(got.body)) == (status, body)
        assert (await player.exchange(client, CHAT, [answer(200, [JSON_TYPE], b"2")])).body == b"2"


async def test_interim_answers_are_skipped(player: Player) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with raw_client(player.url) as client:
        got = await player.exchange(
            client, CHAT, [interim * 3 + b"HTTP/1.1 100 C\r\n\r\n", answer(200, [JSON_TYPE], b"1")]
        )
        assert (got.status, bytes(got.body)) == (200, b"1")


async def test_a_long_answer_in_large_chunks(player: Player) -> None:
    body = bytes(range(256)) * 8192
    big = [chunk(body[first:last]) for first, last in pairwise([*range(0, len(body), 70_001), len(body)])]
    wire = [head(200, [JSON_TYPE, (b"transfer-encoding", b"chunked")]), *big, chunk(b"")]
    async with raw_client(player.url) as client:
        got = await player.exchange(client, CHAT, wire)
        assert (got.body == body, got.end) == (True, End.WHOLE)

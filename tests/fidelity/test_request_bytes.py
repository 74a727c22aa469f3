"""A body that nobody asked to change reaches the upstream as the very bytes that the client sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.support.json_texts import OTHER_ENTRIES, SPACES, VALUES, Entry, entries, written
from tests.support.raw_client import End, RawClient, chunks, cut_at, post, raw_client, request_head

if TYPE_CHECKING:
    from qproxy import app
    from qproxy.simulator import Simulator

pytestmark = pytest.mark.anyio
OFTEN = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SELDOM = settings(OFTEN, max_examples=12, phases=[Phase.explicit, Phase.reuse, Phase.generate])
PATHS = st.sampled_from(["chat/completions", "completions", "embeddings", "responses", "rerank"])
CUTS = st.lists(st.integers(0, 2**20), max_size=6)
JSON = b"Content-Type: application/json"
FALSY = b'{"model":"m","temperature":0,"top_p":0.0,"stop":"","user":null,"tools":[],"stream":false,"metadata":{}}'
SURROGATES = (
    rb'{ "model" : "m" ,"messages":[{"role":"user","content":"\ud800 \udc00 \uD83D\ude00 \/ \u00e9"}], "n":1e0 }'
)
REPEATED = b'{"seed":1,"seed":2,"model":"m","messages":[],"messages":[{"role":"user","content":"x","content":"y"}]}'


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Objects with at most one `model` and one `stream`, anywhere among other members, in any spelling."""
    members = draw(st.lists(OTHER_ENTRIES, max_size=5))
    for keys, values in (([r'"model"', r'"\u006dodel"'], VALUES), (['"stream"', r'"str\u0065am"'], VALUES)):
        for member in draw(st.lists(entries(keys, values), max_size=1)):
            members.insert(draw(st.integers(0, len(members))), member)
    outside = draw(SPACES)
    return f"{outside}{written(members, draw(SPACES))}{outside}".encode()


class LongBody(NamedTuple):
    """An object above `inspect_bytes`, as small as it can be told: `text` is repeated in one of its members."""

    members: list[Entry]
    at: int
    text: str
    model: Entry

    def written(self) -> bytes:
        """Its bytes, the long member and the model in the midst of the others."""
        long = Entry('"messages"', ":", f'["{self.text * (400_000 // len(self.text))}"]', " ")
        members = [*self.members[: self.at], long, *self.members[self.at :], self.model]
        return written(members if len(self.members) % 2 else members[::-1]).encode()


LONG_BODIES = st.builds(
    LongBody,
    st.lists(OTHER_ENTRIES, max_size=4),
    st.integers(0, 4),
    st.sampled_from(["x", "long ", "é", r"\ud800", r"\\", r"\"model\":"]),
    entries([r'"model"', r'"m\u006fdel"'], st.text(max_size=9).map(json.dumps)),
)


async def arrived(client: RawClient, simulator: Simulator, *sent: bytes) -> bytes:
    """The body that the upstream received for a request sent in these pieces, whatever it answered."""
    before = simulator.counters.requests
    await client.send(*sent)
    answer = await client.answer()
    assert answer.end is End.WHOLE
    assert simulator.counters.requests == before + 1, bytes(answer.body)
    return simulator.requests[-1].body


@OFTEN
@given(path=PATHS, body=bodies(), cuts=CUTS)
@example(path="chat/completions", body=FALSY, cuts=[])
@example(path="chat/completions", body=SURROGATES, cuts=[3])
@example(path="chat/completions", body=REPEATED, cuts=[])
async def test_json_with_content_length(
    proxy: app.Running, simulator: Simulator, path: str, body: bytes, cuts: list[int]
) -> None:
    async with raw_client(proxy.url) as client:
        pieces = cut_at(post(f"/v1/{path}", body), cuts)
        assert await arrived(client, simulator, *pieces) == body


@OFTEN
@given(path=PATHS, body=bodies(), cuts=CUTS, wire_cuts=CUTS)
async def test_json_in_chunks(
    proxy: app.Running, simulator: Simulator, path: str, body: bytes, cuts: list[int], wire_cuts: list[int]
) -> None:
    request = request_head("POST", f"/v1/{path}", JSON, b"Transfer-Encoding: chunked")
    async with raw_client(proxy.url) as client:
        wire = request + b"".join(chunks(cut_at(body, cuts)))
        assert await arrived(client, simulator, *cut_at(wire, wire_cuts)) == body


@SELDOM
@given(long=LONG_BODIES, cuts=CUTS)
async def test_long_json_with_content_length(
    proxy: app.Running, simulator: Simulator, long: LongBody, cuts: list[int]
) -> None:
    body = long.written()
    async with raw_client(proxy.url) as client:
        assert await arrived(client, simulator, *cut_at(post("/v1/chat/completions", body), cuts)) == body


@SELDOM
@given(long=LONG_BODIES, cuts=CUTS, wire_cuts=CUTS)
async def test_long_json_in_chunks(
    proxy: app.Running, simulator: Simulator, long: LongBody, cuts: list[int], wire_cuts: list[int]
) -> None:
    body = long.written()
    request = request_head("POST", "/v1/chat/completions", JSON, b"Transfer-Encoding: chunked")
    async with raw_client(proxy.url) as client:
        wire = request + b"".join(chunks(cut_at(body, cuts)))
        assert await arrived(client, simulator, *cut_at(wire, wire_cuts)) == body


async def test_a_body_of_several_megabytes_cut_everywhere(proxy: app.Running, simulator: Simulator) -> None:
    body = b'{"messages":[{"content":"%b"}],"model":"m"}' % (b"\xe9\x80\x9a\\u00e9" * 400_000)
    async with raw_client(proxy.url) as client:
        assert await arrived(client, simulator, *cut_at(post("/v1/completions", body), range(0, 2**22, 9973))) == body
        wire = request_head("POST", "/v1/completions", JSON, b"Transfer-Encoding: chunked")
        assert await arrived(client, simulator, wire, *chunks(cut_at(body, range(0, 2**22, 65_521)))) == body


@OFTEN
@given(body=st.binary(max_size=2000), cuts=CUTS)
@example(body=b"", cuts=[])
@example(body=b"0\r\n\r\n{\xff\xfe", cuts=[1, 2, 3])
async def test_opaque_bodies_with_content_length(
    proxy: app.Running, simulator: Simulator, body: bytes, cuts: list[int]
) -> None:
    head = request_head("POST", "/v1/files", b"Content-Type: x/y", b"Content-Length: %d" % len(body))
    async with raw_client(proxy.url) as client:
        assert await arrived(client, simulator, *cut_at(head + body, cuts)) == body
        assert simulator.requests[-1].header("content-type") == "x/y"


@OFTEN
@given(body=st.binary(max_size=2000), cuts=CUTS, wire_cuts=CUTS)
async def test_opaque_bodies_in_chunks(
    proxy: app.Running, simulator: Simulator, body: bytes, cuts: list[int], wire_cuts: list[int]
) -> None:
    head = request_head("POST", "/v1/audio/transcriptions", b"Transfer-Encoding: chunked")
    async with raw_client(proxy.url) as client:
        wire = head + b"".join(chunks(cut_at(body, cuts)))
        assert await arrived(client, simulator, *cut_at(wire, wire_cuts)) == body


async def test_a_long_opaque_body_in_both_framings(proxy: app.Running, simulator: Simulator) -> None:
    body = bytes(range(256)) * 12_000
    pieces = cut_at(body, range(0, len(body), 50_021))
    sized = request_head("POST", "/v1/files", b"Content-Length: %d" % len(body))
    chunked = request_head("POST", "/v1/files", b"Transfer-Encoding: chunked")
    async with raw_client(proxy.url) as client:
        assert await arrived(client, simulator, sized, *pieces) == body
        assert await arrived(client, simulator, chunked, *chunks(pieces)) == body


async def test_chunk_extensions_and_trailers_stay_on_their_hop(proxy: app.Running, simulator: Simulator) -> None:
    for path in ("/v1/chat/completions", "/v1/files"):
        head = request_head("POST", path, JSON, b"Transfer-Encoding: chunked", b"Trailer: X-Sum")
        wire = b'3;name="a"\r\n{"m\r\n00A;x\r\nodel":"m"}\r\n0;last\r\nX-Sum: 1\r\n\r\n'
        async with raw_client(proxy.url) as client:
            assert await arrived(client, simulator, head + wire) == b'{"model":"m"}'
            recorded = simulator.requests[-1].head
            assert (recorded.header("x-sum"), recorded.header("trailer")) == ("", "")


async def test_two_pipelined_requests_go_up_and_are_answered_in_order(proxy: app.Running, simulator: Simulator) -> None:
    first, second = b'{"model":"m","input":"1"}', b'{"model":"m","input":"two"}'
    async with raw_client(proxy.url) as client:
        await client.send(post("/v1/embeddings", first) + post("/v1/nowhere", second))
        assert [(await client.answer()).status, (await client.answer()).status] == [200, 404]
        await client.send(post("/v1/embeddings", first) + post("/v1/embeddings", second))
        assert [(await client.answer()).status, (await client.answer()).status] == [200, 200]
    assert [request.body for request in simulator.requests][-3:] == [first, first, second]

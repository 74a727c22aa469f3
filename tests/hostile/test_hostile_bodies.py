"""Request bodies from the fault matrix: what is broken, too long or too slow never reaches the upstream as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.framing import LAST_CHUNK
from qproxy.simulator.wire import PeerLeft
from tests.hostile.conftest import Recorder, guarded
from tests.support.hostile_requests import BROKEN_CHUNKS
from tests.support.leaks import silent_port, turns
from tests.support.raw_client import End, RawClient, chunks, cut_at, post, raw_client, request_head

if TYPE_CHECKING:
    from qproxy import app

pytestmark = pytest.mark.anyio

JSON = b"Content-Type: application/json"
PATHS = {"stored": "/v1/chat/completions", "passed on": "/v1/files", "answered here": "/livez"}
CHUNKED = {name: request_head("POST", path, JSON, b"Transfer-Encoding: chunked") for name, path in PATHS.items()}
GOOD = b'5\r\n{"a":\r\n'


async def refusal(client: RawClient) -> tuple[int, object]:
    """Status and code of the answer, after which the server must close."""
    answer = await client.answer()
    assert (answer.end, answer.header(b"connection")) == (End.WHOLE, b"close")
    assert await client.closed() == b""
    return answer.status, answer.error_code


@pytest.mark.parametrize("path", ["stored", "passed on"])
@pytest.mark.parametrize("name", BROKEN_CHUNKS)
@pytest.mark.parametrize("how", ["whole", "in pieces"])
async def test_broken_chunks(proxy: app.Running, recorder: Recorder, path: str, name: str, how: str) -> None:
    before = len(recorder.requests)
    wire = GOOD + BROKEN_CHUNKS[name]
    pieces = [CHUNKED[path] + wire] if how == "whole" else [CHUNKED[path], *cut_at(wire, _places(wire))]
    async with raw_client(proxy.url) as client:
        await _sent(client, pieces)
        assert await refusal(client) == (400, "bad_chunk")
    assert len(recorder.requests) == before
    await recorder.until_idle()


def _places(wire: bytes) -> range:
    return range(0, len(wire), 1 if len(wire) < 500 else 9973)


async def _sent(client: RawClient, pieces: list[bytes]) -> None:
    """All of it, or as much as the server wants to have."""
    try:
        await client.send(*pieces)
    except PeerLeft:
        pass


@pytest.mark.parametrize("path", ["stored", "passed on"])
@pytest.mark.parametrize(
    "body",
    [
        b"d\r\n" + b'{"model":"m"}' + b"\r\n0\r\n\r\n",
        b"D;x=y\r\n" + b'{"model":"m"}' + b"\r\n00\r\n\r\n",
        b"d\r\n" + b'{"model":"m"}' + b"\r\n0\r\nContent-Length: 5\r\nHost: evil\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"".join(chunks([b'{"mo', b"del", b'":"m"}'])),
    ],
    ids=["one chunk", "extension", "trailers (C32)", "three chunks"],
)
async def test_sound_chunks(proxy: app.Running, recorder: Recorder, path: str, body: bytes) -> None:
    async with raw_client(proxy.url) as client:
        for pieces in ([CHUNKED[path] + body], [CHUNKED[path], *cut_at(body, range(len(body)))]):
            await client.send(*pieces)
            assert (await client.answer()).status == 200
            assert b"evil" not in recorder.requests[-1]
            assert recorder.requests[-1].lower().count(b"content-length") <= 1


class TestCutOff:
    """C06, C07."""

    @pytest.mark.parametrize("path", ["stored", "passed on"])
    @pytest.mark.parametrize("framing", ["length", "chunks"])
    async def test_a_client_that_ends_in_the_middle_is_told(
        self, proxy: app.Running, recorder: Recorder, path: str, framing: str
    ) -> None:
        before = len(recorder.requests)
        length = request_head("POST", PATHS[path], JSON, b"Content-Length: 20") + b'{"model":'
        async with raw_client(proxy.url) as client:
            await client.send(length if framing == "length" else CHUNKED[path] + GOOD)
            await turns()
            client.wire.half_close()
            assert await refusal(client) == (400, "bad_request")
        assert len(recorder.requests) == before
        await recorder.until_idle()

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("cut", ["in the head", "behind the head", "in the body"])
    async def test_one_that_resets_leaves_nothing(
        self, proxy: app.Running, recorder: Recorder, path: str, cut: str
    ) -> None:
        before = len(recorder.requests)
        raw = request_head("POST", PATHS[path], JSON, b"Content-Length: 200000")
        pieces = {"in the head": [raw[:40]], "behind the head": [raw], "in the body": [raw, bytes(99_000)]}[cut]
        async with raw_client(proxy.url) as client:
            await client.send(*pieces)
            client.wire.reset()
        await turns()
        await recorder.until_idle()
        assert len(recorder.requests) == before


class TestTooLong:
    """C15."""

    @pytest.mark.parametrize("path", ["stored", "passed on", "answered here"])
    async def test_announced(self, recorder: Recorder, path: str) -> None:
        before = recorder.received_bytes
        method = "GET" if path == "answered here" else "POST"
        async with guarded(recorder.url, limits={"body_bytes": 1000}) as proxy, raw_client(proxy.url) as client:
            await client.send(request_head(method, PATHS[path], JSON, b"Content-Length: 1001"))
            assert await refusal(client) == (413, "body_too_large")
        assert recorder.received_bytes == before

    @pytest.mark.parametrize("path", ["stored", "passed on", "answered here"])
    async def test_growing(self, recorder: Recorder, path: str) -> None:
        before = len(recorder.requests)
        method = "GET" if path == "answered here" else "POST"
        async with guarded(recorder.url, limits={"body_bytes": 1000}) as proxy, raw_client(proxy.url) as client:
            await client.send(request_head(method, PATHS[path], JSON, b"Transfer-Encoding: chunked"))
            await _sent(client, chunks([b"x" * 100] * 50))
            assert await refusal(client) == (413, "body_too_large")
        await recorder.until_idle()
        assert len(recorder.requests) == before

    async def test_the_refusal_arrives_although_the_client_is_still_sending(self, recorder: Recorder) -> None:
        """A bare close would reset the connection, and the answer with it."""
        async with guarded(recorder.url, limits={"body_bytes": 1000}) as proxy, raw_client(proxy.url) as client:
            body = bytes(300_000)
            await _sent(client, [request_head("POST", "/v1/files", b"Content-Length: 300000"), body[:50_000]])
            await turns()
            await _sent(client, [body[50_000:60_000]])
            answer = await client.answer()
            assert (answer.status, answer.error_code) == (413, "body_too_large")


class TestTooSlow:
    """C03."""

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("framing", ["length", "chunks"])
    async def test_silence(self, recorder: Recorder, path: str, framing: str) -> None:
        before = len(recorder.requests)
        method = "GET" if path == "answered here" else "POST"
        length = b"Content-Length: 20" if framing == "length" else b"Transfer-Encoding: chunked"
        async with guarded(recorder.url, timeouts={"body_s": 0.05}) as proxy, raw_client(proxy.url) as client:
            await client.send(request_head(method, PATHS[path], JSON, length) + b"5\r\nab")
            assert await refusal(client) == (408, "body_timeout")
        await recorder.until_idle()
        assert len(recorder.requests) == before

    @pytest.mark.parametrize("path", ["stored", "passed on"])
    async def test_drops(self, recorder: Recorder, path: str) -> None:
        before = len(recorder.requests)
        async with guarded(recorder.url, timeouts={"body_s": 0.1}) as proxy, raw_client(proxy.url) as client:
            await client.send(request_head("POST", PATHS[path], JSON, b"Content-Length: 100000"))
            await _drip(client)
            assert await refusal(client) == (408, "body_timeout")
        await recorder.until_idle()
        assert len(recorder.requests) == before

    async def test_the_clock_of_a_body_does_not_run_while_the_upstream_works(self, recorder: Recorder) -> None:
        async with guarded(recorder.url, timeouts={"body_s": 0.5}) as proxy, raw_client(proxy.url) as client:
            await client.send(request_head("POST", "/v1/files", b"Content-Length: 6"), b'"wait"')
            await recorder.until_waiting()
            await anyio.sleep(0.8)
            assert client.wire.buffer == b""
        await recorder.until_idle()


async def _drip(client: RawClient) -> None:
    try:
        while not client.wire.buffer:
            await client.wire.send(b"x")
            with anyio.move_on_after(0.01):
                await client.wire.receive_more()
    except PeerLeft:
        pass


class TestNotWanted:
    """An answer before the body was read: the body is skipped or the connection ends; it never becomes a request."""

    INNER = post("/v1/embeddings", b'{"model":"smuggled"}')

    async def test_one_that_is_here_already_is_skipped(self, proxy: app.Running, recorder: Recorder) -> None:
        async with raw_client(proxy.url) as client:
            await client.send(post("/nowhere", self.INNER) + post("/v1/embeddings", b'{"model":"next"}'))
            assert (await client.answer()).status == 404
            assert (await client.answer()).status == 200
        assert recorder.requests[-1].endswith(b'{"model":"next"}')
        assert not any(b"smuggled" in request for request in recorder.requests)

    @pytest.mark.parametrize("framing", ["length", "chunks"])
    async def test_one_that_is_still_to_come_ends_the_connection(
        self, proxy: app.Running, recorder: Recorder, framing: str
    ) -> None:
        length = b"Content-Length: %d" % len(self.INNER) if framing == "length" else b"Transfer-Encoding: chunked"
        async with raw_client(proxy.url) as client:
            await client.send(request_head("POST", "/nowhere", length))
            await turns()
            await _sent(client, [self.INNER])
            assert await refusal(client) == (404, "unknown_route")
        assert not any(b"smuggled" in request for request in recorder.requests)

    async def test_one_of_which_a_part_has_been_taken_ends_it_too(self, recorder: Recorder) -> None:
        """The upstream cannot be reached. As much lies here as the body is long, but half of it is something else."""
        body = b'{"model":"m","x":"%b"}' % (b"y" * 60_000)
        requests = request_head("GET", "/livez") * 1000
        with silent_port() as port:
            limits, timeouts = {"inspect_bytes": 100}, {"connect_s": 0.2}
            async with guarded(f"http://127.0.0.1:{port}/v1", limits=limits, timeouts=timeouts) as proxy:
                async with raw_client(proxy.url) as client:
                    head = request_head("POST", PATHS["stored"], JSON, b"Content-Length: %d" % len(body))
                    await client.send(head, body[:40_000])
                    await turns()
                    await _sent(client, [body[40_000:] + requests])
                    assert await refusal(client) == (502, "upstream_connect_failed")

    async def test_behind_broken_chunks_nothing_is_a_request(self, proxy: app.Running, recorder: Recorder) -> None:
        for path in ("stored", "passed on"):
            async with raw_client(proxy.url) as client:
                await client.send(CHUNKED[path] + GOOD + b"zz\r\n" + LAST_CHUNK + self.INNER)
                assert await refusal(client) == (400, "bad_chunk")
        assert not any(b"smuggled" in request for request in recorder.requests)

    @pytest.mark.parametrize("expect", [(), (b"Expect: 100-continue",)])
    async def test_without_a_key(self, recorder: Recorder, expect: tuple[bytes, ...]) -> None:
        """C11: a final answer and no invitation."""
        before = recorder.received_bytes
        async with guarded(recorder.url, api_keys=("k",)) as proxy, raw_client(proxy.url) as client:
            await client.send(request_head("POST", PATHS["stored"], JSON, *expect, b"Content-Length: 20"))
            assert await refusal(client) == (401, "invalid_api_key")
        assert recorder.received_bytes == before

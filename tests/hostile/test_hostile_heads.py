"""Request heads from the fault matrix on real sockets: refused the same way however they are split, or served."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.limits import Limits
from qproxy.simulator.wire import PeerLeft
from tests.hostile.conftest import Recorder, guarded
from tests.support.hostile_requests import CONTROL_BYTES, REFUSED_REQUESTS, head
from tests.support.raw_client import End, RawClient, connect, cut_at, post, raw_client, request_head

if TYPE_CHECKING:
    from qproxy import app

pytestmark = pytest.mark.anyio

LIMITS = Limits()
STATUSES = {
    "ambiguous_length": 400,
    "bad_header": 400,
    "bad_request_line": 400,
    "expectation_failed": 417,
    "head_timeout": 408,
    "headers_too_large": 431,
    "http_version": 505,
    "invalid_host": 400,
    "target_too_long": 414,
    "unsupported_transfer_coding": 501,
}
SHOWN_IN_ONE_PLACE = {f"C21 {byte!r} in a {where}" for byte in CONTROL_BYTES[2:] for where in ("name", "value")}
"""The parser's own tests have every byte; two of them show here that the parser is asked."""

ROWS: dict[str, tuple[bytes, str]] = {
    **{name: row for name, row in REFUSED_REQUESTS.items() if name not in SHOWN_IN_ONE_PLACE},
    "C21 bare LF throughout": (b"GET / HTTP/1.1\nHost: a\n\n", "bad_header"),
    "C29 TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "bad_request_line"),
    "C29 SSL 2 hello": (b"\x80\x2e\x01\x00\x02" + bytes(41), "bad_request_line"),
    "C29 h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(27), "http_version"),
    "C29 SOCKS": (b"\x05\x01\x00", "bad_request_line"),
    "an empty line of LF alone": (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request_line"),
    "a space first": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request_line"),
    "C13 endless head": (b"GET / HTTP/1.1\r\nX: " + b"a" * 2 * LIMITS.head_bytes, "headers_too_large"),
    "C13 endless lines": (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * (LIMITS.head_lines + 2), "headers_too_large"),
    "C14 endless target": (b"GET /" + b"a" * 2 * LIMITS.target_bytes, "target_too_long"),
    "endless method": (b"A" * 2 * LIMITS.head_bytes, "target_too_long"),
}
COMPLETE = [name for name, (raw, _) in ROWS.items() if raw.endswith(b"\r\n\r\n")]


def in_pieces(raw: bytes, how: str) -> list[bytes]:
    if how == "whole":
        return [raw]
    return cut_at(raw, range(0, len(raw), 1 if len(raw) < 600 else 997))


async def refusal(client: RawClient, pieces: list[bytes]) -> tuple[int, object]:
    """Status and code of the answer, after which the server must close."""
    await client.send(*pieces)
    answer = await client.answer()
    assert answer.end is End.WHOLE
    assert answer.header(b"connection") == b"close"
    assert answer.header(b"x-should-retry") == (b"" if answer.status == 408 else b"false")
    assert answer.header(b"x-request-id")
    assert await client.closed() == b""
    return answer.status, answer.error_code


@pytest.mark.parametrize("how", ["whole", "in pieces"])
@pytest.mark.parametrize("name", ROWS)
async def test_it_is_refused_and_nothing_goes_up(proxy: app.Running, recorder: Recorder, name: str, how: str) -> None:
    raw, code = ROWS[name]
    before = recorder.received_bytes
    async with raw_client(proxy.url) as client:
        assert await refusal(client, in_pieces(raw, how)) == (STATUSES[code], code)
    assert recorder.received_bytes == before


@pytest.mark.parametrize("name", COMPLETE)
async def test_what_comes_behind_it_is_never_served(proxy: app.Running, recorder: Recorder, name: str) -> None:
    raw, code = ROWS[name]
    async with raw_client(proxy.url) as client:
        assert await refusal(client, [raw + post("/v1/embeddings", b'{"model":"smuggled"}')]) == (STATUSES[code], code)
    assert not any(b"smuggled" in request for request in recorder.requests)


@pytest.mark.parametrize("name", COMPLETE[::3])
async def test_it_is_refused_behind_a_good_request_as_well(proxy: app.Running, name: str) -> None:
    raw, code = ROWS[name]
    async with raw_client(proxy.url) as client:
        await client.send(request_head("GET", "/livez") + raw)
        assert (await client.answer()).status == 200
        assert await refusal(client, []) == (STATUSES[code], code)


@pytest.mark.parametrize("name", ["C18 both lengths", "C19 equal lengths", "C19 hex", "C20 HTTP/1.0"])
async def test_a_good_one_before_it_does_not_let_it_pass(proxy: app.Running, name: str) -> None:
    """Heads are remembered; what was refused once, and what looks almost like a good one, is not."""
    raw, code = ROWS[name]
    good = head(b"Content-Length: 1", line=b"POST /livez HTTP/1.1") + b"x"
    async with raw_client(proxy.url) as client:
        for _ in range(2):
            assert (await client.ask(good)).status == 405
    for _ in range(2):
        async with raw_client(proxy.url) as client:
            assert await refusal(client, [raw]) == (STATUSES[code], code)


class TestServed:
    async def asked(self, proxy: app.Running, *pieces: bytes) -> None:
        async with raw_client(proxy.url) as client:
            await client.send(*pieces)
            answer = await client.answer()
            assert (answer.status, bytes(answer.body), answer.end) == (200, b"{}", End.WHOLE)

    async def test_a_request_split_at_every_byte(self, proxy: app.Running, recorder: Recorder) -> None:
        raw = post("/v1/embeddings", b'{"model":"m"}', b"X-Custom: 1")
        await self.asked(proxy, raw)
        expected = recorder.requests[-1]
        await self.asked(proxy, *in_pieces(raw, "bytewise"))
        assert recorder.requests[-1] == expected
        async with raw_client(proxy.url) as client:
            for cut in range(1, len(raw)):
                await client.send(raw[:cut], raw[cut:])
                answer = await client.answer()
                assert (answer.status, bytes(answer.body)) == (200, b"{}")
                assert recorder.requests[-1] == expected

    @pytest.mark.parametrize("count", [1, 2, 5000])
    async def test_empty_lines_before_a_request(self, proxy: app.Running, count: int) -> None:
        """RFC 9112 2.2."""
        async with raw_client(proxy.url) as client:
            for _ in range(2):
                await client.send(b"\r\n" * count, b"\r", b"\n", request_head("GET", "/livez"))
                assert (await client.answer()).status == 200
                await client.send(b"\r\n" * count + request_head("GET", "/livez"))
                assert (await client.answer()).status == 200

    @pytest.mark.parametrize("target", ["http://localhost/v1/embeddings", "HTTP://LOCALHOST:80/v1/embeddings?a=b"])
    async def test_absolute_form(self, proxy: app.Running, recorder: Recorder, target: str) -> None:
        """C26: its authority counts, not the Host; only origin-form goes up."""
        raw = post(target, b'{"model":"m"}').replace(b"Host: localhost", b"Host: evil.example")
        await self.asked(proxy, raw)
        query = b"?a=b" if "?" in target else b""
        assert recorder.requests[-1].startswith(b"POST /v1/embeddings" + query + b" HTTP/1.1\r\nHost: 127.0.0.1:")

    async def test_absolute_form_of_another_host(self, proxy: app.Running) -> None:
        async with raw_client(proxy.url) as client:
            status = await refusal(client, [post("http://evil.example/v1/embeddings", b"{}")])
        assert status == (403, "host_not_allowed")

    @pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
    async def test_an_upgrade_is_ignored(self, proxy: app.Running, recorder: Recorder, upgrade: bytes) -> None:
        """C30."""
        lines = (b"Upgrade: " + upgrade, b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk")
        await self.asked(proxy, post("/v1/embeddings", b'{"model":"m"}', *lines))
        sent = recorder.requests[-1].lower()
        assert not any(name in sent for name in (b"upgrade", b"connection:", b"http2-settings"))

    async def test_names_that_gateways_would_map_onto_others_stay_here(
        self, proxy: app.Running, recorder: Recorder
    ) -> None:
        """C22."""
        lines = (b"X_Api_Key: k", b"Content_Length: 5", b"Transfer_Encoding: chunked", b"Authorization_: k")
        await self.asked(proxy, post("/v1/embeddings", b'{"model":"m"}', *lines))
        assert b"_" not in recorder.requests[-1]

    @pytest.mark.parametrize(("lines", "stays"), [((), False), ((b"Connection: keep-alive",), True)])
    async def test_http_10(self, proxy: app.Running, lines: tuple[bytes, ...], *, stays: bool) -> None:
        """C28."""
        async with raw_client(proxy.url) as client:
            for _ in range(2):
                await client.send(post("/v1/embeddings", b'{"model":"m"}', *lines, version=b"1.0"))
                answer = await client.answer()
                assert (answer.status, bytes(answer.body)) == (200, b"{}")
                assert answer.header(b"connection") == (b"keep-alive" if stays else b"close")
                assert answer.header(b"transfer-encoding") == b""
                if not stays:
                    assert await client.closed() == b""
                    break

    async def test_http_10_without_a_host_is_served_where_a_key_says_who_asks(self, recorder: Recorder) -> None:
        async with guarded(recorder.url, api_keys=("k",)) as proxy, raw_client(proxy.url) as client:
            await client.send(b"GET /livez HTTP/1.0\r\nAuthorization: Bearer k\r\n\r\n")
            assert (await client.answer()).status == 200

    @pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "PATCH"])
    async def test_methods_that_no_path_has(self, proxy: app.Running, method: str) -> None:
        """C25."""
        target = "localhost:80" if method == "CONNECT" else "/livez"
        async with raw_client(proxy.url) as client:
            answer = await client.ask(request_head(method, target))
            assert (answer.status, answer.error_code) == (405, "method_not_allowed")
            assert b"GET" in answer.header(b"allow")
            assert (await client.ask(request_head("GET", "/livez"))).status == 200

    @pytest.mark.parametrize("path", ["/v1/../livez", "/v1/%2e%2e/livez", "/livez%00", "//livez", "/LIVEZ", "/livez/"])
    async def test_paths_that_only_look_like_a_known_one(self, proxy: app.Running, path: str) -> None:
        """C27."""
        async with raw_client(proxy.url) as client:
            answer = await client.ask(request_head("GET", path))
            assert (answer.status, answer.error_code) == (404, "unknown_route")


class TestPipelining:
    """C10."""

    async def test_answers_come_in_order_and_a_request_starts_after_the_one_before(
        self, proxy: app.Running, recorder: Recorder
    ) -> None:
        bodies = [b'{"model":"m%d"}' % number for number in range(20)]
        before = len(recorder.requests)
        raw = b"".join(
            request_head("GET", f"/nowhere/{number}") + post("/v1/embeddings", body)
            for number, body in enumerate(bodies)
        )
        async with raw_client(proxy.url) as client:
            await client.send(*cut_at(raw, range(0, len(raw), 333)))
            for _ in bodies:
                assert [(await client.answer()).status for _ in range(2)] == [404, 200]
        assert [request.rpartition(b"\r\n\r\n")[2] for request in recorder.requests[before:]] == bodies

    async def test_nothing_is_served_behind_the_last_one(self, proxy: app.Running, recorder: Recorder) -> None:
        last = post("/v1/embeddings", b'{"model":"last"}', b"Connection: close")
        async with raw_client(proxy.url) as client:
            await client.send(last + post("/v1/embeddings", b'{"model":"too late"}'))
            answer = await client.answer()
            assert answer.header(b"connection") == b"close"
            assert await client.closed() == b""
        assert recorder.requests[-1].endswith(b'{"model":"last"}')

    async def test_whoever_asks_and_does_not_read_is_not_served_without_end(self, proxy: app.Running) -> None:
        """R5: the answers that nobody reads must not pile up here."""
        request = request_head("GET", "/v1/nowhere/" + "x" * 50) * 100
        wire = connect(proxy.url, receive_buffer_bytes=4096)
        try:
            sent = await _taken(wire._sock, request, most=16 << 20)
            assert sent < 12 << 20
        finally:
            wire.close()


async def _taken(sock: socket.socket, piece: bytes, *, most: int) -> int:
    """How many bytes the server takes before it stops reading."""
    sent = 0
    with anyio.move_on_after(0.5) as patience:
        while sent < most:
            await anyio.wait_writable(sock)
            try:
                sent += sock.send(piece)
            except BlockingIOError:
                continue
            patience.deadline = anyio.current_time() + 0.5
    return sent


class TestClocks:
    @pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\n", request_head("GET", "/livez")[:-1]])
    async def test_a_head_that_does_not_come_to_its_end(self, recorder: Recorder, begun: bytes) -> None:
        """C02."""
        async with guarded(recorder.url, timeouts={"head_s": 0.05}) as proxy, raw_client(proxy.url) as client:
            assert await refusal(client, [begun]) == (408, "head_timeout")

    async def test_a_head_that_drips(self, recorder: Recorder) -> None:
        async with guarded(recorder.url, timeouts={"head_s": 0.1}) as proxy, raw_client(proxy.url) as client:
            await client.send(b"GET / HTTP/1.1\r\n")
            await _drip(client, b"X: y\r\n")
            assert await refusal(client, []) == (408, "head_timeout")

    @pytest.mark.parametrize("begun", [b"", b"\r\n", b"\r"])
    async def test_nothing_at_all(self, recorder: Recorder, begun: bytes) -> None:
        """C01: no answer to a question that was never asked."""
        async with guarded(recorder.url, timeouts={"head_s": 0.05}) as proxy, raw_client(proxy.url) as client:
            await client.send(begun)
            assert await client.closed() == b""

    @pytest.mark.parametrize("stray", [b"", b"\r\n"])
    async def test_nothing_more(self, recorder: Recorder, stray: bytes) -> None:
        timeouts = {"keepalive_idle_s": 0.05, "head_s": 60.0}
        async with guarded(recorder.url, timeouts=timeouts) as proxy, raw_client(proxy.url) as client:
            assert (await client.ask(request_head("GET", "/livez"))).status == 200
            await client.send(stray)
            assert await client.closed() == b""

    async def test_empty_lines_without_end(self, recorder: Recorder) -> None:
        async with guarded(recorder.url, timeouts={"head_s": 0.1}) as proxy, raw_client(proxy.url) as client:
            await _drip(client, b"\r\n")
            assert await client.closed() == b""

    async def test_a_slow_head_behind_an_upload(self, recorder: Recorder) -> None:
        """The clock of the upload is not in the way of the next one."""
        timeouts = {"head_s": 0.8, "body_s": 0.5}
        async with guarded(recorder.url, timeouts=timeouts) as proxy, raw_client(proxy.url) as client:
            upload = request_head("POST", "/v1/files", b"Content-Length: 4")
            await client.send(upload, b"ab", b"cd")
            assert (await client.answer()).status == 200
            await client.send(b"GET / HT")
            assert await refusal(client, []) == (408, "head_timeout")


async def _drip(client: RawClient, drop: bytes) -> None:
    """Until the server has had enough."""
    try:
        while not client.wire.buffer:
            await client.wire.send(drop)
            with anyio.move_on_after(0.01):
                await client.wire.receive_more()
    except PeerLeft:
        pass

"""One connection to an upstream: what goes up, which answers are taken, and when it may be used again."""

from __future__ import annotations

import math
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import httpcore
import pytest

from qproxy.core.exchange import Attempt
from qproxy.core.framing import LAST_CHUNK, ChunkRelay, LengthWalker
from qproxy.core.limits import Limits
from qproxy.core.replay import ReplayBuffer
from qproxy.core.upstream import BaseUrl
from qproxy.edge.connect import NetworkBackend
from qproxy.edge.http11 import KnownBody, LiveBody, UpstreamResponse
from qproxy.edge.pool import Pool
from qproxy.edge.runtime import Runtime, current_runtime
from qproxy.edge.streams import Stream, StreamLost, open_stream
from qproxy.errors import DownstreamError, QProxyError, UpstreamError
from qproxy.simulator.wire import Wire
from tests.support.leaks import cancelled_at_every_await, nothing_left, tcp_pair, turns
from tests.support.scripted_upstream import (
    Connection,
    ScriptedUpstream,
    answer,
    chunk,
    close,
    expect_bytes,
    expect_head,
    expect_request,
    half_close,
    head,
    reset,
    scripted_upstream,
    send,
    send_bytewise,
    wait_for,
    wait_without_reading,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

CONTEXT = ssl.create_default_context()
LIMITS = Limits()
SOON = 0.05
BIG = bytes(byte % 251 for byte in range(1 << 20)) * 8
OK = answer(200, body=b"ok")
HEAD = b"POST /v1/x HTTP/1.1\r\nHost: up\r\nContent-Length: %d\r\n\r\n"
CHUNKED_HEAD = b"POST /v1/x HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n"


class Place:
    """A pool, the upstream behind it, and clients to take live bodies from."""

    def __init__(self, upstream: ScriptedUpstream, pool: Pool, runtime: Runtime) -> None:
        self.upstream = upstream
        self.pool = pool
        self._runtime = runtime
        self._clients: list[Stream | Wire] = []

    async def ask(
        self,
        pieces: Sequence[bytes] = (b"{}",),
        *,
        method: bytes = b"POST",
        read_s: float = math.inf,
        write_s: float = math.inf,
    ) -> UpstreamResponse:
        """A request as the proxy makes it: its head finished, its body known."""
        body = KnownBody(pieces)
        return await self._send(method, HEAD % body.size, body, read_s=read_s, write_s=write_s)

    async def ask_live(self, body: LiveBody, length: int | None, *, read_s: float = math.inf) -> UpstreamResponse:
        return await self._send(b"POST", CHUNKED_HEAD if length is None else HEAD % length, body, read_s=read_s)

    async def client(self, *, buffer_bytes: int = 0) -> tuple[Stream, Wire]:
        ours, theirs = tcp_pair(send_buffer_bytes=buffer_bytes, receive_buffer_bytes=buffer_bytes)
        wire = Wire(theirs)
        self._clients.append(wire)
        stream = await open_stream(self._runtime, ours)
        self._clients.append(stream)
        return stream, wire

    def close(self) -> None:
        for end in self._clients:
            end.abort() if isinstance(end, Stream) else end.close()

    async def _send(
        self, method: bytes, raw: bytes, body: KnownBody | LiveBody, *, read_s: float, write_s: float = math.inf
    ) -> UpstreamResponse:
        request = httpcore.Request(method, httpcore.URL(self.upstream.url), content=body)
        timeout = {"read": read_s, "write": write_s, "pool": 5.0, "connect": 5.0}
        request.extensions = {"head": raw, "attempt": Attempt("up"), "timeout": timeout}
        response = await self.pool.handle_async_request(request)
        assert isinstance(response, UpstreamResponse)
        return response


@asynccontextmanager
async def place(*scripts: Sequence[Step], limits: Limits = LIMITS, capacity: int = 1) -> AsyncIterator[Place]:
    async with nothing_left(), scripted_upstream(*scripts) as upstream, anyio.create_task_group() as tasks:
        runtime = current_runtime(tasks)
        pool = Pool(
            BaseUrl.parse(upstream.url),
            runtime,
            NetworkBackend(runtime),
            ssl_context=CONTEXT,
            max_connections=capacity,
            keepalive_s=60.0,
            limits=limits,
        )
        here = Place(upstream, pool, runtime)
        try:
            yield here
        finally:
            here.close()
            await pool.aclose()
            await turns()
            tasks.cancel_scope.cancel()


async def read(response: UpstreamResponse) -> bytes:
    """The whole body; the connection goes back."""
    try:
        return b"".join([part async for part in response])
    finally:
        response.close()


async def until_nobody_reads(here: Place) -> None:
    """Returns when the upstream has read the head, behind which its script stops."""
    connection = await here.upstream.connected()
    while not connection.steps_done:
        await anyio.sleep(0.001)


def is_reused(here: Place) -> bool:
    return len(here.pool.connections) == 1


class TestRequests:
    @pytest.mark.parametrize(
        "pieces",
        [[], [b""], [b"{}"], [b"a", b"bc", b"def"], [bytes(16 * 1024)], [bytes(16 * 1024 + 1)], [bytes(200_000)] * 3],
        ids=["none", "empty", "small", "three", "joined", "not joined", "long"],
    )
    async def test_they_go_up_as_they_are(self, pieces: list[bytes]) -> None:
        async with place([expect_request(), send(OK)]) as here:
            assert await read(await here.ask(pieces)) == b"ok"
            body = b"".join(pieces)
            assert here.upstream.connections[0].received == HEAD % len(body) + body
            assert is_reused(here)

    async def test_views_of_a_body_go_up_as_well(self) -> None:
        async with place([expect_request(), send(OK)]) as here:
            view = memoryview(BIG)
            body = KnownBody([view[:10], view[10 : 1 << 20]])
            request = httpcore.Request("POST", here.upstream.url, content=body)
            request.extensions = {"head": HEAD % body.size}
            response = await here.pool.handle_async_request(request)
            assert isinstance(response, UpstreamResponse)
            assert await read(response) == b"ok"
            assert here.upstream.connections[0].received.endswith(BIG[: 1 << 20])

    async def test_a_long_body_waits_for_a_slow_upstream(self) -> None:
        go_on = anyio.Event()
        script = [expect_head(), wait_without_reading(go_on), expect_bytes(len(BIG)), send(OK)]
        async with place(script) as here:
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    pieces = [BIG[at : at + 65536] for at in range(0, len(BIG), 65536)]
                    assert await read(await here.ask(pieces)) == b"ok"

                tasks.start_soon(ask)
                await until_nobody_reads(here)
                await anyio.sleep(SOON)
                (connection,) = here.pool.connections
                assert connection.wire.unsent_bytes < 1 << 20  # type: ignore[attr-defined]
                go_on.set()
            assert here.upstream.connections[0].received.endswith(BIG)

    async def test_the_attempt_knows_what_happened(self) -> None:
        async with place([expect_request(), send(OK), expect_request(), send(OK)]) as here:
            for reused in (False, True):
                request = httpcore.Request("POST", here.upstream.url, content=KnownBody([]))
                attempt = Attempt("up")
                request.extensions = {"head": HEAD % 0, "attempt": attempt}
                response = await here.pool.handle_async_request(request)
                assert (attempt.sent, attempt.reused_connection) == (True, reused)
                await response.aread()
                await response.aclose()

    async def test_an_upstream_that_takes_nothing(self) -> None:
        async with place([expect_head(), wait_without_reading(anyio.Event())]) as here:
            with pytest.raises(httpcore.WriteTimeout):
                await here.ask([BIG, BIG], write_s=SOON)
            assert here.pool.connections == []

    async def test_httpcores_own_bodies(self) -> None:
        async def parts() -> AsyncIterator[bytes]:
            yield b"abc"
            yield b""
            yield b"de"

        async def nothing() -> AsyncIterator[bytes]:
            return
            yield b""

        script = [step for _ in range(3) for step in (expect_request(), send(OK))]
        async with place(script) as here:
            for content in (b"plain", parts(), nothing()):
                response = await here.pool.request("POST", here.upstream.url + "/x", content=content)
                assert response.content == b"ok"
            received = here.upstream.connections[0].received
            assert b"Content-Length: 5\r\n\r\nplainPOST" in received
            assert b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\nPOST" in received
            assert received.endswith(b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")

    @pytest.mark.parametrize(("name", "value"), [("X", "a\r\nY: b"), ("X\r\nY", "b"), ("X", "a\x00")])
    async def test_no_header_breaks_out_of_its_line(self, name: str, value: str) -> None:
        async with place([expect_request(), send(OK)]) as here:
            with pytest.raises(httpcore.LocalProtocolError):
                await here.pool.request("GET", here.upstream.url, headers={name: value})
            assert here.pool.connections == []


BODIES: dict[str, tuple[bytes, bytes, bool]] = {
    "length": (answer(200, body=b"abc"), b"abc", True),
    "empty": (answer(200), b"", True),
    "chunks": (
        head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"abc") + chunk(b"de") + LAST_CHUNK,
        b"abcde",
        True,
    ),
    "chunks, trailers (U32)": (
        head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"abc") + b"0;x\r\nX-Sum: 1\r\n\r\n",
        b"abc",
        True,
    ),
    "no body": (head(204), b"", True),
    "interim answers first (U17)": (head(100) + head(103, [(b"link", b"</a>")]) + OK, b"ok", True),
    "sixteen interim answers": (head(103) * 16 + OK, b"ok", True),
    "connection: close": (answer(200, [(b"connection", b"close")], b"abc"), b"abc", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", False),
    "bytes behind the body (U16)": (OK + b"extra", b"ok", False),
    "an answer behind the answer": (OK + OK, b"ok", False),
    "bytes behind no body": (head(204) + b"x", b"", False),
    "bytes behind the last chunk": (
        head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"abc") + LAST_CHUNK + b"x",
        b"abc",
        False,
    ),
    "length and chunks (U16)": (
        head(200, [(b"content-length", b"99"), (b"transfer-encoding", b"chunked")]) + chunk(b"abc") + LAST_CHUNK,
        b"abc",
        False,
    ),
}  # fmt: skip


class TestAnswers:
    @pytest.mark.parametrize(("raw", "body", "reused"), BODIES.values(), ids=BODIES)
    @pytest.mark.parametrize("sending", [send, send_bytewise], ids=["whole", "bytewise"])
    async def test_whole_answers(
        self, raw: bytes, body: bytes, sending: Callable[[bytes], Step], *, reused: bool
    ) -> None:
        second = [expect_request(), send(OK)]
        async with place([expect_request(), sending(raw), *second], second) as here:
            response = await here.ask()
            assert not response.early
            assert await read(response) == body
            await turns()
            assert await read(await here.ask()) == b"ok"
            assert len(here.upstream.connections) == (1 if reused else 2)

    async def test_to_a_head_request(self) -> None:
        async with place([expect_request(), send(answer(200, body=b"")[:-4] + b"\r\nX: y\r\n\r\n")]) as here:
            response = await here.ask([], method=b"HEAD")
            assert response.head.bodyless
            assert await read(response) == b""
            assert is_reused(here)

    @pytest.mark.parametrize("how", [close, half_close])
    async def test_that_end_with_the_connection(self, how: Callable[[], Step]) -> None:
        async with place([expect_request(), send(head(200) + b"ab", b"c"), how()]) as here:
            assert await read(await here.ask()) == b"abc"
            assert here.pool.connections == []

    @pytest.mark.parametrize(
        "raw",
        [
            head(103) * 17 + OK,
            head(101, [(b"upgrade", b"x")]),
            b"HTTP/1.1 999 X\r\n\r\n",
            b"HTTP/1.1 1000 X\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"a" * LIMITS.upstream_head_bytes + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"a" * LIMITS.upstream_head_bytes * 4,
        ],
        ids=["interim answers", "101", "999", "1000", "banner", "head too large", "endless head"],
    )
    async def test_that_break_http(self, raw: bytes) -> None:
        """U17 to U20."""
        async with place([expect_request(), send(raw)]) as here:
            with pytest.raises(UpstreamError) as caught:
                await here.ask()
            assert caught.value.code == "upstream_protocol_error"
            assert here.pool.connections == []

    async def test_a_head_longer_than_the_buffer_of_a_stream(self) -> None:
        limits = Limits(upstream_head_bytes=1 << 20)
        raw = head(200, [(b"x", b"a" * 600_000), (b"content-length", b"2")]) + b"ok"
        pieces = [raw[at : at + 50_000] for at in range(0, len(raw), 50_000)]
        async with place([expect_request(), send(*pieces)], limits=limits) as here:
            assert await read(await here.ask(read_s=5.0)) == b"ok"

    @pytest.mark.parametrize("how", [close, reset])
    @pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-"], ids=["nothing", "half a head"])
    async def test_that_never_come(self, how: Callable[[], Step], begun: bytes) -> None:
        """U05, U07."""
        async with place([expect_request(), send(begun), how()]) as here:
            with pytest.raises(httpcore.ReadError):
                await here.ask()
            assert here.pool.connections == []

    async def test_that_do_not_come_in_time(self) -> None:
        """U12."""
        async with place([expect_request(), wait_for(anyio.Event())]) as here:
            with pytest.raises(httpcore.ReadTimeout):
                await here.ask(read_s=SOON)
            assert here.pool.connections == []
            await (await here.upstream.connected()).peer_left.wait()

    @pytest.mark.parametrize(
        ("raw", "how", "error"),
        [
            (head(200, [(b"content-length", b"5")]) + b"abc", close, UpstreamError),
            (head(200, [(b"content-length", b"5")]) + b"abc", reset, StreamLost),
            (head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"abc"), close, UpstreamError),
            (head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"abc"), reset, StreamLost),
            (head(200, [(b"transfer-encoding", b"chunked")]) + b"zz\r\n", half_close, UpstreamError),
            (head(200) + b"abc", reset, StreamLost),
        ],
    )
    async def test_that_are_cut(self, raw: bytes, how: Callable[[], Step], error: type[Exception]) -> None:
        """U11, U15; a reset is no end, also where the connection's end would be the body's."""
        sent = anyio.Event()
        async with place([expect_request(), send(raw), wait_for(sent), how()]) as here:
            with pytest.raises(error):
                response = await here.ask()
                sent.set()
                await read(response)
            assert here.pool.connections == []

    async def test_one_that_is_not_read_costs_the_connection(self) -> None:
        async with place([expect_request(), send(answer(200, body=b"abc"))]) as here:
            response = await here.ask()
            await response.aclose()
            response.close()
            assert here.pool.connections == []

    async def test_one_without_a_body_need_not_be_read(self) -> None:
        async with place([expect_request(), send(answer(200))]) as here:
            (await here.ask()).close()
            assert is_reused(here)

    async def test_silence_in_the_middle(self) -> None:
        async with place([expect_request(), send(head(200, [(b"content-length", b"5")]) + b"abc")]) as here:
            response = await here.ask()
            response.allow_silence(SOON)
            with pytest.raises(httpcore.ReadTimeout):
                await read(response)


class TestEarlyAnswers:
    """U34: an answer that comes before the upload is complete is that answer, and costs the connection."""

    async def test_to_a_known_body(self) -> None:
        go_on = anyio.Event()
        early = answer(413, body=b"too large")
        async with place([expect_head(), send(early), wait_without_reading(go_on)]) as here:
            response = await here.ask([BIG] * 4)
            assert (response.status, response.early) == (413, True)
            assert await read(response) == b"too large"
            assert here.pool.connections == []
            go_on.set()

    async def test_from_an_upstream_that_closes_behind_it(self) -> None:
        async with place([expect_head(), send(answer(413, body=b"no")), half_close()]) as here:
            response = await here.ask([BIG] * 4)
            assert response.status == 413
            assert await read(response) == b"no"
            assert here.pool.connections == []

    async def test_while_the_last_bytes_are_still_on_their_way(self) -> None:
        """All of the body was put, not all of it was taken: another request would wait behind the rest.

        How much the kernel takes is its own affair, so one of the sizes leaves a rest here.
        """
        go_on = anyio.Event()
        kept: list[int] = []
        async with place([expect_head(), send(answer(413)), wait_without_reading(go_on)], capacity=100) as here:

            async def ask(size: int) -> None:
                response = await here.ask([BIG[:size]])
                wire = response._connection.wire
                response.close()
                if not wire.closing:
                    kept.append(wire.unsent_bytes)

            async with anyio.create_task_group() as tasks:
                for size in range(1 << 16, 5 << 20, 1 << 16):
                    tasks.start_soon(ask, size)
            assert set(kept) == {0}
            go_on.set()

    async def test_to_a_live_body(self) -> None:
        async with place([expect_head(), send(answer(401, body=b"no"))]) as here:
            source, client = await here.client()
            arrivals: list[None] = []
            await client.send(b"abc")
            response = await here.ask_live(live(source, 10, arrived=lambda: arrivals.append(None)), 10)
            assert (response.status, response.early, arrivals) == (401, True, [])
            assert await read(response) == b"no"
            assert here.pool.connections == []
            await client.send(b"stays here")
            while len(source.buffer) < 10:
                await source.fill()


def live(
    source: Stream,
    length: int | None,
    *,
    silence_s: float = math.inf,
    limit_bytes: int = 1 << 30,
    arrived: Callable[[], None] = lambda: None,
) -> LiveBody:
    walker = ChunkRelay() if length is None else LengthWalker(length)
    keep = ReplayBuffer(limit_bytes).put
    return LiveBody(source, walker, chunked=length is None, keep=keep, silence_s=silence_s, arrived=arrived)


class TestLiveBodies:
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_they_go_up_while_they_arrive(self, *, chunked: bool) -> None:
        parts = [b"abc", b"de", b"f" * 5000]
        wires = [chunk(part) if chunked else part for part in parts]
        arrivals: list[int] = []
        length = None if chunked else sum(map(len, parts))

        async def arrives_piece_by_piece(connection: Connection) -> None:
            for number, wire in enumerate(wires):
                assert await connection.read_exactly(len(wire)) == wire
                assert not arrivals or number == len(wires) - 1
                seen[number].set()

        seen = [anyio.Event() for _ in wires]
        script: list[Step] = [expect_head(), arrives_piece_by_piece]
        if chunked:
            script.append(expect_bytes(len(LAST_CHUNK)))
        async with place([*script, send(OK)]) as here:
            source, client = await here.client()

            async def upload() -> None:
                for wire, event in zip(wires, seen, strict=True):
                    await client.send(wire)
                    await event.wait()
                await client.send((LAST_CHUNK if chunked else b"") + b"next request")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(upload)
                body = live(source, length, arrived=lambda: arrivals.append(1))
                response = await here.ask_live(body, length)
                assert not response.early
                assert await read(response) == b"ok"
            while len(source.buffer) < 12:
                await source.fill()
            assert source.buffer == b"next request"
            assert arrivals == [1]
            assert is_reused(here)

    async def test_one_that_had_come_whole(self) -> None:
        async with place([expect_request(), send(OK)]) as here:
            source, client = await here.client()
            await client.send(b"abcrest")
            while len(source.buffer) < 7:
                await source.fill()
            assert await read(await here.ask_live(live(source, 3), 3)) == b"ok"
            assert source.buffer == b"rest"

    @pytest.mark.parametrize(
        ("length", "comes", "leave", "code"),
        [
            (5, b"abc", "half_close", "bad_request"),
            (5, b"abc", "reset", "bad_request"),
            (None, chunk(b"abc"), "half_close", "bad_request"),
            (None, chunk(b"abc") + b"zz\r\n", None, "bad_chunk"),
            (None, chunk(b"abc") + b"3\r\nabcd", None, "bad_chunk"),
            (None, chunk(bytes(200)), None, "body_too_large"),
            (5, b"abc", None, "body_timeout"),
        ],
    )
    async def test_a_client_that_breaks_its_body(
        self, length: int | None, comes: bytes, leave: str | None, code: str
    ) -> None:
        """C03, C06, C15, C16: nothing complete reaches the upstream."""
        async with place([expect_request(), send(OK)]) as here:
            source, client = await here.client()
            with pytest.raises(DownstreamError) as caught:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.send, comes)
                    if leave is not None:
                        tasks.start_soon(_leave, client, leave)
                    body = live(source, length, limit_bytes=100, silence_s=SOON if leave is None else math.inf)
                    try:
                        await here.ask_live(body, length)
                    except QProxyError as exc:
                        failure = exc
                raise failure
            assert caught.value.code == code
            assert here.pool.connections == []
            connection = await here.upstream.connected()
            await connection.finished.wait()
            assert connection.steps_done == 0

    async def test_the_clients_clock_starts_with_its_body(self) -> None:
        """Not before the connection to the upstream stands; and it is not left running."""
        async with place([expect_request(), send(OK)]) as here:
            source, client = await here.client()
            body = live(source, 3, silence_s=SOON)
            await anyio.sleep(2 * SOON)
            await client.send(b"abc")
            while len(source.buffer) < 3:  # so that nobody is late with it
                await source.fill()
            assert await read(await here.ask_live(body, 3)) == b"ok"
            await anyio.sleep(2 * SOON)
            await client.send(b"x")
            assert await source.fill()

    async def test_an_upstream_that_leaves_during_the_upload(self) -> None:
        async with place([expect_head(), reset()]) as here:
            source, _ = await here.client()
            with pytest.raises(httpcore.ReadError):
                await here.ask_live(live(source, 5), 5)
            assert here.pool.connections == []

    async def test_one_that_answers_too_late(self) -> None:
        async with place([expect_request(), wait_for(anyio.Event())]) as here:
            source, client = await here.client()
            await client.send(b"abc")
            with pytest.raises(httpcore.ReadTimeout):
                await here.ask_live(live(source, 3), 3, read_s=SOON)

    async def test_a_slow_upstream_holds_the_client_back(self) -> None:
        """R5."""
        go_on = anyio.Event()
        size = len(BIG) * 3
        script = [expect_head(), wait_without_reading(go_on), expect_bytes(size), send(OK)]
        async with place(script) as here:
            source, client = await here.client(buffer_bytes=16384)
            sent = 0

            async def upload() -> None:
                nonlocal sent
                for at in range(0, size, 65536):
                    await client.send(BIG[at % len(BIG) : at % len(BIG) + 65536])
                    sent += 65536

            async def ask() -> None:
                assert await read(await here.ask_live(live(source, size), size)) == b"ok"

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(upload)
                tasks.start_soon(ask)
                await until_nobody_reads(here)
                await anyio.sleep(4 * SOON)
                (connection,) = here.pool.connections
                assert connection.wire.unsent_bytes < 1 << 20  # type: ignore[attr-defined]
                assert sent < size
                go_on.set()
            assert here.upstream.connections[0].received.endswith(BIG * 3)

    async def test_cancelled_at_every_await(self) -> None:
        script = [step for _ in range(200) for step in (expect_request(), send(OK))]
        async with place(script) as here:

            async def exchange() -> None:
                source, client = await here.client()
                await client.send(chunk(b"abc"))

                async def rest() -> None:
                    await turns(3)
                    await client.send(LAST_CHUNK)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(rest)
                    assert await read(await here.ask_live(live(source, None), None)) == b"ok"

            assert await cancelled_at_every_await(exchange) > 3
            await exchange()


async def _leave(client: Wire, how: str) -> None:
    await turns(3)
    getattr(client, how)()

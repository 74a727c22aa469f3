"""TLS to an upstream: who is trusted, what a broken handshake says, and which end of a body is a clean one."""

from __future__ import annotations

import os
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import httpcore
import pytest

from qproxy.core.framing import CloseWalker, LengthWalker
from qproxy.edge.connect import TlsFailed, secure
from qproxy.edge.pump import Pump
from qproxy.edge.runtime import current_runtime
from qproxy.edge.streams import Stream, StreamLost, open_stream
from qproxy.simulator.wire import PeerLeft, Wire
from tests.support.certificates import client_context, server_context
from tests.support.leaks import cancelled_at_every_await, nothing_left, tcp_pair, turns
from tests.support.real_pool import pool_to
from tests.support.scripted_upstream import answer, close, expect_request, head, scripted_upstream, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

pytestmark = pytest.mark.anyio

NAME = "upstream.example"
SOON = 0.05
LONG = bytes(byte % 251 for byte in range(1 << 20)) * 4
VERSIONS = [
    pytest.param(ssl.TLSVersion.TLSv1_2, id="1.2"),
    pytest.param(ssl.TLSVersion.TLSv1_3, id="1.3"),
]


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Stream, Wire]]:
    """A stream, not yet secured, and the other end."""
    async with nothing_left(), anyio.create_task_group() as tasks:
        ours, theirs = tcp_pair()
        stream, wire = await open_stream(current_runtime(tasks), ours), Wire(theirs)
        try:
            yield stream, wire
        finally:
            stream.abort()
            wire.close()
            await turns()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def secured(version: ssl.TLSVersion | None = None) -> AsyncIterator[tuple[Stream, Wire]]:
    """Both ends speak TLS."""
    async with pair() as (stream, wire):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.handshake, server_context(NAME, version=version))
            await secure(stream, client_context(), NAME, 5.0)
        yield stream, wire


async def together(*works: Callable[[], Coroutine[object, object, object]]) -> None:
    async with anyio.create_task_group() as tasks:
        for work in works:
            tasks.start_soon(work)


async def say_goodbye(wire: Wire) -> None:
    """close_notify, and nothing else: the connection stays open."""
    assert isinstance(wire._sock, ssl.SSLSocket)
    try:
        wire._sock.unwrap()
    except (ssl.SSLWantReadError, OSError):
        pass


class TestBytes:
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_both_ways(self, version: ssl.TLSVersion) -> None:
        async with secured(version) as (stream, wire):
            stream.put(b"question")
            await wire.receive_more()
            assert wire.buffer == b"question"
            await wire.send(b"answer")
            assert await stream.fill()
            assert stream.take_all() == b"answer"
            tls = stream.get_extra_info("ssl_object")
            assert tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]

    async def test_long_bodies_both_ways_at_once(self) -> None:
        async with secured() as (stream, wire):

            async def send() -> None:
                for at in range(0, len(LONG), 65536):
                    stream.put(memoryview(LONG)[at : at + 65536])

            async def receive() -> None:
                got: list[bytes] = []
                while sum(map(len, got)) < len(LONG):
                    if not stream.buffer:
                        assert await stream.fill()
                    got.append(stream.take_all())
                assert b"".join(got) == LONG

            async def peer_receives() -> None:
                while len(wire.buffer) < len(LONG):
                    await wire.receive_more()
                assert wire.buffer == LONG

            async def peer_sends() -> None:
                await wire.send(LONG)

            await together(send, receive, peer_receives, peer_sends)

    async def test_through_a_pump(self) -> None:
        async with secured() as (source, server), pair() as (sink, client):
            pump = Pump(source, sink, LengthWalker(len(LONG)), ending=lambda: b"<end>")

            async def move() -> None:
                source.start_pump(pump)
                await source.pumped(pump)
                sink.end_writing()

            async def read() -> None:
                with pytest.raises(PeerLeft):
                    while True:
                        await client.receive_more()

            await together(move, read, lambda: server.send(LONG + b"behind"))
            assert bytes(client.buffer) == LONG + b"<end>"
            if not source.buffer:
                await source.fill()
            assert source.take_all() == b"behind"

    async def test_a_slow_sink_pauses_a_secure_source(self) -> None:
        async with secured() as (source, server), pair() as (sink, client):
            size = 16 * len(LONG)
            pump = Pump(source, sink, LengthWalker(size))
            source.start_pump(pump)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.send, LONG * 16)
                while not sink.congested:
                    await anyio.sleep(SOON / 4)
                await anyio.sleep(4 * SOON)
                assert pump.moved_bytes < size // 2
                assert sink.congested
                tasks.start_soon(source.pumped, pump)
                while len(client.buffer) < size:
                    await client.receive_more()
            assert client.buffer == LONG * 16

    async def test_bytes_that_come_with_the_handshake_are_not_lost(self) -> None:
        async with pair() as (stream, wire):

            async def serve() -> None:
                await wire.handshake(server_context(NAME))
                await wire.send(b"early")

            async def connect() -> None:
                await secure(stream, client_context(), NAME, 5.0)
                assert stream.buffer or await stream.fill()
                assert stream.take_all() == b"early"

            await together(serve, connect)


class TestTrust:
    """U04: no detail for the client, no resend for a certificate, no way to turn it off."""

    async def refused(
        self,
        serve: Callable[[Wire], Awaitable[object]],
        context: ssl.SSLContext,
        name: str = NAME,
        timeout_s: float = 5.0,
    ) -> str:
        async with pair() as (stream, wire):

            async def answer() -> None:
                try:
                    await serve(wire)
                    while True:
                        await wire.receive_more()
                except PeerLeft:
                    pass

            async def connect() -> str:
                with pytest.raises(TlsFailed) as caught:
                    await secure(stream, context, name, timeout_s)
                assert stream.closing
                return str(caught.value)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer)
                return await connect()
            raise AssertionError("connecting was cancelled")

    async def test_an_unknown_authority(self) -> None:
        said = await self.refused(lambda wire: wire.handshake(server_context(NAME)), client_context(trusting=False))
        assert "certificate verify failed" in said

    async def test_another_name(self) -> None:
        said = await self.refused(lambda wire: wire.handshake(server_context("other.example")), client_context())
        assert "upstream.example" in said

    async def test_an_address_is_a_name_too(self) -> None:
        said = await self.refused(lambda wire: wire.handshake(server_context(NAME)), client_context(), "127.0.0.1")
        assert "127.0.0.1" in said

    async def test_not_tls(self) -> None:
        await self.refused(lambda wire: wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10), client_context())

    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_cut_in_the_handshake(self, how: str) -> None:
        async def hello_and_away(wire: Wire) -> None:
            await wire.receive_more()
            getattr(wire, how)()
            raise PeerLeft

        await self.refused(hello_and_away, client_context())

    async def test_a_handshake_that_stalls(self) -> None:
        said = await self.refused(lambda wire: anyio.lowlevel.checkpoint(), client_context(), timeout_s=SOON)
        assert "silent" in said

    async def test_a_handshake_that_drips(self) -> None:
        """Bytes that keep coming do not make it longer."""

        async def drip(wire: Wire) -> None:
            record = b"\x16\x03\x03\x40\x00" + bytes(16000)
            for byte in record:
                await wire.send(bytes([byte]))
                await anyio.sleep(SOON / 8)

        await self.refused(drip, client_context(), timeout_s=SOON)

    async def test_a_refused_client_tells_why(self) -> None:
        """The alert reaches a server that looks for the reason in its own log."""
        alerts: list[str] = []

        async def serve(wire: Wire) -> None:
            try:
                await wire.handshake(server_context(NAME, version=ssl.TLSVersion.TLSv1_3))
                await wire.receive_more()
            except PeerLeft as left:
                alerts.append(str(left.__cause__))
                raise

        await self.refused(serve, client_context(trusting=False))
        assert "ALERT_UNKNOWN_CA" in alerts[0].upper()


class TestEnds:
    async def test_a_farewell_is_a_clean_end(self) -> None:
        async with secured() as (source, server), pair() as (sink, client):
            pump = Pump(source, sink, CloseWalker(), ending=lambda: b".")
            source.start_pump(pump)
            await server.send(b"all of it")
            await say_goodbye(server)
            await source.pumped(pump)
            await client.receive_more()
            assert not source.torn
            while client.buffer != b"all of it.":
                await client.receive_more()

    @pytest.mark.parametrize("how", ["close", "half_close", "reset"])
    async def test_an_end_without_a_farewell_is_a_cut(self, how: str) -> None:
        async with secured() as (source, server), pair() as (sink, _):
            pump = Pump(source, sink, CloseWalker(), ending=lambda: b".")
            source.start_pump(pump)
            await server.send(b"some of it")
            while not pump.moved_bytes:
                await turns(1)
            getattr(server, how)()
            with pytest.raises(StreamLost):
                await source.pumped(pump)
            assert source.torn

    async def test_the_same_for_those_who_read(self) -> None:
        async with secured() as (stream, server):
            server.close()
            with pytest.raises(httpcore.ReadError):
                await stream.read(100)
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()

    async def test_garbage_is_a_cut(self) -> None:
        async with secured() as (source, server), pair() as (sink, _):
            pump = Pump(source, sink, CloseWalker())
            source.start_pump(pump)
            os.write(server._sock.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
            with pytest.raises(StreamLost):
                await source.pumped(pump)
            assert source.lost

    async def test_we_say_goodbye_too(self) -> None:
        async with secured(ssl.TLSVersion.TLSv1_2) as (stream, wire):
            stream.put(b"last words")
            stream.close()
            with pytest.raises(PeerLeft) as left:
                while True:
                    await wire.receive_more()
            assert wire.buffer == b"last words"
            assert left.value.__cause__ is None


class TestStale:
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_session_tickets_do_not_make_it_stale(self, version: ssl.TLSVersion) -> None:
        async with secured(version) as (stream, _):
            assert not stream.is_stale()
            await turns(10)
            assert not stream.is_stale()

    @pytest.mark.parametrize("how", ["close", "reset", "goodbye"])
    async def test_an_end_does(self, how: str) -> None:
        async with secured() as (stream, wire):
            if how == "goodbye":
                await say_goodbye(wire)
            else:
                getattr(wire, how)()
            while not stream.is_stale():
                await turns(1)

    async def test_bytes_do(self) -> None:
        async with secured() as (stream, wire):
            await wire.send(b"unasked")
            while not stream.is_stale():
                await turns(1)


class TestThroughThePool:
    async def test_two_requests_on_one_connection(self) -> None:
        script = [expect_request(), send(answer(200, body=LONG)), expect_request(), send(answer(200, body=b"ok"))]
        async with scripted_upstream(script, ssl_context=server_context("127.0.0.1")) as upstream:
            async with pool_to(upstream.url, client_context(), max_connections=1) as pool:
                assert (await pool.request("POST", upstream.url, content=LONG)).content == LONG
                assert (await pool.request("GET", upstream.url)).content == b"ok"
                assert len(upstream.connections) == 1
                assert LONG in upstream.connections[0].received

    async def test_refused_certificates_take_no_slot(self) -> None:
        async with scripted_upstream([], ssl_context=server_context("other.example")) as upstream:
            async with pool_to(upstream.url, client_context(), max_connections=1) as pool:
                for _ in range(3):
                    with pytest.raises(TlsFailed):
                        await pool.request("GET", upstream.url, extensions={"timeout": {"pool": 0}})
                assert pool.connections == []

    async def test_an_answer_that_ends_with_the_connection_needs_the_farewell(self) -> None:
        script = [expect_request(), send(head(200) + b"half of it"), close()]
        async with scripted_upstream(script, ssl_context=server_context("127.0.0.1")) as upstream:
            async with pool_to(upstream.url, client_context(), max_connections=1) as pool:
                with pytest.raises(httpcore.ReadError):
                    await pool.request("GET", upstream.url)

    async def test_cancelled_at_every_await(self) -> None:
        script = [expect_request(), send(answer(200, body=b"ok"))]
        async with scripted_upstream(script, ssl_context=server_context("127.0.0.1")) as upstream:
            async with pool_to(upstream.url, client_context(), max_connections=1) as pool:

                async def ask() -> None:
                    request = httpcore.Request("GET", upstream.url, headers={"Host": "a"})
                    response = await pool.handle_async_request(request)
                    await response.aclose()

                assert await cancelled_at_every_await(ask) > 5
                assert pool.connections == []

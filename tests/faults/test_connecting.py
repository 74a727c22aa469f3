"""On the way to an upstream: names, addresses and ports that lead nowhere, and clients that leave meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from qproxy import app
from qproxy.config.options import UVLOOP_INSTALLED
from qproxy.simulator.wire import PeerLeft, Wire, accept_forever, listen
from tests.hostile.conftest import guarded, recording
from tests.support.descriptors import no_descriptor_left
from tests.support.leaks import nothing_left, open_sockets, silent_port, turns
from tests.support.live import settings_for
from tests.support.raw_client import Answer, End, RawClient, post, raw_client, request_head
from tests.support.scripted_upstream import answer, close, expect_request, scripted_upstream, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
LONG = b'{"model":"m","input":"%b"}' % (b"x" * 300_000)
STREAM = b'{"model":"m","stream":true}'
LIVE = request_head("GET", "/livez")
SOON_S = 0.1
NAME = "upstream.test"
RESULT = list[tuple[int, int, int, str, tuple[str, int]]]


class Resolver:
    """In the place of libc's, for one name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses = ["127.0.0.1"]
        self.lookups = 0
        self._free = threading.Event()
        self._free.set()
        real = socket.getaddrinfo

        def getaddrinfo(
            host: str | bytes | None, port: int, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0
        ) -> RESULT:
            if host not in (NAME, NAME.encode()) or flags & socket.AI_NUMERICHOST:
                return real(host, port, family, kind, proto, flags)  # type: ignore[return-value]
            self.lookups += 1
            assert self._free.wait(30)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        if UVLOOP_INSTALLED:
            import uvloop

            monkeypatch.setattr(uvloop.Loop, "getaddrinfo", _in_a_thread)

    @contextmanager
    def holding(self) -> Iterator[None]:
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    async def asked(self, times: int = 1) -> None:
        while self.lookups < times:
            await anyio.sleep(0.001)


async def _in_a_thread(loop: asyncio.AbstractEventLoop, host: str, port: int, **hints: int) -> object:
    """As asyncio's own: uvloop asks libc by itself, out of reach."""
    return await loop.run_in_executor(None, lambda: socket.getaddrinfo(host, port, hints["family"], hints["type"]))


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


def port_at(url: str) -> int:
    return int(url.removesuffix("/v1").rpartition(":")[2])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.001)


def assert_refusal(got: Answer, status: int, code: str, should_retry: bytes) -> None:
    assert (got.status, got.error_code, got.end) == (status, code, End.WHOLE)
    assert (got.header(b"x-should-retry"), got.header(b"connection")) == (should_retry, b"")


async def refused(proxy: app.Running, client: RawClient, status: int, code: str, should_retry: bytes) -> Answer:
    """The answer to a request that finds no upstream; the client's connection survives, the upstream's slot is free."""
    got = await client.ask(post(CHAT, STREAM))
    assert_refusal(got, status, code, should_retry)
    assert (await client.ask(LIVE)).status == 200
    assert all(pool.connections == [] for pool in proxy.app.upstreams._pools.values())
    return got


class TestNobodyThere:
    async def test_the_port_refuses(self) -> None:
        """U01."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with nothing_left(), guarded(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1") as proxy:
                async with raw_client(proxy.url) as client:
                    await refused(proxy, client, 502, "upstream_connect_failed", b"true")

    async def test_a_long_body_meets_nobody(self) -> None:
        """U01: what has not gone up yet is not waited for."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with nothing_left(), guarded(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1") as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(post(CHAT, LONG)[:-100_000])
                    got = await client.answer()
                    assert (got.status, got.error_code) == (502, "upstream_connect_failed")
                    assert got.header(b"connection") == b"close"

    async def test_nothing_listens_on_the_unix_socket(self, tmp_path: Path) -> None:
        async with nothing_left(), guarded(f"http+unix://{tmp_path}/nobody.sock") as proxy:
            async with raw_client(proxy.url) as client:
                await refused(proxy, client, 502, "upstream_connect_failed", b"true")

    async def test_the_host_is_silent(self) -> None:
        """U02."""
        with silent_port() as port:
            async with (
                nothing_left(),
                guarded(f"http://127.0.0.1:{port}/v1", timeouts={"connect_s": SOON_S}) as proxy,
                raw_client(proxy.url) as client,
            ):
                await refused(proxy, client, 502, "upstream_connect_failed", b"true")

    async def test_others_are_served_meanwhile(self) -> None:
        """U02: the loop does not wait for anybody's SYN."""
        with silent_port() as port:
            async with guarded(f"http://127.0.0.1:{port}/v1") as proxy:
                async with raw_client(proxy.url) as waiting, raw_client(proxy.url) as other:
                    await waiting.send(post(CHAT, b"{}"))
                    await until(lambda: bool(proxy.app.upstreams._pools))
                    assert (await other.ask(LIVE)).status == 200
                    assert waiting.wire.buffer == b""


class TestTriedAgain:
    """U01: what has not begun is begun again."""

    @pytest.mark.parametrize("path", [CHAT, "/v1/files"])
    @pytest.mark.parametrize("body", [STREAM, LONG], ids=["short", "long"])
    async def test_an_upstream_that_comes_up_in_time(self, path: str, body: bytes) -> None:
        received = b""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            async with guarded(f"http://127.0.0.1:{listener.getsockname()[1]}/v1") as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(post(path, body))
                    await until(lambda: bool(proxy.app.upstreams._pools))
                    await until(lambda: _open_slots(proxy) == 0)
                    listener.listen()
                    listener.setblocking(False)
                    await anyio.wait_readable(listener)
                    sock, _ = listener.accept()
                    sock.setblocking(False)
                    wire = Wire(sock)
                    while len(wire.buffer) < len(body) or not wire.buffer.endswith(body):
                        await wire.receive_more()
                    received = bytes(wire.buffer)
                    await wire.send(answer(200, [(b"content-type", b"application/json")], b"{}"))
                    got = await client.answer()
                    assert (got.status, bytes(got.body)) == (200, b"{}")
                    wire.close()
        assert received.partition(b"\r\n\r\n")[2] == body

    async def test_a_client_that_leaves_ends_the_trying(self) -> None:
        """C09."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with guarded(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1") as proxy:
                before = open_sockets()
                async with raw_client(proxy.url) as client:
                    await client.send(post(CHAT, b"{}"))
                    await until(lambda: bool(proxy.app.upstreams._pools))
                    client.wire.reset()
                await until(lambda: open_sockets() <= before)
                nobody.listen()
                nobody.setblocking(False)
                with anyio.move_on_after(5 * SOON_S) as patience:
                    await anyio.wait_readable(nobody)
                assert patience.cancelled_caught


class TestNames:
    """U03."""

    @pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example"])
    async def test_one_that_cannot_be_one(self, name: str) -> None:
        """These never leave this machine: no resolver takes them."""
        async with nothing_left(), guarded(f"http://{name}/v1") as proxy, raw_client(proxy.url) as client:
            got = await refused(proxy, client, 502, "upstream_dns_failed", b"false")
            assert name.encode() not in got.body

    async def test_one_that_the_resolver_does_not_know(self, resolver: Resolver) -> None:
        resolver.addresses = []
        async with nothing_left(), guarded(f"http://{NAME}/v1") as proxy, raw_client(proxy.url) as client:
            await refused(proxy, client, 502, "upstream_dns_failed", b"false")

    async def test_a_resolver_that_does_not_answer(self, resolver: Resolver) -> None:
        """The loop goes on, and the clock of the connection ends it."""
        timeouts = {"connect_s": 4 * SOON_S}
        async with guarded(f"http://{NAME}/v1", timeouts=timeouts) as proxy:
            with resolver.holding():
                async with raw_client(proxy.url) as waiting, raw_client(proxy.url) as other:
                    await waiting.send(post(CHAT, b"{}"))
                    await resolver.asked()
                    assert (await other.ask(LIVE)).status == 200
                    got = await waiting.answer()
                    assert got.status == 502
                    assert got.error_code in ("upstream_dns_failed", "upstream_connect_failed")

    async def test_one_address_refuses_and_the_next_one_answers(self, resolver: Resolver) -> None:
        """U01."""
        async with recording() as recorder:
            resolver.addresses = ["127.0.0.3", "127.0.0.1"]
            async with guarded(f"http://{NAME}:{port_at(recorder.url)}/v1") as proxy, raw_client(proxy.url) as client:
                assert (await client.ask(post(CHAT, b'{"model":"m"}'))).status == 200
            assert len(recorder.requests) == 1

    async def test_one_that_moves(self, resolver: Resolver) -> None:
        """The new address is used as soon as there is a new connection."""
        first = [expect_request(), send(answer(200, [], b"1")), expect_request(), send(answer(200, [], b"2")), close()]
        async with scripted_upstream(first, [close()]) as before:
            async with elsewhere("127.0.0.2", port_at(before.url)) as moved:
                async with app.running(settings_for(f"http://{NAME}:{port_at(before.url)}/v1")) as proxy:
                    async with raw_client(proxy.url) as client:
                        assert (await client.ask(post(CHAT, b"{}"))).body == b"1"
                        resolver.addresses = ["127.0.0.2"]
                        assert (await client.ask(post(CHAT, b"{}"))).body == b"2"
                        await (await before.connected()).finished.wait()
                        assert (await client.ask(post(CHAT, b"{}"))).body == b"moved"
                assert (len(before.connections), moved) == (1, ["/v1/chat/completions"])


@asynccontextmanager
async def elsewhere(host: str, port: int) -> AsyncIterator[list[str]]:
    """An upstream at another address and the same port; the paths that it was asked for."""
    paths: list[str] = []

    async def serve(wire: Wire) -> None:
        try:
            while b"\r\n\r\n" not in wire.buffer:
                await wire.receive_more()
            paths.append(wire.buffer.split(b" ")[1].decode())
            await wire.send(answer(200, [], b"moved"))
            while True:
                await wire.receive_more()
        except PeerLeft:
            pass
        finally:
            wire.close()

    with listen(host, port, None) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(accept_forever, listener, tasks, serve)
            yield paths
            tasks.cancel_scope.cancel()


class TestAClientThatLeavesMeanwhile:
    """C09."""

    @pytest.mark.parametrize("how", ["close", "reset"])
    @pytest.mark.parametrize("body", [b"{}", LONG], ids=["stored", "passed on"])
    async def test_while_the_host_is_silent(self, body: bytes, how: str) -> None:
        """Of a body that waits to be passed on only a part is read, and its end is seen all the same."""
        with silent_port() as port:
            async with guarded(f"http://127.0.0.1:{port}/v1", timeouts={"connect_s": 60.0}) as proxy:
                before = open_sockets()
                async with raw_client(proxy.url) as client:
                    await client.send(post(CHAT, body))
                    await until(lambda: _open_slots(proxy) == 1)
                    getattr(client.wire, how)()
                await until(lambda: open_sockets() <= before)
                assert _open_slots(proxy) == 0

    async def test_while_its_name_is_looked_up(self, resolver: Resolver) -> None:
        async with recording() as recorder, guarded(f"http://{NAME}:{port_at(recorder.url)}/v1") as proxy:
            async with raw_client(proxy.url) as client:
                assert (await client.ask(post(CHAT, b'{"model":"m"}', b"Connection: close"))).status == 200
            await recorder.until_idle()
            (pool,) = proxy.app.upstreams._pools.values()
            pool._capacity = 1
            with resolver.holding():
                async with raw_client(proxy.url) as client:
                    await client.send(post(CHAT, b'{"model":"gone"}'))
                    await resolver.asked(2)
                    client.wire.reset()
                await until(lambda: _open_slots(proxy) == 0)
            async with raw_client(proxy.url) as client:
                assert (await client.ask(post(CHAT, b'{"model":"next"}'))).status == 200
            assert not any(b"gone" in request for request in recorder.requests)


def _open_slots(proxy: app.Running) -> int:
    return sum(len(pool._open) for pool in proxy.app.upstreams._pools.values())


async def test_without_descriptors_new_work_is_refused_and_what_is_open_lives() -> None:
    """P05: it is nobody's fault but ours, and it passes."""
    async with recording() as recorder, guarded(recorder.url) as proxy:
        async with raw_client(proxy.url) as client, raw_client(proxy.url) as streaming:
            assert (await client.ask(LIVE)).status == 200
            await streaming.send(post(CHAT, b'{"model":"stall","stream":true}'))
            got = await streaming.begin()
            await streaming.until(got, b"data: ")
            with no_descriptor_left():
                refused = await client.ask(post(CHAT, b'{"model":"m"}'))
                assert_refusal(refused, 503, "overloaded", b"true")
                assert refused.header(b"retry-after") == b"1"
                assert (await client.ask(LIVE)).status == 200
            assert (await client.ask(post(CHAT, b'{"model":"m"}'))).status == 200
            await turns()
            assert got.end is End.OPEN

"""Listening sockets: where they stand, how many are let in, and what running out of descriptors does."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from qproxy.edge.listener import Listener, address_of, bind, closing_all
from qproxy.simulator.wire import PeerLeft, Wire
from tests.support.descriptors import no_descriptor_left
from tests.support.leaks import nothing_left, turns
from tests.support.live import settings_for
from tests.support.raw_client import connect, raw_client, request_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.anyio


async def greet_and_hold(sock: socket.socket, peer: str) -> None:
    """Says who came, and stays until they leave."""
    wire = Wire(sock)
    try:
        await wire.send(peer.encode())
        while True:
            await wire.receive_more()
    except PeerLeft:
        pass
    finally:
        wire.close()


@asynccontextmanager
async def listening(
    host: str = "127.0.0.1",
    *,
    port: int = 0,
    max_connections: int = 100,
    max_per_address: int = 0,
    handler: Callable[[socket.socket, str], Awaitable[None]] = greet_and_hold,
) -> AsyncIterator[list[socket.socket]]:
    async with nothing_left():
        sockets = await bind(host, port)
        with closing_all(sockets):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Listener(sockets, handler, max_connections, max_per_address).serve)
                yield sockets
                tasks.cancel_scope.cancel()


async def greeting(wire: Wire) -> bytes:
    while not wire.buffer:
        await wire.receive_more()
    return bytes(wire.buffer)


async def test_a_free_port_is_told() -> None:
    async with listening() as sockets:
        url = address_of(sockets[0])
        assert url == f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        async with raw_client(url) as client:
            assert await greeting(client.wire) == b"127.0.0.1"


async def test_every_address_of_a_name_has_the_same_port() -> None:
    async with listening("localhost") as sockets:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert len({sock.family for sock in sockets}) == len(sockets)
        assert not any(sock.getblocking() for sock in sockets)


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with nothing_left():
            with pytest.raises(OSError, match="Address already in use") as caught:
                await bind("127.0.0.1", taken.getsockname()[1])
            assert caught.value.errno == errno.EADDRINUSE


async def test_connections_do_not_wait_for_the_nagle_timer() -> None:
    seen: list[int] = []

    async def look(sock: socket.socket, _: str) -> None:
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        assert not sock.getblocking()
        sock.close()

    async with listening(handler=look) as sockets, raw_client(address_of(sockets[0])) as client:
        await client.closed()
    assert seen == [1]


class TestUnixSockets:
    async def test_one_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "q.sock"
        async with listening(f"unix:{path}") as sockets:
            assert address_of(sockets[0]) == f"http+unix://{path}"
            assert path.stat().st_mode & 0o777 == 0o600
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.setblocking(False)
                assert await greeting(Wire(client)) == b"unix"
        assert not path.exists()

    async def test_one_that_was_left_behind_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "q.sock"
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
        async with listening(f"unix:{path}"):
            pass

    async def test_one_that_is_served_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "q.sock"
        async with listening(f"unix:{path}"):
            with pytest.raises(OSError, match="listens") as caught:
                await bind(f"unix:{path}", 0)
            assert caught.value.errno == errno.EADDRINUSE
            assert path.exists()

    async def test_a_file_that_is_no_socket_is_not_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("mine")
        async with nothing_left():
            with pytest.raises(OSError, match="in use"):
                await bind(f"unix:{path}", 0)
        assert path.read_text() == "mine"


async def test_more_than_the_limit_are_turned_away_with_an_answer() -> None:
    async with listening(max_connections=2) as sockets:
        url = address_of(sockets[0])
        async with raw_client(url) as first, raw_client(url) as second:
            await greeting(first.wire)
            await greeting(second.wire)
            async with raw_client(url) as third:
                answer = await third.answer()
                assert (answer.status, answer.error_code) == (503, "overloaded")
                assert answer.header(b"retry-after") == b"1"
                assert set(orjson.loads(bytes(answer.body))["error"]) == {"message", "type", "param", "code"}
                assert await third.closed() == b""
            second.wire.close()
            await turns()
            async with raw_client(url) as fourth:
                assert await greeting(fourth.wire) == b"127.0.0.1"


class TestPerAddress:
    async def test_more_than_its_share_are_turned_away_and_others_are_not(self) -> None:
        async with listening(max_per_address=1) as sockets:
            url = address_of(sockets[0])
            async with raw_client(url) as first:
                await greeting(first.wire)
                async with raw_client(url) as second:
                    answer = await second.answer()
                    assert (answer.status, answer.error_code) == (429, "rate_limited")
                    assert (answer.header(b"retry-after"), answer.header(b"connection")) == (b"1", b"close")
                    assert await second.closed() == b""
                with from_address("127.0.0.2", sockets[0]) as other:
                    assert await greeting(other) == b"127.0.0.2"
            await turns()
            async with raw_client(url) as third:
                assert await greeting(third.wire) == b"127.0.0.1"

    async def test_peers_of_a_unix_socket_have_no_address(self, tmp_path: Path) -> None:
        path = tmp_path / "q.sock"
        async with listening(f"unix:{path}", max_per_address=1):
            with ExitStack() as stack:
                for _ in range(3):
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.connect(str(path))
                    client.setblocking(False)
                    assert await greeting(Wire(client)) == b"unix"

    async def test_the_setting_is_the_listeners(self) -> None:
        settings = settings_for("http://127.0.0.1:9/v1")
        settings = replace(settings, limits=replace(settings.limits, max_per_address=1))
        async with app.running(settings) as proxy, raw_client(proxy.url) as first, raw_client(proxy.url) as second:
            assert (await first.ask(request_head("GET", "/livez"))).status == 200
            assert (await second.answer()).error_code == "rate_limited"


@contextmanager
def from_address(address: str, listening: socket.socket) -> Iterator[Wire]:
    """A connection from that address of this machine."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        sock.connect(listening.getsockname())
        sock.setblocking(False)
        yield Wire(sock)


async def test_many_at_once() -> None:
    async with listening(max_connections=500) as sockets:
        with ExitStack() as stack:
            wires = [connect(address_of(sockets[0])) for _ in range(300)]
            for wire in wires:
                stack.callback(wire.close)
            for wire in wires:
                assert await greeting(wire) == b"127.0.0.1"


async def test_without_descriptors_accepting_pauses_and_what_is_open_lives(caplog: pytest.LogCaptureFixture) -> None:
    """P05."""
    async with listening() as sockets:
        url = address_of(sockets[0])
        async with raw_client(url) as before:
            await greeting(before.wire)
            with socket.socket() as waiting:
                waiting.setblocking(False)
                with no_descriptor_left():
                    waiting.connect_ex(sockets[0].getsockname())
                    while not caplog.records:
                        await anyio.sleep(0.01)
                    await before.wire.send(b"still here")
                    await turns()
                assert await greeting(Wire(waiting)) == b"127.0.0.1"
    assert [record.getMessage() for record in caplog.records] == ["accepting pauses: Too many open files"]

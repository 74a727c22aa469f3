"""Opening connections: names, addresses that race, deadlines, and nothing left behind."""

from __future__ import annotations

import contextlib
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import httpcore
import pytest

from qproxy.edge import connect
from qproxy.edge.connect import NameNotFound, NetworkBackend
from qproxy.edge.runtime import current_runtime
from tests.support.leaks import cancelled_after, cancelled_at_every_await, nothing_left, silent_port, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
SOON = 0.05


@asynccontextmanager
async def network() -> AsyncIterator[NetworkBackend]:
    async with nothing_left(), anyio.create_task_group() as tasks:
        yield NetworkBackend(current_runtime(tasks))
        await turns()
        tasks.cancel_scope.cancel()


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def address(port: int) -> connect.Address:
    return socket.AF_INET, ("127.0.0.1", port)


async def test_a_connection_that_speaks() -> None:
    with listening() as listener:
        async with network() as backend:
            stream = await backend.connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=5)
            peer, _ = listener.accept()
            with peer:
                await stream.write(b"hello", timeout=5)
                assert peer.recv(5) == b"hello"
                sock = stream.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                await stream.aclose()


async def test_socket_options() -> None:
    with listening() as listener:
        async with network() as backend:
            options: list[httpcore.SOCKET_OPTION] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
            stream = await backend.connect_tcp("127.0.0.1", listener.getsockname()[1], socket_options=options)
            assert stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            await stream.aclose()


async def test_a_name_with_several_addresses() -> None:
    """`localhost` may be ::1 first, where nobody listens."""
    with listening() as listener:
        async with network() as backend:
            stream = await backend.connect_tcp("localhost", listener.getsockname()[1], timeout=5)
            await stream.aclose()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "up.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        async with network() as backend:
            stream = await backend.connect_unix_socket(path, timeout=5)
            await stream.write(b"hello", timeout=5)
            with listener.accept()[0] as peer:
                assert peer.recv(5) == b"hello"
            await stream.aclose()
    async with network() as backend:
        for missing in (path, str(tmp_path / "no such folder" / "up.sock")):
            with pytest.raises(httpcore.ConnectError):
                await backend.connect_unix_socket(missing, timeout=5)


async def test_refused() -> None:
    """U01."""
    with refusing() as port:
        async with network() as backend:
            with pytest.raises(httpcore.ConnectError) as caught:
                await backend.connect_tcp("127.0.0.1", port, timeout=5)
            assert not isinstance(caught.value, NameNotFound)


@pytest.mark.parametrize("name", ["x" * 64 + ".example", "a..b", ".example"])
async def test_a_name_that_is_none(name: str) -> None:
    """U03. These never leave this machine: no resolver takes them."""
    async with network() as backend:
        with pytest.raises(NameNotFound):
            await backend.connect_tcp(name, 80, timeout=5)


async def test_nobody_answers() -> None:
    """U02."""
    with silent_port() as port:
        async with network() as backend:
            with pytest.raises(httpcore.ConnectTimeout):
                await backend.connect_tcp("127.0.0.1", port, timeout=SOON)


async def test_cancelled_at_every_await(tmp_path: Path) -> None:
    path = str(tmp_path / "up.sock")
    with listening() as listener, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen(100)
        async with network() as backend:

            async def connect_tcp() -> None:
                await (await backend.connect_tcp("localhost", listener.getsockname()[1], timeout=5)).aclose()

            async def connect_unix() -> None:
                await (await backend.connect_unix_socket(path, timeout=5)).aclose()

            assert await cancelled_at_every_await(connect_tcp) > 0
            assert await cancelled_at_every_await(connect_unix) > 0


async def test_cancelled_while_nobody_answers() -> None:
    with silent_port() as port:
        async with network() as backend:
            assert not await cancelled_after(lambda: backend.connect_tcp("127.0.0.1", port), 5)


class TestRace:
    async def connected_to(self, *ports: int) -> int:
        """The port of the address that won."""
        async with nothing_left():
            with await connect._first_connected([address(port) for port in ports]) as sock:
                port: int = sock.getpeername()[1]
                return port

    async def test_one_that_refuses_is_passed_over_at_once(self) -> None:
        with refusing() as closed, listening() as listener:
            port = listener.getsockname()[1]
            assert await self.connected_to(closed, port) == port
            assert await self.connected_to(closed, closed, port) == port

    async def test_one_that_is_silent_is_overtaken(self) -> None:
        with silent_port() as deaf, listening() as listener:
            port = listener.getsockname()[1]
            assert await self.connected_to(deaf, port) == port

    async def test_all_refuse(self) -> None:
        with refusing() as closed, pytest.raises(httpcore.ConnectError):
            await self.connected_to(closed, closed)

    async def test_cancelled_at_every_await(self) -> None:
        with refusing() as closed, listening() as first, listening() as second:
            first.listen(400)
            second.listen(400)
            addresses = [address(closed), *(address(listener.getsockname()[1]) for listener in (first, second))]

            async def race() -> None:
                (await connect._first_connected(addresses)).close()

            async with nothing_left():
                assert await cancelled_at_every_await(race) > 0

    async def test_families_take_turns(self) -> None:
        """RFC 8305 4."""
        four = [(socket.AF_INET, (f"127.0.0.{number}", 1)) for number in range(1, 4)]
        six = [(socket.AF_INET6, (f"::{number}", 1)) for number in range(1, 3)]
        mixed = [six[0], four[0], six[1], four[1], four[2]]
        assert connect._interleaved([*six, *four]) == mixed
        assert connect._interleaved([*four[:1], *six]) == [four[0], six[0], six[1]]
        assert connect._interleaved(list(four)) == four
        with pytest.raises(NameNotFound):
            connect._interleaved([])

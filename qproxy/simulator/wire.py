"""Non-blocking sockets under anyio: the same code on asyncio, uvloop and trio, TLS included.

A socket is read and written directly and waited for with `anyio.wait_readable` and `anyio.wait_writable`, not through
anyio's stream classes: a reset stays a reset (their `aclose()` sends FIN first), a small write costs one system call
and no turn of the loop, and one task can wait for a moment and for the peer's farewell at once.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import TYPE_CHECKING

import anyio
import anyio.abc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

READ_BYTES = 256 * 1024
_ACCEPT_BATCH = 64
_DESCRIPTORS_OUT_PAUSE_S = 0.05
_LINGER_LIMIT_BYTES = 64 * 1024 * 1024
_LINGER_LIMIT_S = 2.0
_UNSOLICITED_LIMIT_BYTES = 1024 * 1024


class PeerLeft(Exception):
    """The other side sent FIN or RST."""


class Wire:
    """One accepted connection. `buffer` holds what was received and not yet consumed."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.buffer = bytearray()

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return self._sock.fileno() < 0

    async def handshake(self, context: ssl.SSLContext) -> None:
        """Turns the connection into TLS. Raises PeerLeft where the peer breaks off or is not understood."""
        try:
            tls = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        except OSError as exc:
            raise PeerLeft from exc
        self._sock = tls
        while True:
            try:
                return tls.do_handshake()
            except ssl.SSLWantReadError:
                await anyio.wait_readable(tls)
            except ssl.SSLWantWriteError:
                await anyio.wait_writable(tls)
            except OSError as exc:
                raise PeerLeft from exc

    def take(self, limit_bytes: int = READ_BYTES) -> bool:
        """Moves what has arrived into `buffer`; False where nothing has. Raises PeerLeft."""
        try:
            data = self._sock.recv(limit_bytes)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError as exc:
            raise PeerLeft from exc
        if not data:
            raise PeerLeft
        self.buffer += data
        return True

    async def receive_more(self, limit_bytes: int = READ_BYTES) -> None:
        """Waits until `buffer` has grown. Raises PeerLeft."""
        if isinstance(self._sock, ssl.SSLSocket) and self.take(limit_bytes):
            return
        while True:
            await anyio.wait_readable(self._sock)
            if self.take(limit_bytes):
                return

    async def send(self, data: bytes) -> None:
        """Returns when the kernel has taken all of it. Raises PeerLeft."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await anyio.wait_writable(self._sock)
            except OSError as exc:
                raise PeerLeft from exc

    async def watched(self, work: Callable[[], Awaitable[object]]) -> None:
        """Awaits `work()`, which must not receive; raises PeerLeft as soon as the peer goes.

        What the peer sends meanwhile waits in `buffer`.
        """
        left = False
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal left
                await self._see_off()
                left = True
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                await work()
            except PeerLeft:
                left = True
            tasks.cancel_scope.cancel()
        if left:
            raise PeerLeft

    async def _see_off(self) -> None:
        """Returns when the peer goes. Behind too much unread input its farewell cannot be seen."""
        limit = len(self.buffer) + _UNSOLICITED_LIMIT_BYTES
        try:
            while len(self.buffer) < limit:
                await self.receive_more()
        except PeerLeft:
            return
        await anyio.sleep_forever()

    def half_close(self) -> None:
        """FIN: nothing more will be sent, reading goes on."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    async def linger(self) -> None:
        """FIN, then discards what still comes, so that unread input does not make the kernel destroy our answer."""
        self.half_close()
        discarded = 0
        with anyio.move_on_after(_LINGER_LIMIT_S):
            try:
                while discarded < _LINGER_LIMIT_BYTES:
                    await self.receive_more()
                    discarded += len(self.buffer)
                    self.buffer.clear()
            except PeerLeft:
                pass

    def reset(self) -> None:
        """RST in place of FIN."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self._sock.close()

    def close(self) -> None:
        """FIN, without a farewell of TLS or HTTP. Closing twice does nothing."""
        self._sock.close()


def listen(host: str, port: int, socket_path: str | None) -> socket.socket:
    """A listening socket: TCP, or a unix socket where `socket_path` is given. Raises OSError."""
    if socket_path is not None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: object = socket_path
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = (host, port)
    try:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(4096)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


async def accept_forever(
    listener: socket.socket, tasks: anyio.abc.TaskGroup, serve: Callable[[Wire], Coroutine[object, object, None]]
) -> None:
    """Starts `serve(wire)` in `tasks` for each connection; `serve` owns the wire and closes it."""
    while True:
        await anyio.wait_readable(listener)
        for _ in range(_ACCEPT_BATCH):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                break
            except OSError:
                await anyio.sleep(_DESCRIPTORS_OUT_PAUSE_S)
                break
            sock.setblocking(False)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.start_soon(serve, Wire(sock))

"""Listening sockets and the connections that come in through them.

Accepting is ours, in batches on readiness: the loops' own servers close connections when descriptors run out, and one
of them left a third of a thousand new connections waiting for seconds. Running out is weather: accepting pauses and
resumes, what is open lives.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import anyio

log = logging.getLogger(__name__)

BACKLOG = 2048  # the kernel caps it at net.core.somaxconn
BATCH = 64
PAUSE_S = 0.1
_DEFECTS = frozenset({errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
"""All other errors of accept(2) are weather: no descriptors, or what befell a connection while it waited."""
_BUSY_BODY = (
    b'{"error":{"message":"Too many connections are open. Try again shortly.","type":"overloaded_error",'
    b'"param":null,"code":"overloaded"}}'
)
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nx-should-retry: true\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY_BODY), _BUSY_BODY)
)

Handler = Callable[[socket.socket, str], Awaitable[None]]


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, or for `unix:/path`; port 0 picks one. Raises OSError."""
    if host.startswith("unix:"):
        return [_bind_unix(Path(host.removeprefix("unix:")))]
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port or _port(sockets[0]), *address[2:]))
            sock.listen(BACKLOG)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_unix(path: Path) -> socket.socket:
    if path.is_socket():
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, "another process listens there")
        path.unlink()  # a socket that nobody listens on was left behind
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _port(sock: socket.socket) -> int:
    name = sock.getsockname()
    return int(name[1])


def address_of(sock: socket.socket) -> str:
    """The URL of a listening socket, or of the unix socket's path."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"http+unix://{name}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


class Listener:
    """Accepts until it is cancelled; each connection is a task of its own."""

    def __init__(self, sockets: Sequence[socket.socket], handler: Handler, max_connections: int) -> None:
        self._sockets = sockets
        self._handler = handler
        self._max_connections = max_connections
        self._open = 0
        self._warned = False

    async def serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            for sock in self._sockets:
                tasks.start_soon(self._accept_all, sock, tasks)

    async def _accept_all(self, listening: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listening)
            try:
                for _ in range(BATCH):
                    sock, address = listening.accept()
                    sock.setblocking(False)
                    if self._open >= self._max_connections:
                        _turn_away(sock)
                    else:
                        self._open += 1
                        tasks.start_soon(self._handle, sock, _peer(address))
            except BlockingIOError:
                pass
            except ConnectionAbortedError:
                pass  # it left while it waited
            except OSError as exc:
                if exc.errno in _DEFECTS:
                    raise
                self._warn(exc)
                await anyio.sleep(PAUSE_S)

    async def _handle(self, sock: socket.socket, peer: str) -> None:
        try:
            await self._handler(sock, peer)
        finally:
            self._open -= 1

    def _warn(self, exc: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning("accepting pauses: %s", exc.strerror)


def _peer(address: object) -> str:
    return str(address[0]) if isinstance(address, tuple) else "unix"


def _turn_away(sock: socket.socket) -> None:
    with contextlib.closing(sock):
        try:
            sock.send(_BUSY)
        except OSError:
            pass  # it left already


@contextlib.contextmanager
def closing_all(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Close the listening sockets at the end, and take unix sockets' paths away."""
    try:
        yield
    finally:
        for sock in sockets:
            path = sock.getsockname() if sock.family == socket.AF_UNIX else None
            sock.close()
            if path:
                Path(path).unlink(missing_ok=True)

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
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import anyio

from qproxy.core.local import error_answer
from qproxy.core.outgoing import CLOSE, local_response
from qproxy.errors import DownstreamError, InternalError, QProxyError

log = logging.getLogger(__name__)

BACKLOG = 2048  # the kernel caps it at net.core.somaxconn
BATCH = 64
PAUSE_S = 0.1
WARN_EVERY_S = 60.0
UNIX_PEER = "unix"  # all peers of a unix socket, which have no address
_DEFECTS = frozenset({errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
"""All other errors of accept(2) are weather: no descriptors, or what befell a connection while it waited."""


def _turning_away(error: QProxyError) -> bytes:
    """The whole response to a connection that is not served: no request was read, so it has no id."""
    answer = error_answer(error, b"")
    headers = tuple(field for field in answer.headers if field[0] != b"x-request-id")
    return local_response(replace(answer, headers=headers), method=b"GET", own=CLOSE)


_BUSY = _turning_away(InternalError("overloaded", "Too many connections are open. Try again shortly.", retry_after_s=1))
_TOO_MANY_OF_YOURS = _turning_away(
    DownstreamError(
        "rate_limited",
        "Too many connections from your address are open. Close some, or send more requests on each.",
        retry_after_s=1,
    )
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
    """Accepts until it is stopped or cancelled; each connection is a task of its own. `max_per_address` of them may
    come from one address; 0: no limit. `ended` is set when nothing of it runs any more."""

    def __init__(
        self, sockets: Sequence[socket.socket], handler: Handler, max_connections: int, max_per_address: int = 0
    ) -> None:
        self._sockets = sockets
        self._handler = handler
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._open = 0
        self._open_by_address: Counter[str] = Counter()
        self._accepting = anyio.CancelScope()
        self._warned_s = -WARN_EVERY_S
        self.ended = anyio.Event()

    async def serve(self) -> None:
        """Until `stop`, and from then on until the last connection has ended."""
        try:
            async with anyio.create_task_group() as tasks:
                with self._accepting:
                    async with anyio.create_task_group() as acceptors:
                        for sock in self._sockets:
                            acceptors.start_soon(self._accept_all, sock, tasks)
                for sock in self._sockets:
                    self._accept_last(sock, tasks)
                    close(sock)
        finally:
            self.ended.set()

    def stop(self) -> None:
        """Accept no more, and close the listening sockets. Connections that are open live on."""
        self._accepting.cancel()

    async def _accept_all(self, listening: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listening)
            try:
                self._accept(listening, tasks, BATCH)
            except OSError as exc:
                if exc.errno in _DEFECTS:
                    raise
                self._warn(exc)
                await anyio.sleep(PAUSE_S)

    def _accept_last(self, listening: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        """The kernel has connected these already, and would reset them when the socket is closed."""
        with contextlib.suppress(OSError):
            self._accept(listening, tasks, BACKLOG)

    def _accept(self, listening: socket.socket, tasks: anyio.abc.TaskGroup, most: int) -> None:
        """Whoever waits, up to `most`. Raises OSError."""
        try:
            for _ in range(most):
                sock, address = listening.accept()
                sock.setblocking(False)
                peer = _peer(address)
                refusal = self._refusal(peer)
                if refusal is not None:
                    _turn_away(sock, refusal)
                else:
                    self._count(peer)
                    tasks.start_soon(self._handle, sock, peer)
        except BlockingIOError:
            pass
        except ConnectionAbortedError:
            pass  # it left while it waited

    async def _handle(self, sock: socket.socket, peer: str) -> None:
        try:
            await self._handler(sock, peer)
        finally:
            self._discount(peer)

    def _refusal(self, peer: str) -> bytes | None:
        """The answer to one more connection from there, where it is one too many."""
        if self._open >= self._max_connections:
            return _BUSY
        if self._max_per_address and peer != UNIX_PEER and self._open_by_address[peer] >= self._max_per_address:
            return _TOO_MANY_OF_YOURS
        return None

    def _count(self, peer: str) -> None:
        self._open += 1
        self._open_by_address[peer] += 1

    def _discount(self, peer: str) -> None:
        self._open -= 1
        self._open_by_address[peer] -= 1
        if not self._open_by_address[peer]:
            del self._open_by_address[peer]

    def _warn(self, exc: OSError) -> None:
        now_s = anyio.current_time()
        if now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            log.warning("accepting pauses: %s", exc.strerror)


def _peer(address: object) -> str:
    return str(address[0]) if isinstance(address, tuple) else UNIX_PEER


def _turn_away(sock: socket.socket, answer: bytes) -> None:
    with contextlib.closing(sock):
        try:
            sock.send(answer)
        except OSError:
            pass  # it left already


@contextlib.contextmanager
def closing_all(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Close the listening sockets at the end, and take unix sockets' paths away."""
    try:
        yield
    finally:
        for sock in sockets:
            close(sock)


def close(sock: socket.socket) -> None:
    """Close a listening socket and take a unix socket's path away; once, since it may be another server's soon."""
    if sock.fileno() < 0:
        return
    path = sock.getsockname() if sock.family == socket.AF_UNIX else None
    sock.close()
    if path:
        Path(path).unlink(missing_ok=True)

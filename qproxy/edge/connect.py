"""Opening connections: httpcore's network backend on our streams, the same on every loop.

Names are resolved off the loop; addresses race in staggered order (RFC 8305). Errors are httpcore's, with children that
say more: the name was not found, no descriptor is left, the TLS handshake failed.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterable

import anyio
import httpcore

from qproxy.edge.runtime import Runtime
from qproxy.edge.streams import Stream, StreamLost, StreamTimeout, open_stream

STAGGER_S = 0.25  # RFC 8305 5: the recommended connection attempt delay

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | str]


class NameNotFound(httpcore.ConnectError):
    """The upstream's host name cannot be resolved."""


class NoDescriptors(httpcore.ConnectError):
    """This process may not open another socket: no fault of the upstream's."""


class TlsFailed(httpcore.ConnectError):
    """The TLS handshake failed: certificate, name, or a peer that does not speak TLS."""


class NetworkBackend(httpcore.AsyncNetworkBackend):
    """Connects to upstreams."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Raises NameNotFound, httpcore.ConnectError or httpcore.ConnectTimeout."""
        assert local_address is None, "not offered"
        try:
            with anyio.fail_after(timeout):
                addresses = await _resolve(host, port)
                sock = await _first_connected(addresses)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no connection within {timeout} s") from exc
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in socket_options or ():
            sock.setsockopt(*option)
        return await open_stream(self._runtime, sock)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Raises httpcore.ConnectError or httpcore.ConnectTimeout."""
        try:
            with anyio.fail_after(timeout):
                sock = await _connect((socket.AF_UNIX, path))
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no connection within {timeout} s") from exc
        except OSError as exc:
            raise _refused(exc) from exc
        return await open_stream(self._runtime, sock)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


async def secure(
    stream: Stream,
    context: ssl.SSLContext,
    hostname: str,
    timeout_s: float | None,
    session: ssl.SSLSession | None = None,
) -> None:
    """Make `stream` a TLS client of `hostname`. `session` is one to resume, of the same context. Raises TlsFailed."""
    try:
        await stream.start_tls(context, hostname, timeout_s, session)
    except (ssl.SSLError, ssl.CertificateError, StreamLost, StreamTimeout) as exc:
        stream.close()
        raise TlsFailed(str(exc)) from exc


async def _resolve(host: str, port: int) -> list[Address]:
    numeric = _numeric(host, port)
    if numeric is not None:
        return [numeric]
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        _check_descriptors()
        raise NameNotFound(f"{host} cannot be resolved") from exc
    return _interleaved([(family, address) for family, _, _, _, address in found])


def _numeric(host: str, port: int) -> Address | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family, (host, port)
    return None


def _interleaved(addresses: list[Address]) -> list[Address]:
    """Families in turn, the resolver's first one first (RFC 8305 4)."""
    if not addresses:
        raise NameNotFound("the name has no address")
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[Address] = []
    for index, address in enumerate(first):
        mixed.append(address)
        mixed.extend(others[index : index + 1])
    return mixed + others[len(first) :]


async def _first_connected(addresses: list[Address]) -> socket.socket:
    """Race the addresses, each a moment behind the one before or at once when that one has failed."""
    if len(addresses) == 1:
        try:
            return await _connect(addresses[0])
        except OSError as exc:
            raise _refused(exc) from exc
    winner: socket.socket | None = None
    failures: list[OSError] = []

    async def contend(address: Address, failed: anyio.Event) -> None:
        nonlocal winner
        try:
            sock = await _connect(address)
        except OSError as exc:
            failures.append(exc)
            failed.set()
            return
        if winner is None:
            winner = sock
            race.cancel_scope.cancel()
        else:
            sock.close()

    try:
        async with anyio.create_task_group() as race:
            for address in addresses:
                failed = anyio.Event()
                race.start_soon(contend, address, failed)
                with anyio.move_on_after(STAGGER_S):
                    await failed.wait()
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    if winner is None:
        raise _refused(failures[0]) from failures[0]
    return winner


def _refused(cause: OSError) -> httpcore.ConnectError:
    kind = NoDescriptors if is_shortage(cause) else httpcore.ConnectError
    return kind(str(cause))


def _check_descriptors() -> None:
    """Where none is left the resolver says that there is no such name. Raises NoDescriptors."""
    try:
        socket.socket().close()
    except OSError as exc:
        raise NoDescriptors(str(exc)) from exc


def is_shortage(cause: OSError) -> bool:
    """Whether this process, or its machine, has no descriptor left."""
    return cause.errno in (errno.EMFILE, errno.ENFILE)


async def _connect(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code in (errno.EINPROGRESS, errno.EAGAIN):
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock

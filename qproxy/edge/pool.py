"""The open connections to one upstream: httpcore's pool interface, with an assignment that costs the same for one
connection and for three thousand, and that survives cancellation at every await.

Idle connections are a stack (the newest one is the warmest), waiters a queue. A slot that is handed to a waiter who is
cancelled meanwhile is handed on. Nothing is polled: the connection that is taken is looked at, the others report their
end themselves, and one timer lets them expire.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Mapping

import anyio
import anyio.abc
import httpcore

from qproxy.core.limits import Limits
from qproxy.core.upstream import BaseUrl
from qproxy.edge.http11 import UpstreamConnection, UpstreamResponse
from qproxy.edge.runtime import Runtime, Spot, Timer
from qproxy.edge.spares import Spares
from qproxy.edge.tls import TlsSessions


class _Waiter:
    """One request in line, until a connection is granted to it."""

    __slots__ = ("granted", "spot")

    def __init__(self, spot: Spot) -> None:
        self.spot = spot
        self.granted: UpstreamConnection | None = None


class Pool(httpcore.AsyncConnectionPool):
    """Connections to one origin. `keepalive_s` is how long an idle one may be used again. `ssl_context` may be left out
    where the origin is no https."""

    def __init__(
        self,
        base: BaseUrl,
        runtime: Runtime,
        network: httpcore.AsyncNetworkBackend,
        *,
        ssl_context: ssl.SSLContext | None,
        max_connections: int,
        keepalive_s: float,
        limits: Limits,
    ) -> None:
        super().__init__(
            ssl_context=ssl_context,
            max_connections=max_connections,
            keepalive_expiry=keepalive_s,
            uds=base.socket_path,
            network_backend=network,
        )
        self._base = base
        self._runtime = runtime
        self._limits = limits
        self._capacity = max_connections
        self._keepalive_s = keepalive_s
        self._open: set[UpstreamConnection] = set()
        self._idle: dict[UpstreamConnection, None] = {}
        self._line: deque[_Waiter] = deque()
        self._expiry: Timer | None = None
        self._is_closed = False
        self._spares: Spares | None = None
        self.sessions = TlsSessions()
        self.origin = httpcore.Origin(base.scheme.encode(), base.host.encode(), base.port)
        self.url = httpcore.URL(scheme=base.scheme, host=base.host, port=base.port, target=b"/")

    # --- httpcore's interface

    @property
    def connections(self) -> list[httpcore.AsyncConnectionInterface]:
        return list(self._open)

    def create_connection(self, origin: httpcore.Origin) -> UpstreamConnection:
        assert origin == self.origin, "one pool serves one origin"
        return UpstreamConnection(self._base, self, self._limits)

    async def handle_async_request(self, request: httpcore.Request) -> UpstreamResponse:
        """Raises httpcore's errors; PoolTimeout where the line was too long. The response must be closed."""
        wait_s = request.extensions.get("timeout", {}).get("pool")
        while True:
            connection = self._take() or await self._wait_in_line(wait_s)
            if self._spares is not None:
                self._spares.used()
            try:
                return await connection.handle_async_request(request)
            except httpcore.ConnectionNotAvailable:
                self.give(connection)  # it was found closed before a byte was written: the next one
            except BaseException:
                connection.discard()
                self.give(connection)
                raise

    async def aclose(self) -> None:
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        if self._spares is not None:
            self._spares.close()
        for connection in list(self._open):
            connection.discard()
        self._open.clear()
        self._idle.clear()
        for waiter in self._line:
            waiter.spot.wake()

    # --- connections ahead of the requests

    def keep_warm(self, count: int, tasks: anyio.abc.TaskGroup, timeouts: Mapping[str, float | None]) -> None:
        """Have `count` connections open ahead of the requests from now on, as long as requests come. `tasks` open them;
        `timeouts` are those of a request, in httpcore's names."""
        self._spares = Spares(self, tasks, count, timeouts)
        self._spares.used()

    @property
    def keepalive_s(self) -> float:
        return self._keepalive_s

    @property
    def idle_count(self) -> int:
        """How many of those that have served requests lie idle."""
        return len(self._idle)

    @property
    def room(self) -> int:
        """How many more connections there may be."""
        return self._capacity - len(self._open)

    @property
    def is_awaited(self) -> bool:
        """Whether a request waits for a connection."""
        return bool(self._line)

    def new_connection(self) -> UpstreamConnection:
        """One more, not yet open. It takes up room until it is given back."""
        connection = self.create_connection(self.origin)
        self._open.add(connection)
        return connection

    # --- what connections need

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    @property
    def network(self) -> httpcore.AsyncNetworkBackend:
        return self._network_backend

    @property
    def ssl_context(self) -> ssl.SSLContext:
        assert self._ssl_context is not None
        return self._ssl_context

    def give(self, connection: UpstreamConnection) -> None:
        """Take a connection back after its exchange; an unusable one frees its slot. Never waits."""
        if connection.is_closed() or self._is_closed:
            connection.discard()
            self._open.discard(connection)
            self._serve_line()
            if self._spares is not None:
                self._spares.look()
        elif self._line:
            self._grant(connection)
        else:
            connection.expires = self._runtime.now() + self._keepalive_s
            self._idle[connection] = None
            if self._expiry is None:
                self._expiry = self._runtime.call_later(self._keepalive_s, self._expire)

    def forget(self, connection: UpstreamConnection) -> None:
        """An idle connection has reported its end."""
        if self._idle.pop(connection, connection) is None:
            connection.discard()
            self._open.discard(connection)
            if self._spares is not None:
                self._spares.look()
        elif self._spares is not None:
            self._spares.forget(connection)

    # --- assignment

    def _take(self) -> UpstreamConnection | None:
        """One that is free now; None where the line has to be joined."""
        now = self._runtime.now()
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.expires > now:
                return connection
            connection.discard()
            self._open.discard(connection)
        if self._spares is not None and (spare := self._spares.take()) is not None:
            return spare
        return self.new_connection() if len(self._open) < self._capacity else None

    async def _wait_in_line(self, wait_s: float | None) -> UpstreamConnection:
        waiter = _Waiter(self._runtime.spot())
        self._line.append(waiter)
        try:
            with anyio.fail_after(wait_s):
                while waiter.granted is None:
                    if self._is_closed:
                        raise httpcore.ConnectError("the pool is closed")
                    await waiter.spot.wait()
        except BaseException as exc:
            self._leave_line(waiter)
            if isinstance(exc, TimeoutError):
                raise httpcore.PoolTimeout("every connection to the upstream is busy") from exc
            raise
        return waiter.granted

    def _leave_line(self, waiter: _Waiter) -> None:
        """Its task is cancelled or was too late: what was granted meanwhile goes to the next one."""
        if waiter.granted is None:
            self._line.remove(waiter)
        else:
            self.give(waiter.granted)

    def _serve_line(self) -> None:
        """A slot is free: the first in line gets a new connection."""
        if self._line and not self._is_closed:
            self._grant(self.new_connection())

    def _grant(self, connection: UpstreamConnection) -> None:
        waiter = self._line.popleft()
        waiter.granted = connection
        waiter.spot.wake()

    def _expire(self) -> None:
        """The oldest idle connections stand first."""
        self._expiry = None
        now = self._runtime.now()
        while self._idle:
            oldest = next(iter(self._idle))
            if oldest.expires > now:
                self._expiry = self._runtime.call_later(oldest.expires - now, self._expire)
                return
            self.forget(oldest)

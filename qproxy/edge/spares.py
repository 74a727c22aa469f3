"""Connections to one upstream that are opened before a request needs them, with TLS and all.

They are opened beside the requests, never by one, while the upstream is in use and for some minutes after that. Each is
replaced when it was taken, when it has ended and when it has lain idle for too long. Connections that have served
requests are taken before these: their congestion windows have grown. All of them count among the pool's connections,
and whoever stands in line there gets one as soon as it is open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from qproxy.edge.runtime import Timer

if TYPE_CHECKING:
    from qproxy.edge.http11 import UpstreamConnection
    from qproxy.edge.pool import Pool


USED_LATELY_S = 300.0
"""For so long after the last request spares are replaced: a user who reads and thinks comes back within minutes."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0  # what fails costs the upstream two handshakes a minute and spare


class Spares:
    """At most `count` of them. `timeouts` are those of a request, in httpcore's names."""

    def __init__(
        self, pool: Pool, tasks: anyio.abc.TaskGroup, count: int, timeouts: Mapping[str, float | None]
    ) -> None:
        self._pool = pool
        self._runtime = pool.runtime
        self._tasks = tasks
        self._count = count
        self._timeouts = timeouts
        self._ready: dict[UpstreamConnection, None] = {}
        self._opening: dict[UpstreamConnection, anyio.CancelScope | None] = {}
        self._used_at = -math.inf
        self._not_before = -math.inf
        self._pause_s = FIRST_PAUSE_S
        self._timer: Timer | None = None
        self._rings_at = math.inf
        self._is_closed = False

    # --- what the pool calls

    def used(self) -> None:
        """A request has come, or is expected."""
        self._used_at = self._runtime.now()
        self.look()

    def look(self) -> None:
        """One may be missing from now on, or there may be room for one. Opens nothing at once: whoever calls has a
        request to send."""
        if self._missing() > 0:
            self._ring_at(self._not_before)

    def take(self) -> UpstreamConnection | None:
        """The newest one; None where none is ready."""
        now = self._runtime.now()
        while self._ready:
            connection, _ = self._ready.popitem()
            if connection.expires > now:
                self._pause_s = FIRST_PAUSE_S
                return connection
            self._drop(connection)
        return None

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection has reported its end; where it was a spare, the upstream does not want to be held like this."""
        if self._ready.pop(connection, connection) is None:
            self._pause()
            self._drop(connection)

    def close(self) -> None:
        """Open no more. Those that are open are the pool's to close."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._ready.clear()
        for scope in list(self._opening.values()):
            if scope is not None:
                scope.cancel()

    # --- filling up

    def _missing(self) -> int:
        if self._is_closed or self._runtime.now() - self._used_at > USED_LATELY_S:
            return 0
        wanted = self._count - self._pool.idle_count - len(self._ready) - len(self._opening)
        return min(wanted, self._pool.room)

    def _ring_at(self, when: float) -> None:
        if when >= self._rings_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = when
        self._timer = self._runtime.call_later(max(0.0, when - self._runtime.now()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._rings_at = math.inf
        now = self._runtime.now()
        self._expire(now)
        if now >= self._not_before:
            for _ in range(self._missing()):
                connection = self._pool.new_connection()
                self._opening[connection] = None
                self._tasks.start_soon(self._open, connection)
        self.look()
        if self._ready:
            self._ring_at(next(iter(self._ready)).expires)

    def _expire(self, now: float) -> None:
        """The oldest stand first."""
        while self._ready:
            oldest = next(iter(self._ready))
            if oldest.expires > now:
                return
            del self._ready[oldest]
            self._pause_s = FIRST_PAUSE_S
            opened_at = oldest.expires - self._pool.keepalive_s
            self._not_before = max(self._not_before, opened_at + FIRST_PAUSE_S)  # however short the setting
            self._drop(oldest)

    async def _open(self, connection: UpstreamConnection) -> None:
        try:
            with anyio.CancelScope() as scope:
                self._opening[connection] = scope
                if not self._is_closed:
                    await connection.open(self._timeouts)
        finally:
            del self._opening[connection]
            self._admit(connection)

    def _admit(self, connection: UpstreamConnection) -> None:
        """It is open, or has failed to be."""
        if connection.is_closed():
            self._pause()
            self._pool.give(connection)
        elif self._is_closed or self._pool.is_awaited:
            self._pool.give(connection)
        else:
            connection.expires = self._runtime.now() + self._pool.keepalive_s
            self._ready[connection] = None
            self._ring_at(connection.expires)

    def _pause(self) -> None:
        """What has failed several times at once has failed once."""
        now = self._runtime.now()
        if now >= self._not_before:
            self._not_before = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _drop(self, connection: UpstreamConnection) -> None:
        """Unused; what it got to resume TLS with serves the one that takes its place."""
        connection.keep_session()
        connection.discard()
        self._pool.give(connection)

"""A proxy's life: it listens, serves and leaves."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import anyio
import anyio.abc

from qproxy.app.assembly import App
from qproxy.app.background import background
from qproxy.config import Settings
from qproxy.edge.drain import Stage
from qproxy.edge.listener import Listener, address_of, bind, closing_all
from qproxy.edge.process import connections_carried, tune_process
from qproxy.edge.runtime import current_runtime
from qproxy.edge.stall_watch import StallWatch
from qproxy.edge.writer import logging_beside

log = logging.getLogger(__name__)

FAREWELL_S = 0.5  # for the last words of answers that are broken off to be taken
RENEWAL_S = 8.0  # for a login that is being renewed to be saved: without that it is lost (faults.md P03)
HURRIED_RENEWAL_S = 1.0
MANY_CONNECTIONS = 1_000  # a limit below that is told of, as one that nobody chose (faults.md R1)


class Running:
    """A proxy that listens. `url` has no path; `port` is 0 on a unix socket.

    Leaving the block of `running` cuts whatever is under way; `drain` first lets clients have their answers.
    `renewal_s` is how long the end of the block waits for logins that are being renewed.
    """

    def __init__(self, app: App, listener: Listener, sockets: Sequence[socket.socket]) -> None:
        self.app = app
        self.url = address_of(sockets[0])
        self.port = 0 if sockets[0].family == socket.AF_UNIX else int(sockets[0].getsockname()[1])
        self.renewal_s = RENEWAL_S
        self._listener = listener
        self._grace = anyio.CancelScope()
        self._saving = anyio.CancelScope()

    async def drain(self) -> None:
        """Leave in good order, once: no new requests; those under way have `timeouts.drain_s` to finish and are broken
        off then. Returns when no connection is left, or half a second after that time."""
        timeouts = self.app.settings.timeouts
        with self._grace:
            self.app.drain.advance(Stage.LEAVING)
            await anyio.sleep(timeouts.drain_delay_s)
            self._listener.stop()
            self.app.drain.advance(Stage.CLOSED)
            with anyio.move_on_after(timeouts.drain_s):
                await self._listener.ended.wait()
        self._listener.stop()
        await self._break_off()

    def hurry(self) -> None:
        """Have a drain, and the end of the block, wait for nothing any more. Clients are told where possible."""
        self.renewal_s = HURRIED_RENEWAL_S
        self._grace.cancel()
        self._limit_saving()

    async def close(self) -> None:
        """The end of the block, when no connection is left."""
        self._limit_saving()
        with self._saving:
            await self.app.logins.land()
        await self.app.close()

    def _limit_saving(self) -> None:
        self._saving.deadline = min(self._saving.deadline, anyio.current_time() + self.renewal_s)

    async def _break_off(self) -> None:
        under_way = self.app.activity.under_way
        if under_way:
            log.warning("stopping: requests that were broken off: %d", under_way)
        self.app.drain.break_off()
        with anyio.move_on_after(FAREWELL_S):
            await self._listener.ended.wait()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A proxy on the loop that runs, until the block is left; then every connection is cut. Raises OSError where the
    address cannot be bound."""
    sockets = await bind(settings.host, settings.port)
    with closing_all(sockets):
        async with background() as tasks:
            app = App(settings, current_runtime(tasks), tasks)
            listener = Listener(sockets, app.handle, max_connections(settings), settings.limits.max_per_address)
            proxy = Running(app, listener, sockets)
            async with app.keeping_state():
                try:
                    await app.start()
                    async with background() as connections:
                        connections.start_soon(listener.serve)
                        yield proxy
                finally:
                    with anyio.CancelScope(shield=True):
                        await proxy.close()


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then drain; a second signal ends that. `announce` gets the URL once connections
    are accepted, and must not wait. Raises OSError."""
    tune_process()
    with logging_beside(), anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with background() as beside, running(settings) as proxy:
            with _watching_stalls(proxy.app):
                _tell_of_few_descriptors(settings.limits.max_connections)
                announce(proxy.url)
                await anext(signals)
                beside.start_soon(_hurry, proxy, signals)
                _tell_what_is_under_way(proxy.app)
                await proxy.drain()


async def _hurry(proxy: Running, signals: AsyncIterator[signal.Signals]) -> None:
    async for _ in signals:
        proxy.hurry()


def _tell_of_few_descriptors(wanted: int) -> None:
    carried = connections_carried()
    if carried < (wanted or MANY_CONNECTIONS):
        why = f"max_connections is {wanted}" if wanted else "more clients are turned away"
        log.warning("the limit of open files carries %d connections, %s: raise it with ulimit -n", carried, why)


def _tell_what_is_under_way(app: App) -> None:
    under_way = app.activity.under_way
    if under_way:
        drain_s = app.settings.timeouts.drain_s
        log.warning("stopping: requests under way: %d; they have %g s; a second signal ends them", under_way, drain_s)


def _watching_stalls(app: App) -> contextlib.AbstractContextManager[None]:
    limit_ms = app.settings.stall_ms
    if not limit_ms:
        return contextlib.nullcontext()
    return StallWatch(app.services.runtime, limit_ms / 1000, app.activity).running()


def max_connections(settings: Settings) -> int:
    """How many clients are let in: the setting, or what the descriptor limit carries."""
    return settings.limits.max_connections or connections_carried()

"""The event loop behind one small face, so that a stream is written once and runs on uvloop, asyncio and trio.

Three things differ between the loops where it counts: how a socket's bytes arrive (`attach`), how one task waits for
"look again" (`spot`), and how something is called later (`call_later`). All else is anyio. On asyncio and uvloop these
are the loop's own transports, futures and timers. On trio a transport of ours stands on readiness alone.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, TypeVarTuple

import anyio
import sniffio

from qproxy.core.splice import Buffer
from qproxy.edge.outbox import Outbox

Result = TypeVar("Result")
Args = TypeVarTuple("Args")

BACKENDS = ("uvloop", "asyncio", "trio")


class Transport(Protocol):
    """The part of an asyncio transport that a stream needs."""

    def write(self, data: Buffer) -> None: ...
    def writelines(self, pieces: Sequence[Buffer]) -> None: ...
    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def set_write_buffer_limits(self, high: int, low: int) -> None: ...


class Receiver(Protocol):
    """The part of an asyncio protocol that a transport calls."""

    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Spot(Protocol):
    """Where one task waits until somebody says "look again". It carries no value: a cancelled wait loses nothing."""

    async def wait(self) -> None: ...
    def wake(self) -> None: ...


class Runtime(Protocol):
    """The loop that is running."""

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        ...

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer: ...

    def call_from_thread(self, call: Callable[[], None]) -> None:
        """Call it on the loop's thread, soon; for other threads. Raises RuntimeError where the loop has ended."""
        ...

    def spot(self) -> Spot: ...

    @property
    def outbox(self) -> Outbox: ...

    async def attach(self, sock: socket.socket, receiver: Receiver) -> None:
        """Let the bytes of a connected, non-blocking socket arrive at `receiver`, which owns the socket from here."""
        ...


class _FutureSpot:
    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        assert self._future is None, "two tasks wait on one stream"
        self._future = future = self._loop.create_future()
        try:
            await future
        finally:
            self._future = None

    def wake(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)


class AsyncioRuntime:
    """asyncio or uvloop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = time.monotonic  # uvloop's own time stands still while callbacks run, and counts milliseconds
        self.call_later: Callable[[float, Callable[[], None]], Timer] = loop.call_later
        self.outbox = Outbox(loop.call_soon)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(call)

    def spot(self) -> Spot:
        return _FutureSpot(self._loop)

    async def attach(self, sock: socket.socket, receiver: Receiver) -> None:
        # Server side or not only matters to a TLS layer of the loop's, which is not used: TLS is the stream's own.
        await self._loop.connect_accepted_socket(lambda: receiver, sock)  # type: ignore[type-var]


def current_runtime(task_group: anyio.abc.TaskGroup) -> Runtime:
    """The runtime of the running loop; `task_group` holds what trio's transports need to run beside a request."""
    if sniffio.current_async_library() == "trio":
        from qproxy.edge.runtime_trio import TrioRuntime

        return TrioRuntime(task_group)
    return AsyncioRuntime(asyncio.get_running_loop())


def run(main: Callable[[*Args], Awaitable[Result]], *args: *Args, backend: str) -> Result:
    """Run `main` to its end on the named loop."""
    if backend == "trio":
        return anyio.run(main, *args, backend="trio")
    return anyio.run(main, *args, backend="asyncio", backend_options={"use_uvloop": backend == "uvloop"})

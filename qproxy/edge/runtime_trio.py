"""trio's side of the runtime: a transport on socket readiness, with asyncio's contract.

The reader task hands each read to the receiver's callback, where a body moves on to its peer at once, exactly as on
asyncio: one wake-up a read, and no second task in between. Writes go to the socket directly; only what the kernel does
not take is queued and flushed by a task that lives as long as the queue is not empty.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import socket
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import anyio
import trio

from qproxy.core.splice import Buffer
from qproxy.edge.outbox import Outbox

if TYPE_CHECKING:  # the runtime imports this module
    from qproxy.edge.runtime import Receiver, Spot, Timer

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024  # what asyncio and uvloop read at once


@contextlib.contextmanager
def _one_callback(give_up: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The crash barrier of callbacks, as the other loops have one: a defect costs a connection and not the server."""
    try:
        yield
    except Exception:  # noqa: BLE001
        log.error("internal error\n%s", traceback.format_exc())  # noqa: TRY400
        give_up()


def _called_alone(call: Callable[[], None]) -> None:
    with _one_callback():
        call()


class _ParkingSpot:
    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        assert self._task is None, "two tasks wait on one stream"
        self._task = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def wake(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)


class _Entry:
    """A call that is due; `call` is None once it was cancelled."""

    __slots__ = ("call", "due", "order")

    def __init__(self, due: float, order: int, call: Callable[[], None]) -> None:
        self.due = due
        self.order = order
        self.call: Callable[[], None] | None = call

    def __lt__(self, other: _Entry) -> bool:
        return (self.due, self.order) < (other.due, other.order)

    def cancel(self) -> None:
        self.call = None


class _Timers:
    """One task and a heap, in place of a task a timer."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._order = itertools.count()
        self._earlier = _ParkingSpot()

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        entry = _Entry(trio.current_time() + delay_s, next(self._order), call)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._earlier.wake()
        return entry

    async def run(self) -> None:
        while True:
            due = self._heap[0].due if self._heap else float("inf")
            with trio.CancelScope(deadline=due):
                await self._earlier.wait()
            now = trio.current_time()
            while self._heap and self._heap[0].due <= now:
                call = heapq.heappop(self._heap).call
                if call is not None:
                    with _one_callback():
                        call()


class _Transport:
    """One connected socket."""

    def __init__(self, sock: socket.socket, receiver: Receiver, tasks: anyio.abc.TaskGroup) -> None:
        self._sock = sock
        self._receiver = receiver
        self._tasks = tasks
        self._queue: deque[memoryview] = deque()
        self._queued_bytes = 0
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._receiver_paused = False
        self._reading_paused = False
        self._resumed = _ParkingSpot()
        self._closing = False
        self._closed = False
        self._eof_wanted = False
        self._flushing = False

    def start(self) -> None:
        self._receiver.connection_made(self)
        self._tasks.start_soon(self._read)

    async def _read(self) -> None:
        sock = self._sock
        receiver = self._receiver
        while not self._closed:
            if self._reading_paused:
                await self._resumed.wait()
                continue
            try:
                await trio.lowlevel.wait_readable(sock)
                if self._reading_paused or self._closed:
                    continue
                data = sock.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except trio.ClosedResourceError:
                return
            except OSError as exc:
                self._close(exc)
                return
            if data:
                with _one_callback(self._crash):
                    receiver.data_received(data)
                del data  # or the next wait holds it, for as long as reading is paused
            elif receiver.eof_received():
                return
            else:
                self.close()
                return

    def writelines(self, pieces: Sequence[Buffer]) -> None:
        self.write(b"".join(pieces))

    def write(self, data: Buffer) -> None:
        if self._closing:
            return
        sent = 0
        if not self._queue:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                self._close(exc)
                return
        if sent < len(data):
            self._queue.append(memoryview(data)[sent:])
            self._queued_bytes += len(data) - sent
            self._start_flushing()
            self._pause_receiver()

    def _pause_receiver(self) -> None:
        if self._queued_bytes > self._high and not self._receiver_paused:
            self._receiver_paused = True
            self._receiver.pause_writing()

    def _start_flushing(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._tasks.start_soon(self._flush)

    async def _flush(self) -> None:
        while self._queue:
            try:
                await trio.lowlevel.wait_writable(self._sock)
                if not self._queue:
                    break
                sent = self._sock.send(self._queue[0])
            except (BlockingIOError, InterruptedError):
                continue
            except trio.ClosedResourceError:
                return
            except OSError as exc:
                self._close(exc)
                return
            self._take_off(sent)
        self._flushing = False
        if self._closing:
            self._close(None)
        elif self._eof_wanted:
            self._shutdown()

    def _take_off(self, sent: int) -> None:
        self._queued_bytes -= sent
        first = self._queue[0]
        if sent < len(first):
            self._queue[0] = first[sent:]
        else:
            self._queue.popleft()
        if self._receiver_paused and self._queued_bytes <= self._low:
            self._receiver_paused = False
            self._receiver.resume_writing()

    def write_eof(self) -> None:
        self._eof_wanted = True
        if not self._queue and not self._closed:
            self._shutdown()

    def _shutdown(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._resumed.wake()

    def get_write_buffer_size(self) -> int:
        return self._queued_bytes

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self._high = high
        self._low = low
        self._pause_receiver()

    def close(self) -> None:
        self._closing = True
        if not self._queue:
            self._close(None)

    def abort(self) -> None:
        self._close(None)

    def _crash(self) -> None:
        self._close(ConnectionAbortedError(errno.ECONNABORTED, "a defect of ours"))

    def _close(self, exc: Exception | None) -> None:
        if self._closed:
            return
        self._closed = self._closing = True
        self._queue.clear()
        self._queued_bytes = 0
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        self._resumed.wake()
        self._receiver.connection_lost(exc)


class TrioRuntime:
    """trio. The task group must outlive every stream that is attached."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._timers = _Timers()
        self.call_later = self._timers.call_later
        self.outbox = Outbox(lambda call: self.call_later(0.0, call))
        self.now = trio.current_time
        self._token = trio.lowlevel.current_trio_token()
        tasks.start_soon(self._timers.run)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        self._token.run_sync_soon(_called_alone, call)

    def spot(self) -> Spot:
        return _ParkingSpot()

    async def attach(self, sock: socket.socket, receiver: Receiver) -> None:
        sock.setblocking(False)
        transport = _Transport(sock, receiver, self._tasks)
        transport.start()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            transport.abort()
            raise

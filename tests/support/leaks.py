"""What must not be left behind: descriptors, threads, tasks, leases; and cancellation at every await in turn."""

from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from qproxy.app import App

PATIENCE_S = 3.0
"""With what ends soon, such as a connection that lingers for two seconds."""

OUR_THREADS = "qproxy-"

TURNS = 50
"""Of the loop: transports close their sockets one or two turns after they are told to."""


def open_descriptors() -> frozenset[str]:
    """Those of this process, each with what it stands for: a path, or the inode of a socket or pipe."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue  # the descriptor of the listing itself
    return frozenset(found)


def open_sockets() -> frozenset[str]:
    """The sockets among them."""
    return frozenset(each for each in open_descriptors() if each.partition(" ")[2].startswith("socket:"))


def our_threads() -> frozenset[threading.Thread]:
    return frozenset(each for each in threading.enumerate() if each.name.startswith(OUR_THREADS))


class Proxies:
    """The proxies that were put together since, as long as anybody holds them."""

    def __init__(self) -> None:
        self._apps: weakref.WeakSet[App] = weakref.WeakSet()

    def add(self, app: App) -> None:
        self._apps.add(app)

    def requests(self) -> int:
        """How many are under way."""
        return sum(app.activity.under_way for app in self._apps)

    def leases(self) -> int:
        """How many have not been given back."""
        return sum(view.in_flight for app in self._apps for view in app.accounts.views())


@dataclass(frozen=True)
class Belongings:
    """What a test may find, and must not add to."""

    descriptors: frozenset[str]
    threads: frozenset[threading.Thread]

    @classmethod
    def of_now(cls) -> Belongings:
        return cls(open_descriptors(), our_threads())

    def left_behind(self, *, descriptors: bool) -> list[str]:
        """What has been added to them since."""
        added = [f"thread {each.name}" for each in our_threads() - self.threads]
        if descriptors:
            added += [f"descriptor {each}" for each in open_descriptors() - self.descriptors]
        return sorted(added)


def wait_until_gone(left_behind: Callable[[], list[str]]) -> list[str]:
    """What is still left when the patience is at its end."""
    give_up_s = time.monotonic() + PATIENCE_S
    while left := left_behind():
        if time.monotonic() > give_up_s:
            return left
        gc.collect()  # what nobody holds any more is no leak; that it was not closed is a warning of its own
        time.sleep(0.02)
    return []


def running_tasks() -> int:
    return len(anyio.get_running_tasks())


async def turns(count: int = TURNS) -> None:
    """Gives everything else on the loop its turn."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """The block leaves no socket open and no task running."""
    await turns(5)
    sockets, tasks = open_sockets(), running_tasks()
    yield
    with anyio.move_on_after(PATIENCE_S):
        while not (open_sockets() <= sockets and running_tasks() <= tasks):
            await anyio.sleep(0.002)
    assert open_sockets() <= sockets
    assert running_tasks() <= tasks


async def cancelled_after(work: Callable[[], Awaitable[object]], turns_of_loop: int, then_s: float = 0) -> bool:
    """Runs `work` and cancels it after so many turns of the loop and that time; True where it was over before."""
    finished = False

    async def run() -> None:
        nonlocal finished
        with scope:
            await work()
            finished = True
        over.set()

    scope = anyio.CancelScope()
    over = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await turns(turns_of_loop)
        if then_s:
            await anyio.sleep(then_s)
        scope.cancel()
        await over.wait()
    return finished


async def cancelled_at_every_await(work: Callable[[], Awaitable[object]]) -> int:
    """Runs `work` again and again, each time cancelled later, until it gets through; how often that was.

    Later by one turn of the loop at first. What then still waits does so for a thread or the kernel, whose time is not
    told in turns: from there on it gets a quarter more each time.
    """
    for count in range(TURNS):
        if await cancelled_after(work, count):
            return count
    then_s, count = 0.0005, TURNS
    while not await cancelled_after(work, TURNS, then_s):
        assert then_s < PATIENCE_S, "never over"
        then_s, count = then_s * 1.25, count + 1
    return count


def tcp_pair(*, send_buffer_bytes: int = 0, receive_buffer_bytes: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking TCP sockets. The sizes are the kernel's buffers of both."""
    with socket.socket() as listener:
        if receive_buffer_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.socket()
        if receive_buffer_bytes:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if send_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return ours, theirs


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that answers no SYN: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]

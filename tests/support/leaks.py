"""What must not be left behind: descriptors, tasks; and cancellation at every await in turn."""

from __future__ import annotations

import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

TURNS = 50
"""Of the loop: transports close their sockets one or two turns after they are told to."""


def open_sockets() -> set[str]:
    """The sockets of this process, by descriptor and inode."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found.add(f"{entry.name} {target}")
    return found


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
    for _ in range(TURNS):
        if open_sockets() <= sockets and running_tasks() <= tasks:
            return
        await anyio.sleep(0.002)
    assert open_sockets() <= sockets
    assert running_tasks() <= tasks


async def cancelled_after(work: Callable[[], Awaitable[object]], turns_of_loop: int) -> bool:
    """Runs `work` and cancels it after so many turns of the loop; True where it was over before."""
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
        scope.cancel()
        await over.wait()
    return finished


async def cancelled_at_every_await(work: Callable[[], Awaitable[object]], limit: int = 200) -> int:
    """Runs `work` again and again, each time cancelled one turn of the loop later, until it gets through; the turns."""
    for count in range(limit):
        if await cancelled_after(work, count):
            return count
    raise AssertionError(f"not over after {limit} turns of the loop")


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

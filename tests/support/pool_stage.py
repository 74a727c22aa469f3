"""A pool whose connects and upstreams are in the test's hands, step by step: nothing happens by itself.

Every act is done at once and waits for nothing; `settle` gives the loop its turns. `check` holds at any time.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import anyio
import httpcore

from qproxy.core.exchange import Attempt
from qproxy.core.limits import Limits
from qproxy.core.upstream import BaseUrl
from qproxy.edge.pool import Pool
from qproxy.edge.runtime import current_runtime
from qproxy.edge.streams import Stream, open_stream
from qproxy.errors import UpstreamError
from tests.support.leaks import nothing_left, tcp_pair, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from qproxy.edge.http11 import UpstreamConnection, UpstreamResponse
    from qproxy.edge.pool import _Waiter
    from qproxy.edge.runtime import Runtime

Item = TypeVar("Item")

NEVER_S = 60.0
TURNS = 25
"""More than any act takes to have all its effects."""

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
BROKEN = b"HTTP/1.1 2000 OK\r\n\r\n"


@dataclass
class Dial:
    """A connect that is under way, until it is decided."""

    decided: anyio.Event = field(default_factory=anyio.Event)
    is_refused: bool = False


@dataclass
class Peer:
    """The upstream's end of a connection. `answers` are the whole ones that it gave."""

    sock: socket.socket
    requests: int = 0
    answers: int = 0
    is_spoiled: bool = False  # after what it said nobody may send a request here
    is_left: bool = False  # the pool has closed it, or we have

    @property
    def is_asked(self) -> bool:
        return self.requests > self.answers and not self.is_spoiled and not self.is_left

    def say(self, data: bytes) -> None:
        try:
            self.sock.send(data)
        except OSError:
            pass  # the pool has closed it

    def hang_up(self) -> None:
        self.is_left = True
        self.sock.close()

    def listen(self) -> None:
        """Take what has come, and check that requests come one at a time."""
        received = b""
        try:
            while not self.is_left:
                part = self.sock.recv(65536)
                received += part
                self.is_left = not part
        except BlockingIOError:
            pass
        except OSError:
            self.is_left = True
        arrived = received.count(b"\r\n\r\n")
        self.requests += arrived
        assert not (arrived and self.is_spoiled), "a request on a connection that is not fit for one"
        assert self.requests <= self.answers + 1, "two requests on one connection"


@dataclass
class Caller:
    """One who asks the pool. It ends with `response` or `failure`, or is cancelled."""

    scope: anyio.CancelScope
    attempt: Attempt
    response: UpstreamResponse | None = None
    failure: Exception | None = None
    is_over: bool = False  # it waits for nothing any more


class Network(httpcore.AsyncNetworkBackend):
    """Connects when the test says so."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.dials: list[Dial] = []
        self.peers: list[Peer] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        dial = Dial()
        self.dials.append(dial)
        try:
            await dial.decided.wait()
        finally:
            self.dials.remove(dial)
        if dial.is_refused:
            raise httpcore.ConnectError("refused")
        ours, theirs = tcp_pair()
        self.peers.append(Peer(theirs))
        return await open_stream(self._runtime, ours)


class PoolStage:
    """The pool with all who have asked it."""

    def __init__(self, runtime: Runtime, tasks: anyio.abc.TaskGroup, capacity: int, warm: int = 0) -> None:
        self.network = Network(runtime)
        self.capacity = capacity
        self.callers: list[Caller] = []
        self._tasks = tasks
        self._line: list[_Waiter] = []  # as it was at the last check
        self.pool = Pool(
            BaseUrl.parse("http://upstream.test"),
            runtime,
            self.network,
            ssl_context=None,
            max_connections=capacity,
            keepalive_s=NEVER_S,
            limits=Limits(),
        )
        if warm:
            self.pool.keep_warm(warm, tasks, {})

    # --- acts

    def ask(self, wait_s: float = NEVER_S) -> Caller:
        caller = Caller(anyio.CancelScope(), Attempt("upstream"))
        self.callers.append(caller)
        self._tasks.start_soon(self._call, caller, wait_s)
        return caller

    async def _call(self, caller: Caller, wait_s: float) -> None:
        request = httpcore.Request("GET", self.pool.url)
        request.extensions = {"attempt": caller.attempt, "timeout": {"pool": wait_s}}
        with caller.scope:
            try:
                caller.response = await self.pool.handle_async_request(request)
            except (httpcore.NetworkError, httpcore.PoolTimeout, UpstreamError) as exc:
                caller.failure = exc
        caller.is_over = True

    def connect(self, which: int) -> None:
        for dial in _one_of(self._undecided, which):
            dial.decided.set()

    def refuse(self, which: int) -> None:
        for dial in _one_of(self._undecided, which):
            dial.is_refused = True
            dial.decided.set()

    @property
    def _undecided(self) -> list[Dial]:
        return [dial for dial in self.network.dials if not dial.decided.is_set()]

    def answer(self, which: int, data: bytes = WHOLE) -> None:
        for peer in _one_of([peer for peer in self.network.peers if peer.is_asked], which):
            peer.say(data)
            peer.answers += 1
            peer.is_spoiled = data != WHOLE

    def speak(self, which: int) -> None:
        """Say something that nobody asked for."""
        for peer in _one_of([peer for peer in self.network.peers if not peer.is_asked], which):
            peer.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            peer.listen()  # what had come before
            peer.is_spoiled = True

    def hang_up(self, which: int) -> None:
        for peer in _one_of([peer for peer in self.network.peers if not peer.is_left], which):
            peer.hang_up()

    def finish(self, which: int) -> None:
        """Take an answer to its end, where all of it is here."""
        for caller in _one_of(self.holders, which):
            self._drop(caller)

    def abandon(self, which: int) -> None:
        """Close an answer unread."""
        for caller in _one_of(self.holders, which):
            assert caller.response is not None
            caller.response.close()
            caller.response = None

    def cancel(self, which: int) -> None:
        for caller in _one_of([caller for caller in self.callers if not caller.is_over], which):
            caller.scope.cancel()

    def expire(self, _: int) -> None:
        for connection in (*self.pool._idle, *self.spares):
            connection.expires = 0.0
        self.pool._expire()
        if self.pool._spares is not None:
            self.pool._spares._ring()

    def _drop(self, caller: Caller) -> None:
        assert caller.response is not None
        caller.response.drop()
        caller.response = None

    # --- what must hold

    @property
    def holders(self) -> list[Caller]:
        """Those who have an answer and its connection."""
        return [caller for caller in self.callers if caller.response is not None]

    @property
    def waiting(self) -> list[Caller]:
        return [caller for caller in self.callers if not caller.is_over]

    @property
    def spares(self) -> list[UpstreamConnection]:
        """Those that are open ahead of the requests."""
        return [] if self.pool._spares is None else list(self.pool._spares._ready)

    @property
    def spares_to_be(self) -> int:
        """How many more are being opened."""
        return 0 if self.pool._spares is None else len(self.pool._spares._opening)

    def check(self) -> None:
        """At any time."""
        pool = self.pool
        assert len(pool._open) <= self.capacity
        assert {*pool._idle, *self.spares} <= pool._open
        assert not ((pool._idle or self.spares) and pool._line), "somebody waits although a connection is idle"
        held = [caller.response._connection for caller in self.holders if caller.response is not None]
        assert len(held) == len(set(held)), "a connection is used by two"
        assert not set(held) & {*pool._idle, *self.spares}
        assert not set(self.spares) & set(pool._idle)
        for peer in self.network.peers:
            peer.listen()
        self._check_order()

    def _check_order(self) -> None:
        """Whoever came first is served first, unless it has left."""
        now = list(self.pool._line)
        served = [at for at, waiter in enumerate(self._line) if waiter not in now and waiter.granted is not None]
        for at in served:
            assert not [waiter for waiter in self._line[:at] if waiter in now], "somebody was overtaken"
        self._line = now

    async def settle(self) -> None:
        """Let everything come to rest; then nobody waits while there is room, and no place is lost."""
        for _ in range(TURNS):
            await turns(1)
            self.check()
        pool = self.pool
        assert not pool._line or len(pool._open) == self.capacity
        ahead = len(self.spares) + self.spares_to_be
        assert len(pool._open) == len(pool._idle) + len(self.holders) + len(self.waiting) - len(pool._line) + ahead

    async def end(self) -> None:
        """Everybody leaves, after which there is room for as many as ever."""
        for caller in self.callers:
            caller.scope.cancel()
        for caller in self.holders:
            self._drop(caller)
        await self.settle()
        assert not self.waiting
        newcomers = [self.ask() for _ in range(self.capacity)]
        await self.settle()
        while self._undecided:
            self.connect(0)
        await self.settle()
        assert all(caller.attempt.sent for caller in newcomers)
        for _ in newcomers:
            self.answer(0)
        await self.settle()
        assert self.holders == newcomers
        for caller in newcomers:
            self._drop(caller)
        assert len(self.pool._idle) == self.capacity

    def close(self) -> None:
        for peer in self.network.peers:
            peer.hang_up()


def _one_of(items: Sequence[Item], which: int) -> Sequence[Item]:
    """One of the items, or none where there are none."""
    return [items[which % len(items)]] if items else []


@asynccontextmanager
async def pool_stage(capacity: int, warm: int = 0) -> AsyncIterator[PoolStage]:
    """`warm` connections are opened ahead of the requests."""
    async with nothing_left(), anyio.create_task_group() as tasks:
        stage = PoolStage(current_runtime(tasks), tasks, capacity, warm)
        try:
            yield stage
        finally:
            await stage.pool.aclose()
            stage.close()
            await turns(TURNS)
            tasks.cancel_scope.cancel()

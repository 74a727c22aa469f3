"""The pool: httpcore's interface, first come first served, and whole after whatever its users do."""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import httpcore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qproxy.edge.pool import Pool
from qproxy.errors import UpstreamError
from tests.support.leaks import cancelled_after, cancelled_at_every_await, nothing_left, tcp_pair, turns
from tests.support.real_pool import pool_to
from tests.support.scripted_upstream import Connection, ScriptedUpstream, answer, scripted_upstream, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

CONTEXT = ssl.create_default_context()
SOON = 0.06
NEVER = 60.0
ABORTS = int(os.environ.get("QPROXY_TEST_ABORTS", "2000"))


@dataclass
class Upstream:
    """Answers every request, but those for `/hold` only after `release()`. `log`: connection and path of each."""

    log: list[tuple[int, str]] = field(default_factory=list)
    scripted: ScriptedUpstream | None = None
    _gate: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        assert self.scripted is not None
        return self.scripted.url

    @property
    def connections(self) -> list[Connection]:
        assert self.scripted is not None
        return self.scripted.connections

    @property
    def paths(self) -> list[str]:
        return [path for _, path in self.log]

    async def serve(self, connection: Connection) -> None:
        number = len(self.connections) - 1
        while True:
            head = await connection.read_until(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.log.append((number, path))
            if path.startswith("/hold"):
                await wait_for(self._gate)(connection)
            await connection.wire.send(answer(200, body=path.encode()))

    def release(self) -> None:
        self._gate.set()
        self._gate = anyio.Event()

    def kill(self, number: int, *, reset: bool = False) -> None:
        """Ends a connection from here: its own task sees the end and closes it."""
        sock = self.connections[number].wire._sock
        if sock.fileno() >= 0:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                sock.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            except OSError:
                pass  # the peer was faster

    async def seen(self, count: int) -> None:
        while len(self.log) < count:
            await turns(1)


@asynccontextmanager
async def answering() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    async with nothing_left(), scripted_upstream([upstream.serve]) as scripted:
        upstream.scripted = scripted
        yield upstream


async def get(pool: Pool, path: str = "/", *, wait_s: float = NEVER) -> str:
    """The body of a whole answer."""
    url = httpcore.URL(scheme="http", host=pool.origin.host, port=pool.origin.port, target=path)
    response = await pool.request("GET", url, extensions={"timeout": {"pool": wait_s}})
    assert response.status == 200
    return response.content.decode()


async def opened(pool: Pool, path: str = "/") -> httpcore.Response:
    """An answer whose connection is still taken."""
    url = httpcore.URL(scheme="http", host=pool.origin.host, port=pool.origin.port, target=path)
    return await pool.handle_async_request(httpcore.Request("GET", url))


async def is_whole(pool: Pool, capacity: int) -> None:
    """As many requests at once as there are connections, and then as many again, all of them answered."""
    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            for _ in range(2 * capacity):
                tasks.start_soon(get, pool)
    assert 0 < len(pool.connections) <= capacity
    assert all(connection.is_idle() for connection in pool.connections)
    assert set(pool.connections) == set(pool._idle)
    assert not pool._line


class TestHttpcoresInterface:
    async def test_request(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            response = await pool.request("POST", upstream.url + "/a?b", headers={"X-Y": "z"}, content=b"body")
            assert (response.status, response.content) == (200, b"/a?b")
            assert (b"content-length", b"4") in [(name.lower(), value) for name, value in response.headers]
            received = upstream.connections[0].received
            assert received.startswith(b"POST /a?b HTTP/1.1\r\n")
            assert b"\r\nX-Y: z\r\n" in received
            assert received.endswith(b"\r\nContent-Length: 4\r\n\r\nbody")

    async def test_stream(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            async with pool.stream("GET", upstream.url + "/a") as response:
                assert b"".join([part async for part in response.aiter_stream()]) == b"/a"
            assert await get(pool) == "/"
            assert len(upstream.connections) == 1

    async def test_a_context_manager_closes_it(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            async with pool:
                await get(pool)
            await upstream.connections[0].peer_left.wait()
            assert pool.connections == []

    async def test_what_connections_say_of_themselves(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            response = await opened(pool)
            (connection,) = pool.connections
            assert connection.can_handle_request(pool.origin)
            assert not connection.can_handle_request(httpcore.Origin(b"http", b"127.0.0.2", 80))
            assert (connection.is_idle(), connection.is_available(), connection.is_closed()) == (False, False, False)
            assert connection.info() == "HTTP/1.1, ACTIVE, Request Count: 1"
            await response.aread()
            await response.aclose()
            assert (connection.is_idle(), connection.is_available(), connection.has_expired()) == (True, True, False)
            assert "IDLE" in repr(connection)
            await connection.aclose()
            assert connection.is_closed()
            assert "CLOSED" in connection.info()
            assert "1 connection" in repr(pool) or repr(pool)

    async def test_a_unix_socket(self, tmp_path: Path) -> None:
        upstream = Upstream()
        async with scripted_upstream([upstream.serve], socket_path=str(tmp_path / "up.sock")) as scripted:
            upstream.scripted = scripted
            async with pool_to(scripted.url) as pool:
                assert await get(pool, "/a") == "/a"

    async def test_refused(self) -> None:
        ours, theirs = tcp_pair()
        port = ours.getsockname()[1]
        ours.close()
        theirs.close()
        async with pool_to(f"http://127.0.0.1:{port}", max_connections=1) as pool:
            for _ in range(3):
                with pytest.raises(httpcore.ConnectError):
                    await get(pool, wait_s=0)
            assert pool.connections == []


class TestAssignment:
    async def test_a_connection_is_used_again(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            for _ in range(5):
                await get(pool)
            assert [number for number, _ in upstream.log] == [0] * 5

    async def test_the_newest_idle_one_is_taken_first(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            responses = [await opened(pool, f"/{number}") for number in range(3)]
            for index in (1, 2, 0):
                await responses[index].aread()
                await responses[index].aclose()
            upstream.log.clear()
            again = [await opened(pool) for _ in range(3)]
            assert [number for number, _ in upstream.log] == [0, 2, 1]
            for response in again:
                await response.aclose()

    async def test_busy_connections_do_not_count_against_idle_ones(self) -> None:
        """httpcore 1.0.9 opens a new connection for each request here."""
        async with answering() as upstream, pool_to(upstream.url, max_connections=20) as pool:
            busy = [await opened(pool) for _ in range(10)]
            for _ in range(5):
                await get(pool)
            assert len(upstream.connections) == 11
            for response in busy:
                await response.aclose()

    async def test_never_more_than_its_capacity(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=3) as pool:
            async with anyio.create_task_group() as tasks:
                for number in range(30):
                    tasks.start_soon(get, pool, f"/{number}")
                while len(upstream.log) < 30:
                    assert len(pool.connections) <= 3
                    await turns(1)
            assert len(upstream.connections) == 3
            assert sorted(upstream.paths) == sorted(f"/{number}" for number in range(30))

    async def test_first_come_first_served(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            async with anyio.create_task_group() as tasks:
                for path in ("/hold", "/a", "/b", "/c", "/d"):
                    tasks.start_soon(get, pool, path)
                    await turns(10)
                await upstream.seen(1)
                upstream.release()
            assert upstream.paths == ["/hold", "/a", "/b", "/c", "/d"]

    async def test_whoever_waits_too_long_is_told(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(get, pool, "/hold")
                await upstream.seen(1)
                tasks.start_soon(get, pool, "/patient")
                with pytest.raises(httpcore.PoolTimeout):
                    await get(pool, "/hasty", wait_s=SOON)
                upstream.release()
            assert upstream.paths == ["/hold", "/patient"]
            await is_whole(pool, 1)

    async def test_a_request_that_fails_makes_room_for_the_next_in_line(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_ignoring_loss, pool)
                await upstream.seen(1)
                tasks.start_soon(get, pool, "/next")
                await turns(5)
                upstream.kill(0, reset=True)
            assert upstream.log == [(0, "/hold"), (1, "/next")]

    async def test_an_answer_that_nobody_reads_makes_room_as_well(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            response = await opened(pool)
            await response.aclose()
            await response.aclose()
            assert pool.connections == []
            assert await get(pool, "/next") == "/next"
            assert len(upstream.connections) == 2


async def _ignoring_loss(pool: Pool) -> None:
    with pytest.raises(httpcore.ReadError):
        await get(pool, "/hold")


class TestIdleConnections:
    async def test_they_expire_by_themselves(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, keepalive_s=SOON) as pool:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(get, pool)
            for connection in upstream.connections:
                await connection.peer_left.wait()
            assert pool.connections == []
            assert await get(pool) == "/"

    async def test_an_expired_one_is_not_taken_although_no_timer_rang(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, keepalive_s=NEVER) as pool:
            await get(pool)
            next(iter(pool._idle)).expires = 0.0
            await get(pool)
            assert [number for number, _ in upstream.log] == [0, 1]

    async def test_one_that_the_upstream_closes_is_forgotten(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            await get(pool)
            upstream.kill(0)
            while pool.connections:
                await turns(1)
            assert await get(pool) == "/"

    async def test_one_that_was_closed_behind_the_loops_back_costs_nobody_a_request(self) -> None:
        """Rule (b): found closed before the first byte was written."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with pool_to(f"http://127.0.0.1:{listener.getsockname()[1]}") as pool:
                received: list[bytes] = []
                async with anyio.create_task_group() as tasks:
                    for number in range(3):
                        tasks.start_soon(get, pool, f"/{number}")
                        await anyio.wait_readable(listener)
                        sock = listener.accept()[0]
                        await anyio.wait_readable(sock)
                        received.append(sock.recv(1000))
                        sock.send(answer(200))
                        await turns(10)
                        if number < 2:
                            sock.close()  # no turn of the loop until the next request
                sock.close()
        assert [request.split(b" ")[1] for request in received] == [b"/0", b"/1", b"/2"]

    async def test_a_whole_stack_of_dead_ones(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=5) as pool:
            responses = [await opened(pool) for _ in range(5)]
            for response in responses:
                await response.aread()
                await response.aclose()
            for number in range(5):
                upstream.kill(number)
            assert await get(pool, "/next") == "/next"
            assert upstream.paths.count("/next") == 1
            await is_whole(pool, 5)

    @pytest.mark.parametrize("unasked", [b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"x"])
    async def test_one_that_speaks_unasked_is_not_used(self, unasked: bytes) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            await get(pool)
            await upstream.connections[0].wire.send(unasked)
            assert await get(pool, "/next") == "/next"
            assert upstream.log == [(0, "/"), (1, "/next")]


class TestClosing:
    async def test_it_closes_idle_and_busy_connections(self) -> None:
        async with answering() as upstream, pool_to(upstream.url) as pool:
            busy = await opened(pool, "/a")
            await get(pool, "/b")
            await pool.aclose()
            for connection in upstream.connections:
                await connection.peer_left.wait()
            await busy.aclose()
            assert pool.connections == []

    async def test_nobody_waits_for_a_closed_pool(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            busy = await opened(pool)
            failures: list[str] = []

            async def wait() -> None:
                try:
                    await get(pool)
                except httpcore.ConnectError as exc:
                    failures.append(str(exc))

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(wait)
                await turns(5)
                await pool.aclose()
            assert failures == ["the pool is closed"] * 3
            await busy.aclose()


class TestCancellation:
    async def test_a_request_at_every_await(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:

            async def fresh() -> None:
                await get(pool, "/work")
                await pool.aclose()
                pool._is_closed = False

            assert await cancelled_at_every_await(fresh) > 3
            await is_whole(pool, 1)

    async def test_a_request_on_a_kept_connection_at_every_await(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            for count in range(200):
                await get(pool, "/before")
                if await cancelled_after(lambda: get(pool, "/work"), count):
                    break
            assert count > 2
            await is_whole(pool, 1)

    async def test_one_in_line_at_every_await(self) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            for count in range(200):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(get, pool, "/hold")
                    await turns(10)
                    tasks.start_soon(cancelled_after, lambda: get(pool, "/cancelled"), count)
                    tasks.start_soon(get, pool, "/behind")
                    await turns(count % 20)
                    upstream.release()
                    while "/behind" not in upstream.paths:
                        upstream.release()
                        await turns(1)
                upstream.log.clear()
                if count > 30:
                    break
            await is_whole(pool, 1)

    @pytest.mark.parametrize("granted_first", [False, True])
    async def test_a_connection_that_is_granted_to_one_who_has_just_gone(self, *, granted_first: bool) -> None:
        async with answering() as upstream, pool_to(upstream.url, max_connections=1) as pool:
            busy = await opened(pool)
            await busy.aread()
            scope = anyio.CancelScope()

            async def leave() -> None:
                with scope:
                    await get(pool, "/gone")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave)
                await turns(5)
                tasks.start_soon(get, pool, "/next")
                await turns(5)
                if granted_first:  # the waiter has not run since, and may get as far as its next await
                    await busy.aclose()
                    scope.cancel()
                else:
                    scope.cancel()
                    await busy.aclose()
            assert upstream.paths[-1] == "/next"
            if not granted_first:
                assert upstream.log == [(0, "/"), (0, "/next")]
            await is_whole(pool, 1)

    async def test_any_number_of_aborted_requests_leave_it_whole(self) -> None:
        """Clients that leave are cancellations. httpcore 1.0.9 is wedged after some hundred of them."""
        capacity, workers = 10, 40
        chance = random.Random(1)
        finished = 0
        async with answering() as upstream, pool_to(upstream.url, max_connections=capacity) as pool:

            async def abort(times: int) -> None:
                nonlocal finished
                for _ in range(times):
                    finished += await cancelled_after(lambda: get(pool), chance.randrange(30))

            async with anyio.create_task_group() as tasks:
                for _ in range(workers):
                    tasks.start_soon(abort, ABORTS // workers)
            assert len(pool.connections) <= capacity
            await is_whole(pool, capacity)
            assert 0 < finished < ABORTS


ASK, HOLD, FINISH, ABANDON, CANCEL, KILL, RELEASE, EXPIRE = range(8)
STEPS = st.lists(
    st.tuples(st.sampled_from([ASK, ASK, HOLD, FINISH, ABANDON, CANCEL, KILL, RELEASE, EXPIRE]), st.integers(0, 7)),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors])
@given(steps=STEPS, capacity=st.integers(1, 3))
async def test_any_history_leaves_it_whole(steps: list[tuple[int, int]], capacity: int) -> None:
    """Requests that run, wait, end, are abandoned or cancelled; connections that die or expire; in any order."""
    async with answering() as upstream, pool_to(upstream.url, max_connections=capacity) as pool:
        responses: list[httpcore.Response] = []
        scopes: list[anyio.CancelScope] = []

        async def ask(path: str, scope: anyio.CancelScope) -> None:
            with scope:
                try:
                    responses.append(await opened(pool, path))
                except httpcore.NetworkError:
                    pass

        async with anyio.create_task_group() as tasks:
            for kind, which in steps:
                if kind in (ASK, HOLD):
                    scopes.append(anyio.CancelScope())
                    tasks.start_soon(ask, "/hold" if kind == HOLD else "/", scopes[-1])
                elif kind in (FINISH, ABANDON) and responses:
                    response = responses.pop(which % len(responses))
                    if kind == FINISH:
                        try:
                            await response.aread()
                        except (httpcore.NetworkError, UpstreamError):
                            pass  # it was killed
                    await response.aclose()
                elif kind == CANCEL and scopes:
                    scopes.pop(which % len(scopes)).cancel()
                elif kind == KILL and upstream.connections:
                    upstream.kill(which % len(upstream.connections), reset=which > 3)
                elif kind == RELEASE:
                    upstream.release()
                elif kind == EXPIRE:
                    for connection in pool._idle:
                        connection.expires = 0.0
                    pool._expire()
                await turns(which)
                assert len(pool.connections) <= capacity
                assert set(pool._idle) <= set(pool.connections)
                assert not (pool._idle and pool._line)
            for scope in scopes:
                scope.cancel()
        for response in responses:
            await response.aclose()
        await is_whole(pool, capacity)

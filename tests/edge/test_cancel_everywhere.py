"""A whole exchange, cancelled at each of its await points in turn: nothing of it is left, whatever was waited for."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.errors import InternalError
from qproxy.simulator.wire import PeerLeft, Wire
from tests.support.account_stage import with_keys
from tests.support.backends import (
    DONE,
    FIRST,
    GOOD,
    LONG_BYTES,
    SECOND,
    Backend,
    backend,
    chat,
    error,
    fallback,
    settings_before,
)
from tests.support.held_upstream import places_taken
from tests.support.leaks import open_sockets, tcp_pair, turns
from tests.support.raw_client import Answer, End, RawClient, cut_at, raw_client
from tests.support.scripted_upstream import Connection, chunk, send, stream_head
from tests.support.suspensions import AtMoment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from qproxy.config import Settings
    from qproxy.edge.admission import Turn
    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

ONE, TWO = "sk-one", "sk-two"
PEER = "127.0.0.1"
FEWEST_MOMENTS, MOST_MOMENTS = 7, 600
PATIENCE_S = 10.0
HELD_TURNS = 20
"""Of the loop, until whoever has the only place leaves it: the request is in line by then."""

LIMITED = error(429, "limit_requests", (b"retry-after-ms", b"0"))  # so that the account is asked again the next time
EVENTS = [send(stream_head() + chunk(FIRST), chunk(SECOND), chunk(DONE), chunk(b""))]
BUSY = error(503)
SLOWLY_BUSY = [send(*cut_at(BUSY, [BUSY.index(b"{")]))]
DRAINING = InternalError("draining", "This server is shutting down.")


async def by_key(connection: Connection) -> None:
    """The first key has used up its allowance, the second one has not."""
    head = connection.received.rpartition(b"POST ")[2].partition(b"\r\n\r\n")[0]
    await connection.wire.send(LIMITED if ONE.encode() in head else GOOD)


@dataclass(frozen=True)
class Exchange:
    """A request, what the first upstream says to it, and what else it needs. `follows_another`: a whole exchange comes
    before each that is cancelled, so that its connection upstream is a kept one. `waits_in_line`: somebody else has the
    only place."""

    request: bytes
    reply: bytes | Sequence[Step] = GOOD
    toml: str = ""
    keys: tuple[str, ...] = (ONE,)
    attempts: int = 1
    follows_another: bool = False
    waits_in_line: bool = False


TO_SECOND = fallback("first:*", "second:*")
LONG = chat("m", padding_bytes=LONG_BYTES)
STREAM = chat("m", stream=True)
EXCHANGES = {
    "plain": Exchange(chat("m")),
    "plain, on a kept connection": Exchange(chat("m"), follows_another=True),
    "plain, in line": Exchange(chat("m"), waits_in_line=True),
    "stream": Exchange(STREAM, EVENTS),
    "long upload": Exchange(LONG),
    "long upload, on a kept connection": Exchange(LONG, follows_another=True),
    "from account to account": Exchange(chat("m"), [by_key], 'rotation = "fill_first"\n', (ONE, TWO), attempts=2),
    "from upstream to upstream": Exchange(STREAM, SLOWLY_BUSY, TO_SECOND, attempts=2),
    "from upstream to upstream, long": Exchange(LONG, BUSY, TO_SECOND, attempts=2),
}


def narrow(settings: Settings) -> Settings:
    """One place, and one connection: whatever is lost shows at once."""
    return replace(
        settings,
        limits=replace(settings.limits, max_exchanges=1),
        upstreams={
            name: replace(each, upstream=replace(each.upstream, max_exchanges=1, max_connections=1))
            for name, each in settings.upstreams.items()
        },
    )


@dataclass
class Stage:
    """A running proxy, and a connection to it at a time whose serving is cancelled."""

    proxy: app.Running
    exchange: Exchange
    pieces: Sequence[bytes]
    sockets: int
    answer: Answer | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def ask_whole(self) -> Answer:
        """An exchange that nobody cancels."""
        async with raw_client(self.proxy.url) as client:
            await client.send(*self.pieces)
            return await client.answer()

    async def ask(self, number: int, cancel: Callable[[Stage], None]) -> bool:
        """One exchange, cancelled at its `number`-th moment; False where it has not so many."""
        ours, theirs = tcp_pair()
        self.answer = None
        self.scope = anyio.CancelScope()
        serving = AtMoment(self.proxy.app.handle(ours, PEER), number, lambda: cancel(self))
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                if self.exchange.waits_in_line:
                    tasks.start_soon(self._hold_the_place, await self._take_the_place())
                tasks.start_soon(self._talk, Wire(theirs))
                with self.scope:
                    await serving
        return serving.has_acted

    async def _talk(self, wire: Wire) -> None:
        try:
            client = RawClient(wire)
            await client.send(*self.pieces)
            self.answer = await client.answer()
        except PeerLeft:
            pass
        finally:
            wire.close()

    async def _take_the_place(self) -> Turn:
        admission = self.proxy.app.services.admission
        assert admission is not None
        return await admission._entrance.enter(None, is_long=False)

    async def _hold_the_place(self, turn: Turn) -> None:
        await turns(HELD_TURNS)
        turn.give_back()

    def in_use(self) -> list[str]:
        """What belongs to an exchange that is under way."""
        running = self.proxy.app
        pools = running.upstreams._pools.values()
        counts = {
            "requests": running.activity.under_way,
            "client connections": len(running.drain._members),
            "leases": sum(view.in_flight for view in running.accounts.views()),
            "answers of accounts": sum(map(len, running.accounts._under_way.values())),
            "places": places_taken(self.proxy),
            "waiters for a connection": sum(len(pool._line) for pool in pools),
            "connections in use": sum(len(pool._open - pool._idle.keys()) for pool in pools),
            "closed connections that are kept": sum(each.is_closed() for pool in pools for each in pool._idle),
        }
        return [f"{name}: {count}" for name, count in counts.items() if count]

    async def until_sockets_are_as_before(self) -> None:
        """Only kept connections have some: one here, one at the upstream, which is in this process too."""
        pools = self.proxy.app.upstreams._pools.values()
        with anyio.fail_after(PATIENCE_S):
            while len(open_sockets()) != self.sockets + 2 * sum(len(pool._idle) for pool in pools):
                await anyio.sleep(0.001)


@asynccontextmanager
async def stage_for(exchange: Exchange, folder: Path) -> AsyncIterator[Stage]:
    async with backend(exchange.reply) as first, backend(EVENTS if b"true" in exchange.request else GOOD) as second:
        settings = _settings(exchange, folder, first, second)
        async with app.running(settings) as proxy:
            pieces = cut_at(exchange.request, range(0, len(exchange.request), 50_000))
            yield Stage(proxy, exchange, pieces, len(open_sockets()))


def _settings(exchange: Exchange, folder: Path, first: Backend, second: Backend) -> Settings:
    settings = settings_before(folder, exchange.toml, first=first.url, second=second.url)
    return narrow(with_keys(settings, *exchange.keys))


def from_outside(stage: Stage) -> None:
    """As whoever runs the server does."""
    stage.scope.cancel()


def by_the_client(stage: Stage) -> None:
    """As the end of its connection does, in whatever moment it is seen."""
    for member in stage.proxy.app.drain._members:
        member._scope.cancel()  # type: ignore[attr-defined]


def by_the_server(stage: Stage) -> None:
    """As the end of a drain does: the client is told."""
    for member in tuple(stage.proxy.app.drain._members):
        member.break_off(DRAINING)


@pytest.mark.parametrize("cancel", [from_outside, by_the_client, by_the_server])
@pytest.mark.parametrize("name", EXCHANGES)
async def test_nothing_is_left(
    tmp_path: Path, name: str, cancel: Callable[[Stage], None], caplog: pytest.LogCaptureFixture
) -> None:
    exchange = EXCHANGES[name]
    async with stage_for(exchange, tmp_path) as stage:
        number, is_cancelled = 0, True
        while is_cancelled:
            number += 1
            assert number < MOST_MOMENTS
            if exchange.follows_another:
                assert (await stage.ask_whole()).status == 200
                await stage.until_sockets_are_as_before()
            is_cancelled = await stage.ask(number, cancel)
            assert stage.in_use() == [], f"cancelled at moment {number}"
            await stage.until_sockets_are_as_before()
    assert number >= FEWEST_MOMENTS
    answer = stage.answer
    assert answer is not None
    assert (answer.status, answer.end) == (200, End.WHOLE)
    assert (answer.header(b"x-qproxy-attempts") or b"1") == b"%d" % exchange.attempts
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []

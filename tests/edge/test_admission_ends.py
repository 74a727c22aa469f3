"""Whatever becomes of an exchange, its place comes back, and comes back once."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from qproxy.core.line import Line
from qproxy.edge.admission import Entrance
from qproxy.edge.runtime import current_runtime
from tests.support.held_upstream import PATH, held_upstream, limited, request_for
from tests.support.leaks import cancelled_at_every_await
from tests.support.raw_client import End, post, raw_client, request_head
from tests.support.scripted_upstream import (
    chunk,
    close,
    event,
    expect_request,
    reset,
    scripted_upstream,
    send,
    stream_head,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from qproxy import app

pytestmark = pytest.mark.anyio


def narrow(url: str) -> AbstractAsyncContextManager[app.Running]:
    """A proxy with one place and no line: a place that is lost shows with the next request."""
    return limited(url, max_exchanges=1, queue_size=0)


async def test_of_an_upstream_that_resets() -> None:
    async with scripted_upstream([expect_request(), reset()]) as upstream, narrow(upstream.url) as proxy:
        async with raw_client(proxy.url) as client:
            for number in range(3):
                answer = await client.ask(request_for(f"a{number}"))
                assert (answer.status, answer.error_code) == (502, "upstream_closed")


async def test_of_a_stream_that_breaks_off() -> None:
    begun = send(stream_head() + chunk(event(b'{"choices":[{"delta":{"content":"a"}}]}')))
    async with scripted_upstream([expect_request(), begun, close()]) as upstream:
        async with narrow(upstream.url) as proxy:
            for _ in range(3):
                async with raw_client(proxy.url) as client:
                    answer = await client.ask(post("/v1/chat/completions", b'{"model":"a","stream":true}'))
                    assert (answer.status, answer.end) == (200, End.FIN)


async def test_of_a_request_that_is_refused_for_its_body() -> None:
    bad = request_head("POST", PATH, b"Content-Type: application/json", b"Content-Length: 3") + b"{]}"
    async with held_upstream() as upstream, narrow(upstream.url) as proxy:
        async with raw_client(proxy.url) as client:
            for _ in range(3):
                assert (await client.ask(bad)).status == 400


async def test_of_an_answer_that_is_an_error() -> None:
    async with held_upstream() as upstream, narrow(upstream.url) as proxy:
        async with raw_client(proxy.url) as client:
            for name in ("a1", "a2", "a3"):
                upstream.answer(name, status=400)
                assert (await client.ask(request_for(name))).status == 400


async def test_of_a_defect_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with held_upstream() as upstream, narrow(upstream.url) as proxy:
        upstream.answer("a")
        with monkeypatch.context() as patched:
            patched.setattr("qproxy.edge.proxy.deliver", None)
            async with raw_client(proxy.url) as client:
                assert (await client.ask(request_for("a"))).status == 500
        async with raw_client(proxy.url) as client:
            assert (await client.ask(request_for("a"))).status == 200


@asynccontextmanager
async def one_place(wait_s: float = 30.0) -> AsyncIterator[tuple[Entrance, Line]]:
    async with anyio.create_task_group() as tasks:
        line = Line(places=1, places_per_key=0, size=10)
        yield Entrance(line, wait_s, current_runtime(tasks)), line
        tasks.cancel_scope.cancel()


class TestCancelledAtEveryAwait:
    async def test_while_the_place_is_about_to_come(self) -> None:
        async with one_place() as (entrance, line):

            async def in_turn() -> None:
                turn = await entrance.enter(None, is_long=False)
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    turn.give_back()

            async def behind_another() -> None:
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(in_turn)

            assert await cancelled_at_every_await(behind_another) > 1
            assert line.waiting == 0
            (await entrance.enter(None, is_long=False)).give_back()

    async def test_while_the_deadline_passes(self) -> None:
        async with one_place(wait_s=0) as (entrance, line):
            first = await entrance.enter(None, is_long=False)

            async def too_late() -> None:
                with pytest.raises(Exception, match="Try again shortly"):
                    await entrance.enter(None, is_long=False)

            await cancelled_at_every_await(too_late)
            assert line.waiting == 0
            first.give_back()
            (await entrance.enter(None, is_long=False)).give_back()


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_place_that_comes_together_with_the_deadline_is_taken() -> None:
    """And not lost: the turn was given, so either the exchange has it or the next one."""
    async with one_place(wait_s=0.6) as (entrance, line):
        first = await entrance.enter(None, is_long=False)
        got: list[bool] = []

        async def wait() -> None:
            turn = await entrance.enter(None, is_long=False)
            got.append(True)
            turn.give_back()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while not line.waiting:
                await anyio.lowlevel.checkpoint()
            stand_still(0.7)  # the deadline passes while nobody has a turn of the loop
            first.give_back()
        assert got == [True]
        assert line.waiting == 0

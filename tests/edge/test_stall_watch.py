"""An event loop that stands still is noticed, and the log says where."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.core.local import LocalAnswer, LocalRequest, json_answer
from qproxy.core.route import LocalEndpoint, RouteTable
from qproxy.edge import stall_watch
from qproxy.edge.activity import Activity
from qproxy.edge.runtime import current_runtime
from qproxy.edge.stall_watch import SAID_AT_ONCE, Reports, StallWatch, is_machinery, places_of
from qproxy.endpoints import ENDPOINTS
from tests.support.live import settings_for
from tests.support.raw_client import raw_client, request_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

LIMIT_S = 0.05
STALL_S = 0.3
PATIENCE_S = 20.0
CANARY = "prompt-never-shown"


def block(seconds: float, text: str = CANARY) -> None:
    """What must not be done on a loop."""
    del text
    time.sleep(seconds)


async def block_on_the_loop(seconds: float = STALL_S) -> None:
    block(seconds)
    await anyio.sleep(0.1)


async def block_until_told(caplog: pytest.LogCaptureFixture) -> None:
    """On a busy machine the watch's thread may get its turn when a stall is over."""
    with anyio.fail_after(PATIENCE_S):
        while not of_block(caplog):
            await block_on_the_loop()


def of_block(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in lines(caplog) if " at block (" in line]


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@asynccontextmanager
async def watched(limit_s: float = LIMIT_S) -> AsyncIterator[Activity]:
    activity = Activity()
    async with anyio.create_task_group() as tasks:
        with StallWatch(current_runtime(tasks), limit_s, activity).running():
            yield activity
        tasks.cancel_scope.cancel()
    assert "qproxy-stall-watch" not in {thread.name for thread in threading.enumerate()}


async def test_the_log_says_where(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as activity:
        activity.begin()
        await block_until_told(caplog)
        activity.end()
    (line,) = of_block(caplog)
    assert line.startswith("the event loop stood still for about ")
    assert " ms at block (tests/edge/test_stall_watch.py:" in line
    assert "block_on_the_loop (tests/edge/test_stall_watch.py:" in line
    assert CANARY not in line


async def test_also_with_the_first_request_after_a_quiet_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall_watch, "IDLE_BEAT_S", 1000.0)
    async with watched() as activity:
        await anyio.sleep(0.4)  # the beats have become slow
        activity.begin()
        await block_until_told(caplog)


async def test_one_that_does_not_end_is_told_of(caplog: pytest.LogCaptureFixture) -> None:

    def told() -> list[str]:
        return [line for line in lines(caplog) if "test_one_that_does_not_end" in line]

    async with watched() as activity:
        activity.begin()
        gives_up_s = time.monotonic() + PATIENCE_S
        while not told() and time.monotonic() < gives_up_s:
            block(0.01)
        told_before_its_end = bool(told())
        await anyio.sleep(0.1)
    assert told_before_its_end
    assert len(told()) == 1


async def test_a_place_is_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as activity:
        activity.begin()
        await block_until_told(caplog)
        for _ in range(3):
            await block_on_the_loop(0.15)
    assert len(of_block(caplog)) == 1


async def test_a_loop_that_turns_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """The limit is a long one here, since the machine of a test may be busy."""
    async with watched(limit_s=5.0) as activity:
        activity.begin()
        for _ in range(50):
            await anyio.sleep(0.01)
    assert lines(caplog) == []


async def test_a_request_that_holds_the_loop_of_a_server(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(_: LocalRequest) -> LocalAnswer:
        block(STALL_S)
        return json_answer({})

    slow = LocalEndpoint("slow", b"/slow", (b"GET",), needs_key=False, answer=answer)
    async with app.running(settings_for("http://127.0.0.1:9/v1")) as proxy:
        proxy.app.services = replace(proxy.app.services, routes=RouteTable([*ENDPOINTS, slow]))
        with StallWatch(proxy.app.services.runtime, LIMIT_S, proxy.app.activity).running():
            async with raw_client(proxy.url) as client:
                with anyio.fail_after(PATIENCE_S):
                    while not any(" < answer (" in line for line in lines(caplog)):
                        assert (await client.ask(request_head("GET", "/slow"))).status == 200
                        await anyio.sleep(0.1)
    assert any(" < answer (" in line and "_serve_one (qproxy/edge/connection.py:" in line for line in lines(caplog))
    assert proxy.app.activity.under_way == 0


class TestReports:
    def test_places_beyond_the_first_few_are_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        reports = Reports()
        for number in range(SAID_AT_ONCE + 3):
            reports.tell(0.1, [f"place {number}"])
        assert len(lines(caplog)) == SAID_AT_ONCE
        reports._said_s.clear()  # a minute later
        reports.tell(0.1, ["another place"])
        assert (
            lines(caplog)[-1] == "the event loop stood still for about 100 ms at another place (3 more were not logged)"
        )

    def test_a_thread_that_has_ended_is_nowhere(self) -> None:
        ended = threading.Thread(target=int)
        ended.start()
        ended.join()
        assert ended.ident is not None
        assert places_of(ended.ident) == []

    def test_where_this_thread_is(self) -> None:
        places = places_of(threading.get_ident())
        assert places[1].startswith("test_where_this_thread_is (tests/edge/test_stall_watch.py:")
        assert not is_machinery(places)

    @pytest.mark.parametrize("place", ["select (lib/python3.11/selectors.py:468)", "run (asyncio/runners.py:118)"])
    def test_a_loop_that_waits(self, place: str) -> None:
        assert is_machinery([place, "main (x/y.py:1)"])

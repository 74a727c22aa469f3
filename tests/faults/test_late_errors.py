"""An error further on in a stream: it passes as it is, and its account is held to it all the same (faults.md U27)."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.core.classify import Cause
from qproxy.core.health import Standing
from tests.hostile.conftest import DONE, FIRST_EVENT
from tests.support.account_stage import with_keys
from tests.support.live import settings_for
from tests.support.raw_client import Answer, End, RawClient, post, raw_client
from tests.support.scripted_upstream import (
    chunk,
    close,
    event,
    expect_request,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qproxy.core.account import AccountView
    from tests.support.scripted_upstream import ScriptedUpstream, Step

pytestmark = pytest.mark.anyio

CHAT = post("/v1/chat/completions", b'{"model":"m","stream":true}')
RESPONSE = post("/v1/responses", b'{"model":"m","stream":true}')
LIMITED = b'{"error":{"code":"insufficient_quota","message":"You exceeded your current quota.","param":null}}'
FILTERED = b'{"error":{"code":"data_inspection_failed","message":"Output data may contain inappropriate content."}}'
FLAT = b'{"code":"Throttling.RateQuota","message":"Requests rate limit exceeded","request_id":"r"}'
FINISHED = b'{"choices":[{"finish_reason":"error_finish","delta":{"content":"Requests rate limit exceeded"}}]}'
USAGE = event(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}')

ERRORS: dict[str, tuple[bytes, Cause]] = {
    "an error": (event(LIMITED), Cause.QUOTA),
    "said twice": (event(LIMITED) * 2, Cause.QUOTA),
    "and an end": (event(LIMITED) + DONE, Cause.QUOTA),
    "with CR LF": (b"data: " + LIMITED + b"\r\n\r\n", Cause.QUOTA),
    "flat, and called an error": (b"event: error\ndata: " + FLAT + b"\n\n", Cause.RATE),
    "flat": (event(FLAT), Cause.RATE),
    "in the place of content": (event(FINISHED) + USAGE + DONE, Cause.RATE),
}
HARMLESS: dict[str, bytes] = {
    "a text about errors": event(rb'{"choices":[{"delta":{"content":"{\"error\":{\"code\":429}}"}}]}') + DONE,
    "an error that is none": event(b'{"choices":[{"delta":{},"finish_reason":"stop"}],"error":null,"code":""}'),
    "code": event(b'{"choices":[{"delta":{"content":"raise error"},"finish_reason":"stop"}]}') + USAGE + DONE,
}


@dataclass
class Stage:
    """A proxy with two keys, the first one used until it is out, and what its log says."""

    proxy: app.Running
    client: RawClient
    upstream: ScriptedUpstream
    log: Path
    goes_on: anyio.Event

    async def stream(self, request: bytes = CHAT) -> Answer:
        """An answer whose first event has gone down before anything else of it came."""
        await self.client.send(request)
        got = await self.client.begin()
        await self.client.until(got, FIRST_EVENT)
        self.goes_on.set()
        while got.end is End.OPEN:
            await self.client.more(got)
        return got

    async def settled(self) -> dict[str, AccountView]:
        """The accounts, when every lease is back."""
        with anyio.fail_after(10):
            while any(view.in_flight for view in self.proxy.app.accounts.views()):
                await anyio.sleep(0.005)
        return {view.account_id: view for view in self.proxy.app.accounts.views()}

    async def line(self) -> str:
        """The last access line, when the thread of the log has written one for every request."""
        self.proxy.app.access_log.flush()
        with anyio.fail_after(10):
            while len(lines := self._lines()) < len(self.upstream.connections):
                await anyio.sleep(0.005)
        return lines[-1]

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@asynccontextmanager
async def stage(folder: Path, *behind: Step) -> AsyncIterator[Stage]:
    """The first request's answer goes on as `behind` says, and the others are good."""
    goes_on = anyio.Event()
    log = folder / "access.log"
    bad = [expect_request(), send(stream_head() + chunk(FIRST_EVENT)), wait_for(goes_on), *behind, close()]
    good = [expect_request(), send(stream_head() + chunk(FIRST_EVENT) + chunk(DONE) + chunk(b"")), close()]
    async with scripted_upstream(bad, good) as upstream:
        settings = with_keys(settings_for(f"{upstream.url}/v1", rotation="fill_first"), "sk-one", "sk-two")
        async with app.running(replace(settings, access_log=str(log))) as proxy, raw_client(proxy.url) as client:
            yield Stage(proxy, client, upstream, log, goes_on)


@pytest.mark.parametrize("case", ERRORS)
async def test_it_passes_and_counts(tmp_path: Path, case: str) -> None:
    wire, cause = ERRORS[case]
    async with stage(tmp_path, send(chunk(wire) + chunk(b""))) as here:
        got = await here.stream()
        assert (got.status, bytes(got.body), got.end) == (200, FIRST_EVENT + wire, End.WHOLE)
        views = await here.settled()
        assert [each.cause for each in views["key-1"].cooling] == [cause]
        assert not views["key-2"].cooling
        assert " status=200 " in await here.line()
        assert (await here.line()).endswith(" error=error_in_stream phase=relaying")
        assert bytes((await here.client.ask(CHAT)).body) == FIRST_EVENT + DONE
        assert b"sk-two" in here.upstream.connections[1].received
        await here.settled()
        assert "error=" not in await here.line()


async def test_also_where_the_stream_breaks_off_behind_it(tmp_path: Path) -> None:
    async with stage(tmp_path, send(chunk(event(LIMITED)))) as here:
        got = await here.stream()
        assert (got.body.startswith(FIRST_EVENT + event(LIMITED)), got.end) == (True, End.FIN)
        assert [each.cause for each in (await here.settled())["key-1"].cooling] == [Cause.QUOTA]
        assert "error=upstream_closed phase=relaying" in await here.line()


async def test_what_every_account_would_have_said_is_held_against_none(tmp_path: Path) -> None:
    wire = event(FILTERED)
    async with stage(tmp_path, send(chunk(wire) + chunk(b""))) as here:
        assert bytes((await here.stream()).body) == FIRST_EVENT + wire
        views = await here.settled()
        assert {(view.standing, view.cooling) for view in views.values()} == {(Standing.READY, ())}
        assert "error=error_in_stream" in await here.line()


@pytest.mark.parametrize("case", HARMLESS)
async def test_what_only_looks_like_one_is_none(tmp_path: Path, case: str) -> None:
    wire = HARMLESS[case]
    async with stage(tmp_path, send(chunk(wire) + chunk(b""))) as here:
        got = await here.stream()
        assert (bytes(got.body), got.end) == (FIRST_EVENT + wire, End.WHOLE)
        views = await here.settled()
        assert {(view.standing, view.cooling) for view in views.values()} == {(Standing.READY, ())}
        assert "error=" not in await here.line()


async def test_a_stream_of_another_kind_has_errors_of_its_own(tmp_path: Path) -> None:
    """Nothing is read into what is merely passed on."""
    wire = b'event: error\ndata: {"type":"error","code":"insufficient_quota","message":"quota"}\n\n'
    async with stage(tmp_path, send(chunk(wire) + chunk(b""))) as here:
        assert (await here.stream(RESPONSE)).end is End.WHOLE
        assert not (await here.settled())["key-1"].cooling


async def test_the_tokens_of_a_stream_that_ends_so_are_counted(tmp_path: Path) -> None:
    async with stage(tmp_path, send(chunk(event(FINISHED) + USAGE + DONE) + chunk(b""))) as here:
        await here.stream()
        await here.settled()
        assert " tokens=3+4 " in await here.line()

"""A server that leaves (`faults.md` R13, P01, P02): what becomes of each connection and of each request."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy.edge import connection
from tests.support.drain_stage import (
    ASK,
    ASK_STREAM,
    CHAT,
    FIRST,
    LAST,
    LONG_S,
    begin_stream,
    drain_stage,
    refuses,
    whole,
)
from tests.support.leaks import turns
from tests.support.raw_client import Answer, End, RawClient, connect, post, raw_client, request_head
from tests.support.scripted_upstream import answer, chunk, expect_request, head, reached, send, stream_head, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

SHORT_S = 0.05
DELAY_S = 1.0
READY = request_head("GET", "/readyz")
LIVE = request_head("GET", "/livez")
JSON = (b"content-type", b"application/json")


@pytest.fixture
def long_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a request waits for one as long as the test needs to send it."""
    monkeypatch.setattr(connection, "LAST_CALL_S", LONG_S)


async def until_logged(log: Path, words: str, times: int = 1) -> None:
    """The log is written by a thread, for which nobody waits long."""
    with anyio.fail_after(10):
        while (found := said(log).count(words)) < times:
            await anyio.sleep(0.005)
    assert found == times


def said(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def assert_is_last(got: Answer) -> None:
    assert got.header(b"connection") == b"close"
    assert got.end is End.WHOLE


def assert_draining(got: Answer) -> None:
    """503 in full (`faults.md` section 3)."""
    assert (got.status, got.error_code) == (503, "draining")
    assert got.header(b"x-should-retry") == b"true"
    assert got.header(b"retry-after") == b"1"
    assert_is_last(got)


class TestItSaysSo:
    @pytest.mark.usefixtures("long_last_call")
    async def test_readiness_is_503_at_once(self) -> None:
        async with drain_stage() as stage, raw_client(stage.url) as client:
            assert (await client.ask(READY)).status == 200
            stage.drain()
            await stage.until_leaving()
            assert_draining(await client.ask(READY))
            assert await client.closed() == b""

    async def test_during_the_delay_new_connections_are_served_once_each(self) -> None:
        async with drain_stage(drain_delay_s=60.0) as stage:
            stage.go_on.set()
            stage.drain()
            await stage.until_leaving()
            for request, status in ((READY, 503), (ASK_STREAM, 200), (LIVE, 200)):
                async with raw_client(stage.url) as client:
                    got = await client.ask(request)
                    assert got.status == status
                    assert_is_last(got)

    async def test_after_the_delay_they_are_refused(self) -> None:
        async with drain_stage(drain_delay_s=DELAY_S) as stage:
            stage.drain()
            await stage.until_leaving()
            assert not await refuses(stage.url)
            await stage.until_closed()
            await stage.is_drained.wait()

    async def test_health_says_it_and_liveness_is_not_concerned(self) -> None:
        async with drain_stage(drain_delay_s=60.0) as stage:
            stage.drain()
            await stage.until_leaving()
            async with raw_client(stage.url) as client:
                got = await client.ask(request_head("GET", "/health"))
                assert (got.status, orjson.loads(bytes(got.body))["status"]) == (200, "draining")
            async with raw_client(stage.url) as client:
                assert (await client.ask(LIVE)).status == 200


class TestConnectionsWithoutARequest:
    async def test_idle_ones_are_closed(self) -> None:
        async with drain_stage() as stage, raw_client(stage.url) as used, raw_client(stage.url) as fresh:
            assert (await used.ask(LIVE)).status == 200
            stage.drain()
            assert await used.closed() == b""
            assert await fresh.closed() == b""
            await stage.is_drained.wait()

    @pytest.mark.usefixtures("long_last_call")
    async def test_a_request_that_comes_just_then_is_told_to_come_again(self) -> None:
        async with drain_stage() as stage, raw_client(stage.url) as client:
            assert (await client.ask(LIVE)).status == 200
            stage.drain()
            await stage.until_closed()
            assert_draining(await client.ask(ASK))
            assert await client.closed() == b""

    @pytest.mark.usefixtures("long_last_call")
    async def test_so_is_one_whose_connection_nobody_had_accepted(self) -> None:
        async with drain_stage() as stage:
            wire = connect(stage.url)
            stage.drain()
            await stage.until_closed()
            client = RawClient(wire)
            assert_draining(await client.ask(ASK))
            wire.close()

    @pytest.mark.usefixtures("long_last_call")
    async def test_a_slow_head_has_its_time(self) -> None:
        async with drain_stage() as stage, raw_client(stage.url) as client:
            await client.send(LIVE[:10])
            stage.drain()
            await stage.until_closed()
            got = await client.ask(LIVE[10:])
            assert got.status == 200
            assert_is_last(got)


class TestRequestsUnderWay:
    async def test_a_stream_ends_as_it_would_have(self) -> None:
        async with drain_stage() as stage, raw_client(stage.url) as client:
            got = await begin_stream(client)
            stage.drain()
            await stage.until_closed()
            stage.go_on.set()
            assert await whole(client, got) is got
            assert (got.end, bytes(got.body)) == (End.WHOLE, FIRST + LAST)
            assert await client.closed() == b""
            await stage.is_drained.wait()

    @pytest.mark.usefixtures("long_last_call")
    async def test_its_client_may_not_go_on(self) -> None:
        """The head had not said that the connection ends."""
        async with drain_stage() as stage, raw_client(stage.url) as client:
            got = await begin_stream(client)
            stage.drain()
            await stage.until_closed()
            stage.go_on.set()
            await whole(client, got)
            assert_draining(await client.ask(ASK_STREAM))
            assert await client.closed() == b""

    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    async def test_an_answer_that_has_not_begun_says_that_it_is_the_last(self, version: bytes) -> None:
        asked, go_on = anyio.Event(), anyio.Event()
        body = b'{"choices":[]}'
        script = [expect_request(), reached(asked), wait_for(go_on), send(answer(200, [JSON], body))]
        async with drain_stage(*script) as stage, raw_client(stage.url) as client:
            lines = [b"Connection: keep-alive"] if version == b"1.0" else []
            await client.send(post(CHAT, b'{"model":"m"}', *lines, version=version))
            await asked.wait()
            stage.drain()
            await stage.until_closed()
            go_on.set()
            got = await client.answer()
            assert (got.status, bytes(got.body)) == (200, body)
            assert_is_last(got)
            assert await client.closed() == b""

    async def test_an_upload_goes_on(self) -> None:
        go_on = anyio.Event()
        go_on.set()
        async with drain_stage(go_on=go_on) as stage, raw_client(stage.url) as client:
            await client.send(ASK_STREAM[:-5])
            await turns()
            stage.drain()
            await stage.until_closed()
            got = await client.ask(ASK_STREAM[-5:])
            assert (got.status, bytes(got.body)) == (200, FIRST + LAST)
            assert_is_last(got)

    async def test_the_second_of_two_pipelined_ones_is_not_lost_silently(self) -> None:
        async with drain_stage() as stage, raw_client(stage.url) as client:
            got = await begin_stream(client, ASK_STREAM + ASK)
            stage.drain()
            await stage.until_closed()
            stage.go_on.set()
            assert (await whole(client, got)).end is End.WHOLE
            assert_draining(await client.answer())


def in_band_code(got: Answer, sent: bytes) -> object:
    """The code of the event behind what the upstream sent; None where there is none."""
    assert got.body.startswith(sent)
    rest = bytes(got.body[len(sent) :])
    return orjson.loads(rest.removeprefix(b"data: "))["error"]["code"] if rest else None


@asynccontextmanager
async def out_of_time(script: list[Step], *, hurry: bool) -> AsyncIterator[tuple[RawClient, anyio.Event]]:
    """A client of a server that leaves as soon as the event is set, and waits for nothing."""
    go = anyio.Event()

    async def leave() -> None:
        await go.wait()
        if hurry:
            stage.proxy.hurry()
        await stage.proxy.drain()

    async with drain_stage(*script, drain_s=LONG_S if hurry else 0.0) as stage, raw_client(stage.url) as client:
        stage.tasks.start_soon(leave)
        yield client, go


@pytest.mark.parametrize("hurry", [False, True], ids=["the time is over", "a second signal"])
class TestWhatIsLeft:
    @pytest.mark.parametrize(
        ("sent", "code"),
        [(FIRST, "draining"), (FIRST + b'data: {"cho', None)],
        ids=["between events", "inside an event"],
    )
    async def test_a_stream_is_broken_off(self, sent: bytes, code: str | None, hurry: bool) -> None:
        script = [expect_request(), send(stream_head() + chunk(sent)), wait_for(anyio.Event())]
        async with out_of_time(script, hurry=hurry) as (client, go):
            await client.send(ASK_STREAM)
            got = await client.begin()
            await client.until(got, sent)
            go.set()
            await whole(client, got)
            assert got.end is End.FIN
            assert in_band_code(got, sent) == code

    async def test_one_that_ends_with_its_connection_is_reset(self, hurry: bool) -> None:
        """`faults.md` 1.3: FIN would say that it is complete."""
        script = [expect_request(), send(stream_head() + chunk(FIRST)), wait_for(anyio.Event())]
        async with out_of_time(script, hurry=hurry) as (client, go):
            await client.send(post(CHAT, b'{"model":"m","stream":true}', version=b"1.0"))
            got = await client.begin()
            await client.until(got, FIRST)
            go.set()
            await whole(client, got)
            assert got.end is End.RESET
            assert in_band_code(got, FIRST) == "draining"

    async def test_a_plain_body_stays_short(self, hurry: bool) -> None:
        begun = head(200, [JSON, (b"content-length", b"100")]) + b'{"id":'
        script = [expect_request(), send(begun), wait_for(anyio.Event())]
        async with out_of_time(script, hurry=hurry) as (client, go):
            await client.send(ASK)
            got = await client.begin()
            await client.until(got, b'{"id":')
            go.set()
            await whole(client, got)
            assert (got.end, bytes(got.body)) == (End.FIN, b'{"id":')

    async def test_a_request_without_an_answer_is_told(self, hurry: bool) -> None:
        asked = anyio.Event()
        async with out_of_time([expect_request(), reached(asked), wait_for(anyio.Event())], hurry=hurry) as (
            client,
            go,
        ):
            await client.send(ASK)
            await asked.wait()
            go.set()
            assert_draining(await client.answer())

    async def test_so_is_one_that_is_still_coming_in(self, hurry: bool) -> None:
        async with out_of_time([wait_for(anyio.Event())], hurry=hurry) as (client, go):
            await client.send(ASK[:-5])
            await turns()
            go.set()
            assert_draining(await client.answer())


async def test_a_stream_of_comments_alone_ends_with_an_error() -> None:
    """It was begun by us, before the upstream had answered."""
    script = [expect_request(), wait_for(anyio.Event())]
    async with drain_stage(*script, drain_s=0.0, keepalive_after_s=SHORT_S) as stage, raw_client(stage.url) as client:
        await client.send(ASK_STREAM)
        got = await client.begin()
        await client.until(got, b": keep-alive\n\n")
        stage.drain()
        await whole(client, got)
        assert got.end is End.FIN
        assert b'"code":"draining"' in got.body.rpartition(b": keep-alive\n\n")[2]


async def test_a_client_that_does_not_read_does_not_hold_the_server() -> None:
    flood = [expect_request(), send(stream_head()), send(*[chunk(FIRST * 1000)] * 200), wait_for(anyio.Event())]
    async with drain_stage(*flood, drain_s=SHORT_S) as stage:
        async with raw_client(stage.url, receive_buffer_bytes=4096) as client:
            await client.send(ASK_STREAM)
            await client.begin()
            stage.drain()
            await stage.is_drained.wait()


async def test_every_request_has_its_line_in_the_log(tmp_path: Path) -> None:
    """Also those that were cut when the block was left without a word."""
    log = tmp_path / "access.log"
    async with drain_stage(access_log=str(log)) as stage, AsyncExitStack() as clients:
        for _ in range(3):
            await begin_stream(await clients.enter_async_context(raw_client(stage.url)))
    await until_logged(log, " error=client_closed phase=relaying", 3)


async def test_those_that_were_broken_off_have_their_reason_in_it(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with drain_stage(access_log=str(log), drain_s=0.0) as stage, raw_client(stage.url) as client:
        await begin_stream(client)
        await stage.proxy.drain()
    await until_logged(log, " error=draining phase=relaying")


async def test_two_hundred_streams() -> None:
    """P01, in one process."""
    async with drain_stage() as stage, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_client(stage.url)) for _ in range(200)]
        begun = [await begin_stream(client) for client in clients]
        stage.drain()
        await stage.until_closed()
        stage.go_on.set()
        for client, got in zip(clients, begun, strict=True):
            await whole(client, got)
            assert (got.end, bytes(got.body)) == (End.WHOLE, FIRST + LAST)
            client.wire.close()
        await stage.is_drained.wait()

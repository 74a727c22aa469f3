"""Nothing waits in the proxy: events go down one by one, a client that leaves or stops reading is felt upstream."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from qproxy import app
from qproxy.core.limits import MIB
from qproxy.simulator import Options, running
from tests.support.live import settings_for
from tests.support.raw_client import End, post, raw_client, request_head
from tests.support.scripted_upstream import (
    Connection,
    chunk,
    close,
    event,
    expect_head,
    expect_request,
    head,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
    wait_without_reading,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio
CHAT = post("/v1/chat/completions", b'{"model":"m","stream":true}')
DONE = event(b"[DONE]")
LAST_CHUNK = chunk(b"")
OFFERED_BYTES = 64 * MIB
KERNEL_BYTES = 16 * MIB
"""More than the socket buffers of both hops hold, far less than what is offered."""
STREAM_BYTES = MIB
"""What one stream may cost the process while its peer takes nothing."""
PATIENCE = 25


def in_lockstep(parts: list[bytes], seen: list[anyio.Event]) -> list[Step]:
    """Sends each part only after the one before it was seen."""
    steps = [expect_request()]
    for part, event_seen in zip(parts, seen, strict=True):
        steps += [send(part), wait_for(event_seen)]
    return steps


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("framing", ["chunks", "close", "length"])
async def test_an_event_goes_down_before_the_next_one_is_there(framing: str, version: bytes) -> None:
    events = [event(b'{"n":%d,"text":"\xe9\x80\x9a"}' % number) for number in range(6)] + [DONE]
    fields = {
        "chunks": (b"transfer-encoding", b"chunked"),
        "length": (b"content-length", b"%d" % len(b"".join(events))),
    }
    begun = head(200, [(b"content-type", b"text/event-stream"), fields.get(framing, (b"x-framing", b"none"))])
    parts = [chunk(each) if framing == "chunks" else each for each in events]
    seen = [anyio.Event() for _ in events]
    script = in_lockstep([begun + parts[0], *parts[1:]], seen)
    script += [send(LAST_CHUNK if framing == "chunks" else b""), close()]
    async with (
        scripted_upstream(script) as upstream,
        app.running(settings_for(upstream.url)) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(post("/v1/chat/completions", b'{"model":"m","stream":true}', version=version))
        got = await client.begin()
        for number, each in enumerate(events):
            await client.until(got, each)
            assert bytes(got.body) == b"".join(events[: number + 1])
            seen[number].set()
        while got.end is End.OPEN:
            await client.more(got)
        assert got.end is End.WHOLE


async def test_a_part_of_an_event_goes_down_before_its_rest_is_there() -> None:
    """A size is never announced for payload that may not come; a character may be cut in the middle."""
    whole = event("通义🙂".encode()) + DONE
    first, second, third = whole[:7], whole[7:13], whole[13:]
    seen = [anyio.Event() for _ in range(3)]
    parts = [stream_head() + b"%x\r\n" % len(whole) + first, second, third + b"\r\n0\r\n\r\n"]
    async with (
        scripted_upstream(in_lockstep(parts, seen)) as upstream,
        app.running(settings_for(upstream.url)) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(CHAT)
        got = await client.begin()
        for part, part_seen in zip([first, first + second, whole], seen, strict=True):
            await client.until(got, part)
            assert bytes(got.body) == part
            part_seen.set()
        while got.end is End.OPEN:
            await client.more(got)
        assert (got.sizes, got.end) == ([len(first), len(second), len(third), 0], End.WHOLE)


@pytest.mark.parametrize("scenario", ["slow-head", "stall"])
@pytest.mark.parametrize("farewell", ["fin", "reset"])
async def test_a_client_that_leaves_takes_its_upstream_request_along(scenario: str, farewell: str) -> None:
    async with running(Options()) as simulator, app.running(settings_for(simulator.base_url)) as proxy:
        body = b'{"model":"sim-%b","stream":true,"messages":[{"role":"user","content":"hi"}]}' % scenario.encode()
        async with raw_client(proxy.url) as client:
            await client.send(post("/v1/chat/completions", body))
            await simulator.held()
            assert simulator.counters.aborted == 0
            if farewell == "reset":
                client.wire.reset()
            else:
                client.wire.half_close()
                assert LAST_CHUNK not in await client.closed()
        await simulator.aborted()
        await simulator.disconnected()
        assert (simulator.counters.aborted, simulator.counters.completed) == (1, 0)


async def test_a_client_that_leaves_during_its_upload_leaves_no_request_upstream() -> None:
    begun = request_head("POST", "/v1/files", b"Content-Length: 1000")
    async with running(Options()) as simulator, app.running(settings_for(simulator.base_url)) as proxy:
        async with raw_client(proxy.url) as client:
            await client.send(begun + b"x" * 999)
            await simulator.until(lambda counters: counters.heads == 1)
        await simulator.until(lambda counters: counters.aborted_uploads == 1)
        await simulator.disconnected()
        assert simulator.counters.requests == 0


async def test_many_clients_that_leave_cost_the_pool_nothing() -> None:
    async with running(Options()) as simulator, app.running(settings_for(simulator.base_url)) as proxy:
        body = b'{"model":"sim-stall","stream":true,"messages":[{"role":"user","content":"hi"}]}'
        for number in range(1, 31):
            async with raw_client(proxy.url) as client:
                await client.send(post("/v1/chat/completions", body))
                await simulator.received(number)
        await simulator.aborted(30)
        await simulator.disconnected()
        async with raw_client(proxy.url) as client:
            for _ in range(3):
                assert (await client.ask(post("/v1/embeddings", b'{"model":"m","input":"x"}'))).status == 200
        assert simulator.counters.connections == 31


class Offer:
    """A body that is sent, or sent up, for as long as somebody takes it."""

    def __init__(self) -> None:
        self.taken_bytes = 0
        self._piece = chunk(event(b"x" * 16_000))

    async def give(self, send_piece: Callable[[bytes], Awaitable[None]]) -> None:
        while self.taken_bytes < OFFERED_BYTES:
            await send_piece(self._piece)
            self.taken_bytes += len(self._piece)

    async def step(self, connection: Connection) -> None:
        """A step of a script."""
        await self.give(connection.wire.send)

    async def settled(self, url: str) -> int:
        """Returns what was taken once it no longer grows while the proxy answers other requests."""
        quiet = 0
        async with raw_client(url) as other:
            while quiet < PATIENCE:
                before = self.taken_bytes
                assert (await other.ask(request_head("GET", "/livez"))).status == 200
                await anyio.lowlevel.checkpoint()
                quiet = quiet + 1 if self.taken_bytes == before > 0 else 0
        return self.taken_bytes


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """How much more memory the process has than at the beginning."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


async def test_a_client_that_stops_reading_is_felt_by_the_upstream(traced: Callable[[], int]) -> None:
    offer = Offer()
    script = [expect_request(), send(stream_head()), offer.step, send(chunk(DONE) + LAST_CHUNK)]
    async with scripted_upstream(script) as upstream, app.running(settings_for(upstream.url)) as proxy:
        async with raw_client(proxy.url, receive_buffer_bytes=4096) as client:
            before = traced()
            await client.send(CHAT)
            taken = await offer.settled(proxy.url)
            assert taken < KERNEL_BYTES
            assert traced() - before < STREAM_BYTES
            got = await client.begin()
            while len(got.body) < taken:
                await client.more(got)
            assert offer.taken_bytes > taken
        await (await upstream.connected()).peer_left.wait()
        assert offer.taken_bytes < OFFERED_BYTES


async def test_an_upstream_that_stops_reading_is_felt_by_the_client(traced: Callable[[], int]) -> None:
    offer, never = Offer(), anyio.Event()
    script = [expect_head(), wait_without_reading(never)]
    async with (
        scripted_upstream(script, receive_buffer_bytes=4096) as upstream,
        app.running(settings_for(upstream.url)) as proxy,
        raw_client(proxy.url) as client,
        anyio.create_task_group() as tasks,
    ):
        before = traced()
        await client.send(request_head("POST", "/v1/files", b"Transfer-Encoding: chunked"))
        tasks.start_soon(offer.give, client.wire.send)
        assert await offer.settled(proxy.url) < KERNEL_BYTES
        assert traced() - before < STREAM_BYTES
        tasks.cancel_scope.cancel()

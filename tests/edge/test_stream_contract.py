"""One contract for the byte stream on every loop: the same bytes, the same errors, the same back-pressure."""

from __future__ import annotations

import math
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import httpcore
import pytest

from qproxy.core.framing import (
    LAST_CHUNK,
    ChunkingWalker,
    ChunkReader,
    ChunkRelay,
    CloseWalker,
    FramingError,
    LengthWalker,
    Walker,
)
from qproxy.core.replay import ReplayBuffer
from qproxy.edge import outbox
from qproxy.edge.pump import Pump
from qproxy.edge.runtime import Runtime, current_runtime
from qproxy.edge.streams import UNREAD_BYTES, Stream, StreamLost, StreamTimeout, open_stream
from qproxy.errors import DownstreamError, UpstreamError
from qproxy.simulator.wire import PeerLeft, Wire
from tests.support.leaks import cancelled_after, cancelled_at_every_await, nothing_left, tcp_pair, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

pytestmark = pytest.mark.anyio

READ_BYTES = 256 * 1024  # what every loop reads at once
SMALL = 16 * 1024  # of the kernel's buffers
OFFER = 24 * 1024 * 1024
HELD = 3 * 1024 * 1024
"""What may be on its way while nobody reads: the buffers of two sockets and of a stream; far below the offer."""
SOON = 0.06
NEVER = 60.0


@pytest.fixture(params=["at once", "gathered"], autouse=True)
def sending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short writes leave at once, or at the end of the loop's turn: nobody else may notice."""
    if request.param == "gathered":
        monkeypatch.setattr(outbox, "TRIED_EVERY", 1)
        monkeypatch.setattr(outbox, "CROWD", 1)


class Pairs:
    """Makes streams whose other end is a bare socket."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._ends: list[Stream | Wire] = []

    async def make(self, *, buffer_bytes: int = 0) -> tuple[Stream, Wire]:
        ours, theirs = tcp_pair(send_buffer_bytes=buffer_bytes, receive_buffer_bytes=buffer_bytes)
        stream, wire = await open_stream(self.runtime, ours), Wire(theirs)
        self._ends += [stream, wire]
        return stream, wire

    def close(self) -> None:
        for end in self._ends:
            end.abort() if isinstance(end, Stream) else end.close()


@asynccontextmanager
async def pairs() -> AsyncIterator[Pairs]:
    async with nothing_left(), anyio.create_task_group() as tasks:
        made = Pairs(current_runtime(tasks))
        try:
            yield made
        finally:
            made.close()
            await turns()
            tasks.cancel_scope.cancel()


async def received(wire: Wire, size: int) -> bytes:
    """Exactly so many bytes from the other end."""
    while len(wire.buffer) < size:
        await wire.receive_more()
    taken = bytes(wire.buffer[:size])
    del wire.buffer[:size]
    return taken


async def last_words(wire: Wire) -> bytes:
    """Everything up to a FIN. Raises OSError at a RST."""
    try:
        while True:
            await wire.receive_more()
    except PeerLeft as left:
        if isinstance(left.__cause__, OSError):
            raise left.__cause__ from None
    return bytes(wire.buffer)


async def filled_up_to(stream: Stream, size: int) -> None:
    while len(stream.buffer) < size:
        assert await stream.fill()


async def while_it(
    work: Callable[[], Coroutine[object, object, object]], other: Callable[[], Awaitable[object]]
) -> None:
    """Runs both until both are over."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await other()


async def offer(wire: Wire, has_enough: Callable[[], bool], size: int = OFFER) -> int:
    """Sends for as long as the other side, once it has enough, takes anything; the bytes that it took. Before that the
    kernel may pause for longer than our patience."""
    sent = seen = 0

    async def send() -> None:
        nonlocal sent
        while sent < size:
            await anyio.wait_writable(wire._sock)
            try:
                sent += wire._sock.send(bytes(min(65536, size - sent)))
            except BlockingIOError:
                continue

    with anyio.fail_after(NEVER / 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            while sent > seen or not has_enough():
                seen = sent
                await anyio.sleep(0.3)
            tasks.cancel_scope.cancel()
    return sent


class TestReading:
    async def test_bytes_come_in_their_order(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            await wire.send(b"hello world")
            await filled_up_to(stream, 11)
            assert (stream.take(5), stream.take(0), stream.take(1), stream.buffer) == (b"hello", b"", b" ", b"world")
            await wire.send(b"!")
            assert await stream.fill()
            assert (stream.take_all(), stream.take_all(), stream.take(3)) == (b"world!", b"", b"")

    async def test_the_end_comes_behind_the_bytes(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            ends = []
            stream.on_end = lambda: ends.append(stream.buffer)
            await wire.send(b"last")
            wire.half_close()
            while await stream.fill():
                pass
            assert (stream.buffer, stream.ended, stream.lost, stream.torn) == (b"last", True, False, False)
            assert not await stream.fill()
            assert ends == [b"last"]

    async def test_after_the_peers_end_we_may_still_speak(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            wire.half_close()
            assert not await stream.fill()
            stream.put(b"answer")
            await stream.drain()
            stream.end_writing()
            assert await last_words(wire) == b"answer"

    async def test_a_reset_ends_both_directions(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            ends = []
            stream.on_end = lambda: ends.append(stream.lost)
            await wire.send(b"x")
            await filled_up_to(stream, 1)
            wire.reset()
            assert not await stream.fill()
            assert (stream.buffer, stream.ended, stream.lost, stream.torn) == (b"x", True, True, True)
            assert ends[-1]
            stream.put(b"nobody hears this")
            with pytest.raises(StreamLost):
                await stream.drain()
            stream.end_writing()
            stream.close()
            stream.abort()

    async def test_back_pressure_where_nobody_reads(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            assert await offer(wire, lambda: len(stream.buffer) > UNREAD_BYTES) < HELD
            assert UNREAD_BYTES < len(stream.buffer) <= UNREAD_BYTES + READ_BYTES

    async def test_whoever_waits_for_more_gets_more(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            size = 4 * (UNREAD_BYTES + READ_BYTES)
            await while_it(lambda: wire.send(bytes(size)), lambda: filled_up_to(stream, size))
            assert stream.take_all() == bytes(size)

    async def test_what_is_taken_makes_room(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            data = bytes(byte % 251 for byte in range(2 * READ_BYTES)) * 2
            got = b""

            async def read() -> None:
                nonlocal got
                while len(got) < len(data):
                    if not stream.buffer:
                        await stream.fill()
                    got += stream.take(10_000)

            await while_it(lambda: wire.send(data), read)
            assert got == data


class TestWriting:
    async def test_bytes_leave_in_their_order(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.put(b"a")
            stream.put(memoryview(b"xbc")[1:])
            stream.put(b"")
            stream.put(b"d")
            assert await received(wire, 4) == b"abcd"

    async def test_drain_waits_for_a_slow_peer(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            data = bytes(byte % 251 for byte in range(OFFER // 8))
            stream.put(data)
            assert stream.congested
            assert stream.unsent_bytes > 0
            await while_it(stream.drain, lambda: _receive_into(wire, len(data)))
            assert not stream.congested
            assert await received(wire, len(data)) == data

    async def test_flush_waits_for_the_last_byte(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            size = 200_000
            stream.put(bytes(size))
            assert not stream.congested
            assert stream.unsent_bytes > 0
            await while_it(stream.flush, lambda: _receive_into(wire, size))
            assert stream.unsent_bytes == 0

    async def test_flush_of_nothing_is_over_at_once(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            await stream.flush()
            stream.put(b"x")
            await stream.flush()
            assert await received(wire, 1) == b"x"

    async def test_close_sends_what_was_queued(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            data = bytes(OFFER // 8)
            stream.put(data)
            stream.close()
            stream.put(b"too late")
            stream.close()
            assert stream.closing
            assert await last_words(wire) == data

    async def test_abort_does_not(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            data = bytes(OFFER // 8)
            stream.put(data)
            stream.abort()
            stream.abort()
            stream.put(b"too late")
            with pytest.raises(StreamLost):
                await stream.drain()
            assert (stream.ended, stream.lost, stream.torn) == (True, True, True)
            try:
                assert len(await last_words(wire)) < len(data)
            except ConnectionResetError:
                pass

    async def test_half_close(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            data = bytes(OFFER // 8)
            stream.put(data)
            stream.end_writing()
            stream.end_writing()
            stream.put(b"too late")
            assert await last_words(wire) == data
            await wire.send(b"heard")
            await filled_up_to(stream, 5)
            assert not stream.lost

    async def test_a_peer_that_leaves_while_we_wait_for_it(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            stream.put(bytes(OFFER // 8))

            async def leave() -> None:
                await turns(5)
                wire.reset()

            with pytest.raises(StreamLost):
                await _bare(while_it, leave, stream.drain)
            assert not stream.congested


async def _receive_into(wire: Wire, size: int) -> None:
    while len(wire.buffer) < size:
        await wire.receive_more()


async def _bare(
    run: Callable[[Callable[[], Coroutine[object, object, object]], Callable[[], Awaitable[object]]], Awaitable[None]],
    work: Callable[[], Coroutine[object, object, object]],
    other: Callable[[], Awaitable[object]],
) -> None:
    """What the block of a group raises, without the group."""
    try:
        await run(work, other)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


class TestClocks:
    async def test_a_silent_peer(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.set_clock(SOON)
            with pytest.raises(StreamTimeout):
                await stream.fill()
            await wire.send(b"late")
            assert await stream.fill()
            assert stream.take_all() == b"late"

    async def test_a_phase_that_lasts_too_long_although_bytes_come(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.set_clock(math.inf, 5 * SOON)

            async def drip() -> None:
                try:
                    while True:
                        await wire.send(b"x")
                        await anyio.sleep(SOON / 4)
                except PeerLeft:
                    pass

            async def read() -> None:
                try:
                    with pytest.raises(StreamTimeout):
                        while True:
                            await stream.fill()
                finally:
                    stream.abort()

            await while_it(drip, read)

    async def test_what_comes_fast_enough_may_last(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.set_clock(math.inf, 10 * SOON, slowest_bytes_per_s=1000)  # the bytes must come before that
            await wire.send(bytes(60_000))
            await filled_up_to(stream, 60_000)
            with anyio.move_on_after(15 * SOON) as patience:
                await stream.fill()
            assert patience.cancelled_caught

    async def test_a_drip_may_not(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.set_clock(math.inf, SOON, slowest_bytes_per_s=1000)
            await wire.send(b"x")
            with pytest.raises(StreamTimeout):
                while await stream.fill():
                    pass

    @pytest.mark.parametrize("set_again", [False, True])
    async def test_a_clock_that_was_stopped_does_not_ring(self, *, set_again: bool) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.set_clock(SOON)
            stream.stop_clock()
            if set_again:
                stream.set_clock(NEVER)
            await anyio.sleep(3 * SOON)
            await wire.send(b"x")
            assert await stream.fill()

    async def test_a_clock_that_rang_while_nobody_waited_rings_for_the_next_one(self) -> None:
        async with pairs() as made:
            stream, _ = await made.make()
            stream.set_clock(SOON)
            await anyio.sleep(3 * SOON)
            with pytest.raises(StreamTimeout):
                await stream.fill()

    async def test_a_new_phase_has_a_new_clock(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.set_clock(SOON)
            await anyio.sleep(3 * SOON)
            stream.set_clock(NEVER)
            await wire.send(b"x")
            assert await stream.fill()

    async def test_a_shorter_clock_behind_a_longer_one(self) -> None:
        async with pairs() as made:
            stream, _ = await made.make()
            stream.set_clock(NEVER)
            stream.set_clock(SOON)
            with pytest.raises(StreamTimeout):
                await stream.fill()

    async def test_no_timer_is_left_on_a_lost_connection(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            stream.set_clock(NEVER)
            wire.reset()
            assert not await stream.fill()
            assert stream._timer is None
            stream.set_clock(NEVER)
            assert stream._timer is None

    async def test_a_peer_that_takes_nothing_is_given_up(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            stream.limit_stalls(SOON)
            stream.put(bytes(OFFER // 8))
            with pytest.raises(StreamLost):
                await stream.drain()
            assert stream.stalled
            assert stream.torn
            with pytest.raises(PeerLeft) as left:
                while True:
                    await wire.receive_more()
            assert isinstance(left.value.__cause__, OSError), "RST: the kernel keeps nothing for it"

    async def test_close_does_not_wait_for_it_for_ever_either(self) -> None:
        async with pairs() as made:
            stream, _ = await made.make(buffer_bytes=SMALL)
            stream.limit_stalls(SOON)
            stream.put(bytes(200_000))
            assert not stream.congested
            stream.close()
            while not stream.lost:
                await anyio.sleep(SOON / 4)
            assert stream.stalled

    async def test_a_peer_that_takes_is_not_given_up_because_as_much_waits_again(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            stream.limit_stalls(NEVER)
            size = 1_000_000
            stream.put(bytes(size))
            await while_it(stream.drain, lambda: _receive_into(wire, size))
            stream.put(bytes(2 * size))
            stream._check_stall()  # what the timer calls
            assert not stream.stalled
            stream._check_stall()
            assert stream.stalled


class TestLinger:
    async def test_the_last_words_arrive_and_the_rest_is_discarded(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            await wire.send(b"unread" * 1000)
            await turns(5)
            stream.put(b"goodbye")

            async def peer() -> None:
                assert await last_words(wire) == b"goodbye"
                await wire.send(b"more that nobody reads" * 1000)
                wire.close()

            await while_it(peer, lambda: stream.linger(NEVER, OFFER))
            assert stream.closing

    async def test_not_for_ever(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            await stream.linger(SOON, OFFER)
            assert stream.closing
            assert await last_words(wire) == b""

    async def test_not_for_whatever_is_sent(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()

            async def flood() -> None:
                with pytest.raises(PeerLeft):
                    await wire.send(bytes(OFFER))

            await while_it(flood, lambda: stream.linger(NEVER, 1_000_000))
            assert stream.closing

    async def test_a_peer_that_has_gone_already(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            wire.reset()
            await stream.fill()
            await stream.linger(NEVER, OFFER)


def walkers() -> dict[str, tuple[Walker, bytes, bytes, bytes]]:
    """By name: the walker, what comes, what leaves, what stays behind."""
    events = [b"data: %d\n\n" % number for number in range(40)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    bare = b"".join(events)
    return {
        "length": (LengthWalker(len(bare)), bare, bare, b""),
        "length, bytes behind": (LengthWalker(len(bare)), bare + b"GET / HTTP/1.1", bare, b"GET / HTTP/1.1"),
        "empty": (LengthWalker(0), b"", b"", b""),
        "relay": (ChunkRelay(), chunks + LAST_CHUNK, chunks, b""),
        "relay, bytes behind": (ChunkRelay(), chunks + LAST_CHUNK + b"0\r\n\r\n", chunks, b"0\r\n\r\n"),
        "relay, trailers": (ChunkRelay(), chunks + b"0;x\r\nA: b\r\n\r\n", chunks, b""),
        "reader": (ChunkReader(), chunks + LAST_CHUNK + b"rest", bare, b"rest"),
        "close": (CloseWalker(), bare, bare, b""),
        "chunking": (ChunkingWalker(), bare, b"", b""),
    }


def payload_of(chunks: bytes) -> bytes:
    return ChunkReader().walk(chunks + LAST_CHUNK)


class TestPump:
    @pytest.mark.parametrize("name", walkers())
    @pytest.mark.parametrize("size", [1, 7, 1 << 20])
    async def test_every_walker(self, name: str, size: int) -> None:
        walker, comes, leaves, stays = walkers()[name]
        ends_with_connection = isinstance(walker, CloseWalker)
        tapped: list[bytes] = []
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            pump = Pump(source, sink, walker, tap=tapped.append, ending=lambda: b"<end>")

            async def send() -> None:
                for at in range(0, len(comes), size):
                    await client.send(comes[at : at + size])
                    await turns(1)
                if ends_with_connection:
                    client.half_close()

            async def move() -> None:
                source.start_pump(pump)
                if name == "empty":
                    pump.feed(b"")
                await source.pumped(pump)

            await while_it(send, move)
            sink.end_writing()
            out = await last_words(server)
            assert out == b"".join(tapped) + b"<end>"
            if isinstance(walker, ChunkingWalker):
                assert payload_of(b"".join(tapped)) == comes
            elif isinstance(walker, ChunkRelay):
                assert payload_of(b"".join(tapped)) == payload_of(leaves)
            else:
                assert b"".join(tapped) == leaves
            assert pump.moved_bytes == len(b"".join(tapped))
            await filled_up_to(source, len(stays))
            assert source.take_all() == stays

    async def test_what_lies_in_the_buffer_goes_first(self) -> None:
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            await client.send(b"headbo")
            await filled_up_to(source, 6)
            source.take(4)
            pump = Pump(source, sink, LengthWalker(4))
            source.start_pump(pump)
            await client.send(b"dyrest")
            await source.pumped(pump)
            assert await received(server, 4) == b"body"
            await filled_up_to(source, 4)
            assert source.take_all() == b"rest"

    @pytest.mark.parametrize("comes", [b"whole", b"wholerest"])
    async def test_a_body_that_has_come_whole_before_it_is_asked_for(self, comes: bytes) -> None:
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            await client.send(comes)
            client.half_close()
            while await source.fill():
                pass
            pump = Pump(source, sink, LengthWalker(5), ending=lambda: b".")
            source.start_pump(pump)
            await source.pumped(pump)
            assert await received(server, 6) == b"whole."
            assert source.take_all() == comes[5:]

    async def test_a_close_delimited_body_that_has_ended_before(self) -> None:
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            await client.send(b"all")
            client.half_close()
            while await source.fill():
                pass
            pump = Pump(source, sink, CloseWalker(), ending=lambda: b".")
            source.start_pump(pump)
            await source.pumped(pump)
            assert await received(server, 4) == b"all."

    @pytest.mark.parametrize(
        ("make", "comes", "leave", "error"),
        [
            (lambda: LengthWalker(5), b"abc", "half_close", FramingError),
            (lambda: LengthWalker(5), b"abc", "reset", StreamLost),
            (ChunkRelay, b"3\r\nabc\r\n", "half_close", FramingError),
            (ChunkRelay, b"3\r\nabc\r\n", "reset", StreamLost),
            (CloseWalker, b"abc", "reset", StreamLost),
            (ChunkingWalker, b"abc", "reset", StreamLost),
        ],
    )
    async def test_a_source_that_breaks_off(
        self, make: Callable[[], Walker], comes: bytes, leave: str, error: type[Exception]
    ) -> None:
        ends: list[Exception | None] = []
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            pump = Pump(source, sink, make(), ending=lambda: b"never", notify=lambda: ends.append(pump.error))
            source.start_pump(pump)
            await client.send(comes)
            await _receive_into(server, 3)
            getattr(client, leave)()
            with pytest.raises(error) as caught:
                await source.pumped(pump)
            sink.end_writing()
            assert b"never" not in await last_words(server)
            assert ends == [caught.value]

    async def test_an_abort_of_ours_is_no_clean_end(self) -> None:
        async with pairs() as made:
            (source, _), (sink, _) = await made.make(), await made.make()
            pump = Pump(source, sink, CloseWalker())
            source.start_pump(pump)
            source.abort()
            with pytest.raises(StreamLost):
                await source.pumped(pump)

    async def test_broken_framing_lets_out_what_was_good(self) -> None:
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            pump = Pump(source, sink, ChunkReader(), ending=lambda: b"never")
            source.start_pump(pump)
            await client.send(b"3\r\nabc\r\n")
            assert await received(server, 3) == b"abc"
            await client.send(b"zz\r\n")
            with pytest.raises(FramingError):
                await source.pumped(pump)
            await client.send(b"stays here")
            await filled_up_to(source, 10)

    async def test_a_silent_source(self) -> None:
        async with pairs() as made:
            (source, client), (sink, _) = await made.make(), await made.make()
            pump = Pump(source, sink, LengthWalker(5))
            source.set_clock(SOON)
            source.start_pump(pump)
            await client.send(b"abc")
            with pytest.raises(StreamTimeout):
                await source.pumped(pump)

    async def test_an_end_that_is_refused(self) -> None:
        def refuse() -> bytes:
            raise UpstreamError("stream_truncated", "no")

        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            pump = Pump(source, sink, LengthWalker(3), ending=refuse)
            source.start_pump(pump)
            await client.send(b"abcd")
            with pytest.raises(UpstreamError):
                await source.pumped(pump)
            assert await received(server, 3) == b"abc"
            assert source.take_all() == b"d"

    async def test_a_sink_that_refuses(self) -> None:
        async with pairs() as made:
            source, client = await made.make()
            pump = Pump(source, ReplayBuffer(3), LengthWalker(10))
            source.start_pump(pump)
            await client.send(b"abcd")
            with pytest.raises(DownstreamError):
                await source.pumped(pump)

    async def test_a_sink_that_has_gone_takes_everything(self) -> None:
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            server.reset()
            await sink.fill()
            pump = Pump(source, sink, LengthWalker(OFFER // 8))
            source.start_pump(pump)
            await while_it(lambda: client.send(bytes(OFFER // 8)), lambda: source.pumped(pump))

    @pytest.mark.parametrize("kind", [LengthWalker, ChunkRelay], ids=["length", "chunks"])
    async def test_a_slow_sink_pauses_the_source(self, kind: type[Walker]) -> None:
        """R5: a peer that reads nothing costs what the buffers hold; then everything passes, nothing twice."""
        body = bytes(byte % 251 for byte in range(251 * 400)) * 100
        wire = body if kind is LengthWalker else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        walker = LengthWalker(len(body)) if kind is LengthWalker else ChunkRelay()
        async with pairs() as made:
            source, client = await made.make(buffer_bytes=SMALL)
            sink, server = await made.make(buffer_bytes=SMALL)
            pump = Pump(source, sink, walker)
            source.start_pump(pump)

            async def move() -> None:
                await source.pumped(pump)
                sink.end_writing()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.send, wire)
                while not sink.congested:
                    await anyio.sleep(SOON / 4)
                source.set_clock(SOON)  # the silence of a source that is held back is not its own
                await anyio.sleep(4 * SOON)
                assert pump.moved_bytes < HELD
                assert sink.unsent_bytes < 3 * READ_BYTES
                assert sink.congested
                assert not pump.done
                source.set_clock(math.inf)
                tasks.start_soon(move)
                got = await last_words(server)
            assert (payload_of(got) if kind is ChunkRelay else got) == body

    async def test_both_directions_at_once(self) -> None:
        up, down = bytes(range(256)) * 8000, bytes(range(255, -1, -1)) * 8000
        async with pairs() as made:
            left, client = await made.make(buffer_bytes=SMALL)
            right, server = await made.make(buffer_bytes=SMALL)
            pumps = [Pump(left, right, LengthWalker(len(up))), Pump(right, left, LengthWalker(len(down)))]
            left.start_pump(pumps[0])
            right.start_pump(pumps[1])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.send, up)
                tasks.start_soon(server.send, down)
                tasks.start_soon(left.pumped, pumps[0])
                tasks.start_soon(right.pumped, pumps[1])
                tasks.start_soon(_receive_into, client, len(down))
                tasks.start_soon(_receive_into, server, len(up))
            assert bytes(server.buffer) == up
            assert bytes(client.buffer) == down

    async def test_one_body_after_the_other(self) -> None:
        async with pairs() as made:
            (source, client), (sink, server) = await made.make(), await made.make()
            await client.send(b"aabbb3\r\nccc\r\n0\r\n\r\nrest")
            for walker in (LengthWalker(2), LengthWalker(3), ChunkReader()):
                pump = Pump(source, sink, walker)
                source.start_pump(pump)
                await source.pumped(pump)
            assert await received(server, 8) == b"aabbbccc"
            assert source.take_all() == b"rest"

    async def test_a_pump_that_is_over_is_forgotten(self) -> None:
        """Its clock must ring for whoever waits next."""
        async with pairs() as made:
            (source, client), (sink, _) = await made.make(), await made.make()
            pump = Pump(source, sink, LengthWalker(1))
            source.start_pump(pump)
            await client.send(b"x")
            while not pump.done:
                await turns(1)
            source.stop_pump(pump)
            source.set_clock(SOON)
            with pytest.raises(StreamTimeout):
                await source.fill()


class TestCancellation:
    async def test_bytes_of_a_cancelled_wait_are_not_lost(self) -> None:
        data = bytes(range(256)) * 4
        async with pairs() as made:
            stream, wire = await made.make()
            for at, byte in enumerate(data):
                await wire.send(bytes([byte]))
                await cancelled_after(stream.fill, at % 7)
            await filled_up_to(stream, len(data))
            assert stream.take_all() == data

    async def test_bytes_of_a_cancelled_pump_are_moved_or_here(self) -> None:
        data = bytes(range(256)) * 1000
        for count in range(12):
            async with pairs() as made:
                (source, client), (sink, server) = await made.make(), await made.make()
                pump = Pump(source, sink, LengthWalker(len(data)))

                async def move(source: Stream = source, pump: Pump = pump) -> None:
                    source.start_pump(pump)
                    await source.pumped(pump)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.send, data)
                    await cancelled_after(move, count)
                    await filled_up_to(source, len(data) - pump.moved_bytes)
                sink.end_writing()
                moved = await last_words(server)
                assert len(moved) == pump.moved_bytes
                assert moved + source.take_all() == data

    async def test_a_cancelled_drain_and_flush_can_be_repeated(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            size = 2_000_000
            stream.put(bytes(size))
            for count in range(5):
                assert not await cancelled_after(stream.drain, count)
                assert not await cancelled_after(stream.flush, count)
            await while_it(stream.flush, lambda: _receive_into(wire, size))

    async def test_a_stream_that_is_cancelled_while_it_opens_leaves_no_socket(self) -> None:
        async with nothing_left(), anyio.create_task_group() as tasks:
            runtime = current_runtime(tasks)

            async def open_and_abort() -> None:
                ours, theirs = tcp_pair()
                theirs.close()
                (await open_stream(runtime, ours)).abort()

            assert await cancelled_at_every_await(open_and_abort) > 0
            await turns()
            tasks.cancel_scope.cancel()

    async def test_a_cancelled_linger_can_be_followed_by_an_abort(self) -> None:
        async with pairs() as made:
            stream, _ = await made.make()
            await cancelled_after(lambda: stream.linger(NEVER, OFFER), 3)
            stream.abort()


class TestStale:
    async def test_a_quiet_connection_is_fresh(self) -> None:
        async with pairs() as made:
            stream, _ = await made.make()
            assert not stream.is_stale()
            assert stream.get_extra_info("is_readable") is False

    @pytest.mark.parametrize("how", ["bytes", "half_close", "reset"])
    @pytest.mark.parametrize("loop_has_seen_it", [False, True])
    async def test_what_makes_it_stale(self, how: str, *, loop_has_seen_it: bool) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            if how == "bytes":
                wire._sock.send(b"unasked")
            else:
                getattr(wire, how)()
            if loop_has_seen_it:
                while not (stream.buffer or stream.ended):
                    await turns(1)
            assert stream.is_stale()

    async def test_one_that_we_closed(self) -> None:
        async with pairs() as made:
            stream, _ = await made.make()
            stream.close()
            assert stream.is_stale()


class TestHttpcoresFace:
    async def test_read(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            await wire.send(b"hello")
            assert await stream.read(2, timeout=NEVER) == b"he"
            assert await stream.read(100) == b"llo"
            with pytest.raises(httpcore.ReadTimeout):
                await stream.read(100, timeout=SOON)
            wire.half_close()
            assert await stream.read(100) == b""

    async def test_read_of_a_connection_that_broke(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            wire.reset()
            with pytest.raises(httpcore.ReadError):
                await stream.read(100, timeout=NEVER)

    async def test_write(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)
            await stream.write(b"hello", timeout=NEVER)
            assert await received(wire, 5) == b"hello"
            with pytest.raises(httpcore.WriteTimeout):
                await stream.write(bytes(OFFER // 8), timeout=SOON)
            wire.reset()
            with pytest.raises(httpcore.WriteError):
                await stream.write(bytes(OFFER // 8), timeout=NEVER)

    async def test_a_cancelled_call_leaves_no_clock_behind(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make(buffer_bytes=SMALL)

            async def read() -> None:
                with suppress(httpcore.TimeoutException):  # the turns may take longer than that
                    await stream.read(1, timeout=SOON)

            async def write() -> None:
                with suppress(httpcore.TimeoutException):
                    await stream.write(bytes(OFFER // 8), timeout=SOON)

            await cancelled_after(read, 3)
            await cancelled_after(write, 3)
            await anyio.sleep(3 * SOON)
            await wire.send(b"x")
            assert await stream.receive() == b"x"

    async def test_extra_info(self) -> None:
        async with pairs() as made:
            stream, _ = await made.make()
            assert isinstance(stream.get_extra_info("socket"), socket.socket)
            assert stream.get_extra_info("ssl_object") is None
            assert stream.get_extra_info("something else") is None
            await stream.aclose()


class TestAnyiosFace:
    async def test_an_echo(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            await stream.send(b"question")
            await wire.send(await received(wire, 8))
            assert await stream.receive(4) == b"ques"
            assert await stream.receive() == b"tion"
            await stream.send_eof()
            assert await last_words(wire) == b""
            wire.close()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.aclose()

    async def test_a_peer_that_breaks_off(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            wire.reset()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(b"x")

    async def test_iteration_ends_with_the_stream(self) -> None:
        async with pairs() as made:
            stream, wire = await made.make()
            await wire.send(b"abc")
            wire.half_close()
            assert b"".join([part async for part in stream]) == b"abc"

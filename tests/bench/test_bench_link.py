"""The long line: its model by a clock of the test's own, and the relay itself."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

from bench.bodies import chat_body
from bench.context_client import BadAnswer, ContextClient
from bench.link import FIRST_WINDOW_BYTES, LARGEST_WINDOW_BYTES, Line, Link, Shape, Way
from bench.machine import available_cores
from bench.tools import CHAT_PATH

if TYPE_CHECKING:
    import asyncio

    from tests.bench.bench_field import Field

RTT_S = 0.2
BYTES_PER_S = 50e6 / 8
PROMPT = bytes(index % 251 for index in range(600 * 1024))


class Clock:
    """A loop that knows time alone, and lets none of it pass for nothing."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._calls: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., object], *args: object) -> None:
        heapq.heappush(self._calls, (when, next(self._order), call, args))

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._calls:
            self.now, _, call, args = heapq.heappop(self._calls)
            call(*args)


class Far:
    """What has arrived at the other end, and when."""

    def __init__(self, clock: Clock) -> None:
        self.arrivals: list[tuple[float, bytes]] = []
        self.is_closed = False
        self._clock = clock

    def write(self, data: bytes) -> None:
        self.arrivals.append((self._clock.now, data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.arrivals)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def line() -> Line:
    return Line(BYTES_PER_S, RTT_S / 2)


def way_of(clock: Clock, line: Line) -> tuple[Way, Far]:
    """A connection that begins to open now."""
    way, far = Way(line, cast("asyncio.AbstractEventLoop", clock)), Far(clock)
    clock.call_at(clock.now + RTT_S, way.open)
    way.sink = cast("asyncio.Transport", far)
    return way, far


class TestModel:
    def test_nothing_is_sent_before_it_is_open(self, clock: Clock, line: Line) -> None:
        way, far = way_of(clock, line)
        way.put(b"a")
        clock.run()
        assert far.arrivals[0][0] == pytest.approx(RTT_S + RTT_S / 2, abs=1e-3)

    def test_a_new_connection_needs_six_flights_for_600_kb(self, clock: Clock, line: Line) -> None:
        """10, 20, 40, 80 and 160 segments, and what is left of 421."""
        way, far = way_of(clock, line)
        way.put(PROMPT)
        clock.run()
        assert far.data == PROMPT
        assert far.arrivals[-1][0] == pytest.approx(RTT_S + 5 * RTT_S + RTT_S / 2, abs=0.1)

    def test_the_first_flight_is_ten_segments(self, clock: Clock, line: Line) -> None:
        way, far = way_of(clock, line)
        way.put(PROMPT)
        clock.run()
        first = [data for at, data in far.arrivals if at < 2 * RTT_S]
        assert sum(map(len, first)) == FIRST_WINDOW_BYTES

    def test_a_kept_one_needs_the_time_of_the_line_alone(self, clock: Clock, line: Line) -> None:
        way, far = way_of(clock, line)
        way.put(PROMPT)
        clock.run()
        begun = clock.now
        way.put(PROMPT)
        clock.run()
        assert far.data == PROMPT + PROMPT
        assert far.arrivals[-1][0] - begun == pytest.approx(len(PROMPT) / BYTES_PER_S + RTT_S / 2, abs=1e-3)

    def test_the_window_has_an_end(self, clock: Clock, line: Line) -> None:
        way, far = way_of(clock, line)
        for _ in range(20):
            way.put(PROMPT)
            clock.run()
        assert way.window_bytes == LARGEST_WINDOW_BYTES
        assert far.data == 20 * PROMPT

    def test_connections_share_the_line(self, clock: Clock, line: Line) -> None:
        ways = [way_of(clock, line) for _ in range(2)]
        for _ in range(2):  # the second time all of it fits into the windows
            begun = clock.now
            for way, _ in ways:
                way.put(PROMPT)
            clock.run()
        last = max(far.arrivals[-1][0] for _, far in ways)
        assert last - begun == pytest.approx(2 * len(PROMPT) / BYTES_PER_S + RTT_S / 2, abs=1e-3)

    def test_the_end_comes_behind_the_bytes(self, clock: Clock, line: Line) -> None:
        way, far = way_of(clock, line)
        way.put(PROMPT)
        way.end()
        clock.run()
        assert far.data == PROMPT
        assert far.is_closed


class TestRelay:
    @pytest.fixture
    def link(self, field: Field) -> Link:
        shape = Shape(rtt_s=0.005, bytes_per_s=1e8)
        return Link(field.folder / "link", available_cores(), ("127.0.0.1", field.mock.port), shape)

    def test_requests_and_answers_come_through_whole(self, field: Field, link: Link) -> None:
        field.mock.profile(chunks=4)
        client = ContextClient("127.0.0.1", link.port, CHAT_PATH, ())
        try:
            for size_bytes in (1024, len(PROMPT)):
                streamed = client.ask(chat_body(size_bytes, stream=True))
                assert len(streamed.delays_ms) == 4
                assert 0 < streamed.first_ms <= streamed.whole_ms
                assert client.ask(chat_body(size_bytes)).whole_ms > 0
            assert field.mock.stats().requests == 4
        finally:
            client.close()
            link.stop()

    def test_all_connections_can_be_cut(self, field: Field, link: Link) -> None:
        client = ContextClient("127.0.0.1", link.port, CHAT_PATH, ())
        try:
            client.ask(chat_body(1024))
            field.mock.profile(chunks=1000, pace=1)
            link.cut()
            with pytest.raises((BadAnswer, OSError)):
                client.ask(chat_body(1024, stream=True))
        finally:
            client.close()
            link.stop()

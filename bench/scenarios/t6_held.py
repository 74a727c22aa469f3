"""T6: what one more small request costs while streams are held open."""

from __future__ import annotations

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.scenarios.base import sampled

TIMEOUT_S = 30.0
DRAIN_S = 5.0
CHUNKS = 10_000
PACE = 1


class HeldStreams:
    """Added latency of a small request, against a direct one in the same run, beside streams of an event per second."""

    name = "T6"
    title = "held streams"
    has_direct_form = False

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """None of the held streams may lose an event."""
        bench.mock.profile(chunks=CHUNKS, pace=PACE)
        for streams in bench.effort.held:
            self._beside(streams, bench, target, into)

    def _beside(self, streams: int, bench: Bench, target: Target, into: Measurement) -> None:
        effort = bench.effort
        options = {
            "connections": streams, "ramp": effort.start_s, "timeout": TIMEOUT_S, "chunks": CHUNKS, "drain": DRAIN_S,
            "seconds": effort.seconds, "warmup": effort.warmup_s, "count": effort.latency_count,
        }  # fmt: skip
        sent_before = bench.mock.stats().events
        result = bench.load(
            into, target, "hold", bench.body(KIB, stream=True), options, small=bench.body(KIB), paired=True,
            moments={"measured": bench.mock.finish},
        )  # fmt: skip
        if result.open_streams < streams:
            raise Faulty(f"{result.open_streams} of {streams} streams stayed open")
        if result.complete < streams:
            into.faults.append(f"{result.complete} of {streams} held streams ended as they should")
        proxied, direct = sampled(result.latency_ms, result), sampled(result.direct_ms, result)
        into.figures[f"added_ms@{streams}"] = proxied.p50 - direct.p50
        into.figures[f"added_p99_ms@{streams}"] = proxied.p99 - direct.p99
        into.figures[f"events@{streams}"] = result.events
        into.figures[f"lost@{streams}"] = bench.mock.stats().events - sent_before - result.events

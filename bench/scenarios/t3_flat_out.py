"""T3: 50 streams of 500 chunks, as fast as they go."""

from __future__ import annotations

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.scenarios.base import proxy_cpu_us, tools_share

STREAMS = 50
CHUNKS = 500
TIMEOUT_S = 20.0


class FlatOut:
    """CPU per chunk where reads bring many chunks."""

    name = "T3"
    title = "streams flat out"
    has_direct_form = True

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """The upstream writes every event by itself, round robin over the streams."""
        repeats = bench.effort.repeats
        bench.mock.profile(chunks=CHUNKS)
        options = {"connections": STREAMS, "repeat": repeats, "chunks": CHUNKS, "timeout": TIMEOUT_S}
        result = bench.load(into, target, "streams", bench.body(KIB, stream=True), options)
        if not result.events:
            raise Faulty(f"no event came: {result.first_error.strip() or 'timed out'}")
        if result.complete < STREAMS * repeats:
            into.faults.append(f"{result.complete} of {STREAMS * repeats} streams complete")
        into.figures["chunks_per_s"] = result.events / result.seconds
        into.figures["complete_share"] = result.complete / (STREAMS * repeats)
        into.figures["tools_share"] = tools_share(result, len(bench.cores.mock | bench.cores.load))
        cpu_us = proxy_cpu_us(result, result.events)
        if cpu_us is not None:
            into.figures["cpu_us_per_chunk"] = cpu_us

"""T3: 50 streams of 500 chunks, as fast as they go."""

from __future__ import annotations

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.scenarios.base import proxy_cpu_us, tools_lead, tools_share

STREAMS = 50
CHUNKS = 500
# A write per event costs its sender about what it costs a relay, so mock and load client are far ahead of a proxy only
# where a write brings many: there the rate is the proxy's own.
BURSTS = {"": 1, "@burst": 32}
TIMEOUT_S = 20.0


class FlatOut:
    """CPU per chunk where reads bring many chunks."""

    name = "T3"
    title = "streams flat out"
    has_direct_form = True

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """The upstream writes round robin over the streams: every event by itself, then many at once."""
        for suffix, burst in BURSTS.items():
            self._at(suffix, burst, bench, target, into)

    def _at(self, suffix: str, burst: int, bench: Bench, target: Target, into: Measurement) -> None:
        repeats = bench.effort.repeats
        bench.mock.profile(chunks=CHUNKS, burst=burst)
        options = {"connections": STREAMS, "repeat": repeats, "chunks": CHUNKS, "timeout": TIMEOUT_S}
        result = bench.load(into, target, "streams", bench.body(KIB, stream=True), options)
        if not result.events:
            raise Faulty(f"no event came: {result.first_error.strip() or 'timed out'}")
        if result.complete < STREAMS * repeats:
            into.faults.append(f"{result.complete} of {STREAMS * repeats} streams complete")
        into.figures["chunks_per_s" + suffix] = result.events / result.seconds
        into.figures["complete_share" + suffix] = result.complete / (STREAMS * repeats)
        into.figures["tools_share" + suffix] = tools_share(result, len(bench.cores.mock | bench.cores.load))
        cpu_us = proxy_cpu_us(result, result.events)
        if cpu_us is not None:
            into.figures["cpu_us_per_chunk" + suffix] = cpu_us
            into.figures["tools_lead" + suffix] = tools_lead(result)

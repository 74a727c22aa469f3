"""T4: 200 streams at 50 chunks per second each, as a model server writes them."""

from __future__ import annotations

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.scenarios.base import proxy_cpu_us, sampled

STREAMS = 200
PACE = 50
RAMP_S = 0.977  # no multiple of the pace: the events of the streams spread evenly over time
GRACE = 2.5  # how many times its length a stream may take


class Paced:
    """First token, gaps between events, CPU per chunk where every chunk is a read of its own."""

    name = "T4"
    title = "paced streams"
    has_direct_form = True

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Added figures are against the direct run of the same size just before."""
        direct = self._run(bench, bench.direct, Measurement())
        for name, value in direct.items():
            into.figures[f"direct_{name}"] = value
        own = self._run(bench, target, into)
        into.figures |= own
        for name in ("first_p50_ms", "first_p99_ms", "gap_p99_ms", "delay_p50_ms", "delay_p99_ms"):
            into.figures[f"added_{name}"] = own[name] - direct[name]

    def _run(self, bench: Bench, target: Target, into: Measurement) -> dict[str, float]:
        chunks = bench.effort.paced_chunks
        length_s = RAMP_S + chunks / PACE
        bench.mock.profile(chunks=chunks, pace=PACE)
        options = {"connections": STREAMS, "chunks": chunks, "ramp": RAMP_S, "timeout": length_s * GRACE}
        result = bench.load(into, target, "streams", bench.body(KIB, stream=True), options)
        if not result.events:
            raise Faulty(f"no event came: {result.first_error.strip() or 'timed out'}")
        if result.complete < STREAMS:
            into.faults.append(f"{result.complete} of {STREAMS} streams complete")
        first, gap = sampled(result.first_ms, result), sampled(result.gap_ms, result)
        delay = sampled(result.delay_ms, result)
        figures = {
            "first_p50_ms": first.p50, "first_p99_ms": first.p99, "gap_p99_ms": gap.p99,
            "delay_p50_ms": delay.p50, "delay_p99_ms": delay.p99, "complete_share": result.complete / STREAMS,
        }  # fmt: skip
        cpu_us = proxy_cpu_us(result, result.events)
        return figures if cpu_us is None else {**figures, "cpu_us_per_chunk": cpu_us}

"""T7: clients that leave at random, and what is left behind."""

from __future__ import annotations

import time

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.scenarios.base import proxy_cpu_us, sampled

CONNECTIONS = 100
CHUNKS = 50
PACE = 200
QUIET_S = 5.0
TIMEOUT_S = 10.0  # for one request


class Churn:
    """Four in ten clients read to the end; the others leave while sending, after sending or while reading."""

    name = "T7"
    title = "churn"
    has_direct_form = False

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Afterwards the upstream must fall quiet and a small request must cost what it did before."""
        before_ms = self._small(bench, target, into)
        bench.mock.profile(chunks=CHUNKS, pace=PACE)
        options = {"connections": CONNECTIONS, "chunks": CHUNKS, "seconds": bench.effort.seconds}
        result = bench.load(into, target, "churn", bench.body(KIB, stream=True), options)
        if not result.requests:
            raise Faulty(f"nothing came through: {result.first_error.strip() or 'timed out'}")
        into.figures["quiet_after_ms"] = self._quiet_after_s(bench, into) * 1e3
        into.figures["exchanges_per_s"] = result.requests / result.seconds
        into.figures["left_share"] = result.left / result.requests
        cpu_us = proxy_cpu_us(result, result.requests)
        if cpu_us is not None:
            into.figures["cpu_us"] = cpu_us
        after_ms = self._small(bench, target, into)
        into.figures["added_ms_before"], into.figures["added_ms_after"] = before_ms, after_ms

    def _quiet_after_s(self, bench: Bench, into: Measurement) -> float:
        """Seconds until the upstream has no open stream any more."""
        begun = time.monotonic()
        streams = bench.wait_quiet(QUIET_S)
        if streams:
            into.faults.append(f"{streams} upstream streams still open after {QUIET_S:.0f} s")
        return time.monotonic() - begun

    def _small(self, bench: Bench, target: Target, into: Measurement) -> float:
        effort = bench.effort
        options = {
            "seconds": effort.seconds / 2, "warmup": effort.warmup_s, "count": effort.latency_count,
            "timeout": TIMEOUT_S,
        }  # fmt: skip
        result = bench.load(into, target, "latency", bench.body(KIB), options, paired=True)
        return sampled(result.latency_ms, result).p50 - sampled(result.direct_ms, result).p50

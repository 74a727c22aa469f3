"""T1: small plain requests in a closed loop, at 1, 64 and 1,000 connections."""

from __future__ import annotations

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.scenarios.base import proxy_cpu_us, sampled, tools_lead, tools_share

CONNECTIONS = (1, 64, 1000)


class SmallRequests:
    """Requests per second at 64 connections; CPU per request must not grow with the number of connections."""

    name = "T1"
    title = "small plain requests"
    has_direct_form = True

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Requests of 1 KiB, answers of 0.4 KiB."""
        for connections in CONNECTIONS:
            self._at(connections, bench, target, into)

    def _at(self, connections: int, bench: Bench, target: Target, into: Measurement) -> None:
        effort = bench.effort
        options = {"connections": connections, "seconds": effort.seconds, "warmup": effort.warmup_s}
        result = bench.load(into, target, "rps", bench.body(KIB), options)
        if not result.requests:
            raise Faulty(f"no request was answered: {result.first_error.strip() or 'timed out'}")
        latency = sampled(result.latency_ms, result)
        into.figures[f"requests_per_s@{connections}"] = result.requests / result.seconds
        into.figures[f"p50_ms@{connections}"] = latency.p50
        into.figures[f"p99_ms@{connections}"] = latency.p99
        into.figures[f"tools_share@{connections}"] = tools_share(result, len(bench.cores.mock | bench.cores.load))
        cpu_us = proxy_cpu_us(result, result.requests)
        if cpu_us is not None:
            into.figures[f"cpu_us@{connections}"] = cpu_us
            into.figures[f"tools_lead@{connections}"] = tools_lead(result)

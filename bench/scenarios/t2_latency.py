"""T2: what the proxy adds to one request at a time, by the size of its body."""

from __future__ import annotations

from bench.bodies import KIB, MIB, KeyOrder
from bench.context import Bench, Measurement, Target
from bench.scenarios.base import proxy_cpu_us, sampled

SIZES = {"1KB": KIB, "100KB": 100 * KIB, "600KB": 600 * KIB, "4MB": 4 * MIB}
# Some clients send `model` before `messages`: for a proxy that looks for it, another path.
MODEL_FIRST = "600KB"


class AddedLatency:
    """Every proxied request follows a direct one in the same run; added = difference of the medians."""

    name = "T2"
    title = "added latency by body size"
    has_direct_form = False

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Bodies with `model` behind `messages`, as SDKs write them; one size with `model` in front."""
        for label, size_bytes in SIZES.items():
            self._at(label, size_bytes, "messages first", bench, target, into)
        self._at(f"{MODEL_FIRST}-model-first", SIZES[MODEL_FIRST], "model first", bench, target, into)

    def _at(
        self, label: str, size_bytes: int, order: KeyOrder, bench: Bench, target: Target, into: Measurement
    ) -> None:
        effort = bench.effort
        options = {"seconds": effort.seconds, "warmup": effort.warmup_s, "count": effort.latency_count}
        result = bench.load(into, target, "latency", bench.body(size_bytes, order=order), options, paired=True)
        proxied, direct = sampled(result.latency_ms, result), sampled(result.direct_ms, result)
        into.figures[f"added_ms@{label}"] = proxied.p50 - direct.p50
        into.figures[f"added_p99_ms@{label}"] = proxied.p99 - direct.p99
        into.figures[f"direct_ms@{label}"] = direct.p50
        cpu_us = proxy_cpu_us(result, result.requests)
        if cpu_us is not None:
            into.figures[f"cpu_us@{label}"] = cpu_us

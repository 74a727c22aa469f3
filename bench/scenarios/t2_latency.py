"""T2: what the proxy adds to one request at a time, by the size of its body, sent at once and at a client's pace."""

from __future__ import annotations

from bench.bodies import KIB, MIB, KeyOrder
from bench.context import Bench, Measurement, Target
from bench.scenarios.base import proxy_cpu_us

SIZES = {"1KB": KIB, "100KB": 100 * KIB, "600KB": 600 * KIB, "4MB": 4 * MIB}
# Some clients send `model` before `messages`: for a proxy that looks for it, another path.
MODEL_FIRST = ("600KB", "4MB")
UPLOAD_SIZES = {**SIZES, "16MB": 16 * MIB}
UPLOAD_BYTES_PER_S = 32 * MIB
UPLOAD_LIMIT_S = 30.0  # for all uploads of one size
TIMEOUT_S = 10.0


class AddedLatency:
    """Every proxied request follows a direct one in the same run; added = difference of the medians."""

    name = "T2"
    title = "added latency by body size"
    has_direct_form = False

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Bodies with `model` behind `messages`, as SDKs write them; two sizes with `model` in front."""
        for label, size_bytes in SIZES.items():
            self._at(label, size_bytes, "messages first", bench, target, into)
        for label in MODEL_FIRST:
            self._at(f"{label}-model-first", SIZES[label], "model first", bench, target, into)
        for label, size_bytes in UPLOAD_SIZES.items():
            self._upload(label, size_bytes, bench, target, into)
        behind = [value for key, value in into.figures.items() if key.startswith("last_byte_ms@")]
        if len(behind) == len(UPLOAD_SIZES):
            into.figures["last_byte_ms@worst"] = max(behind)

    def _at(
        self, label: str, size_bytes: int, order: KeyOrder, bench: Bench, target: Target, into: Measurement
    ) -> None:
        effort = bench.effort
        options = {
            "seconds": effort.seconds, "warmup": effort.warmup_s, "count": effort.latency_count, "timeout": TIMEOUT_S,
        }  # fmt: skip
        result = bench.load(into, target, "latency", bench.body(size_bytes, order=order), options, paired=True)
        proxied, direct = result.latency_ms, result.direct_ms
        if proxied is None or direct is None:
            into.faults.append(f"no body of {label} came through: {result.first_error.strip() or 'too slow'}")
            return
        into.figures[f"added_ms@{label}"] = proxied.p50 - direct.p50
        into.figures[f"added_p99_ms@{label}"] = proxied.p99 - direct.p99
        into.figures[f"direct_ms@{label}"] = direct.p50
        cpu_us = proxy_cpu_us(result, result.requests)
        if cpu_us is not None:
            into.figures[f"cpu_us@{label}"] = cpu_us

    def _upload(self, label: str, size_bytes: int, bench: Bench, target: Target, into: Measurement) -> None:
        """A body that is sent in pieces: how much later than at the client its last byte is at the upstream."""
        options = {
            "count": bench.effort.uploads, "seconds": UPLOAD_LIMIT_S, "timeout": UPLOAD_LIMIT_S,
            "rate": UPLOAD_BYTES_PER_S,
        }  # fmt: skip
        result = bench.load(into, target, "latency", bench.body(size_bytes), options, paired=True)
        if result.last_byte_ms is None or result.direct_last_byte_ms is None:
            into.faults.append(f"no paced body of {label} came through: {result.first_error.strip() or 'too slow'}")
            return
        into.figures[f"last_byte_ms@{label}"] = result.last_byte_ms.p50
        into.figures[f"direct_last_byte_ms@{label}"] = result.direct_last_byte_ms.p50

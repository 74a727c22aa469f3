"""What a scenario is, and arithmetic that several share."""

from __future__ import annotations

from typing import Protocol

from bench.context import Bench, Faulty, Measurement, Target
from bench.tools import LoadResult, Quantiles


class Scenario(Protocol):
    """One file each. `measure` fills a measurement with figures named as in `bench/figures.py`."""

    name: str
    title: str
    has_direct_form: bool

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Measures once. Raises Faulty where there is nothing to report."""
        ...


def sampled(distribution: Quantiles | None, result: LoadResult) -> Quantiles:
    """Raises Faulty where nothing came through."""
    if distribution is None:
        raise Faulty(f"nothing came through: {result.first_error.strip() or 'timed out'}")
    return distribution


def proxy_cpu_us(result: LoadResult, pieces: int) -> float | None:
    """CPU microseconds of the proxy per piece; None without a proxy or without pieces."""
    if "proxy" not in result.cpu_s or not pieces:
        return None
    return result.cpu_s["proxy"] * 1e6 / pieces


def tools_share(result: LoadResult, cores: int) -> float:
    """How much of the cores of mock and load client they used, 0 to 1."""
    used_s = result.cpu_s.get("mock", 0.0) + result.cpu_s.get("load", 0.0)
    return used_s / (result.seconds * cores) if result.seconds else 0.0


def tools_lead(result: LoadResult) -> float:
    """How many times more the slower of mock and load client could do on a core than the proxy, by their CPU times."""
    return result.cpu_s["proxy"] / max(result.cpu_s["mock"], result.cpu_s["load"])

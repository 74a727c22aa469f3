"""T8: what the access log and all else that watches costs: qproxy as it is beside qproxy with that off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.instance import Instance
from bench.processes import StartError
from bench.rivals.base import Rival
from bench.scenarios.base import proxy_cpu_us
from bench.tools import LoadResult

CONNECTIONS = 64
STREAMS = 200
PACE = 50
CHUNKS = 25
WINDOW_S = 0.25
WARMUP_S = 0.05
RAMP_S = 0.977  # as in T4
TIMEOUT_S = 10.0
REQUEST_WINDOWS = 4  # for one of streams, which is so much longer

Window = Callable[[Bench, Target, Measurement], float]


class Watching:
    """CPU with it on / off, in short windows that take turns. The lower quartile of either side is compared, since what
    others do to a window only makes it dearer."""

    name = "T8"
    title = "watching"
    has_direct_form = False

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Nothing where a rival has no form without watching."""
        instance = target.require_instance()
        if instance.rival.unwatched is None:
            return
        with _paused_twin(instance, instance.rival.unwatched, bench) as twin:
            quiet = Target(twin.rival.name, twin.target, twin.command.headers, twin)
            pairs = bench.effort.pairs
            into.figures["watched@T1"] = _ratio(_requests, pairs * REQUEST_WINDOWS, bench, target, quiet, into)
            into.figures["watched@T4"] = _ratio(_streams, pairs, bench, target, quiet, into)


@contextlib.contextmanager
def _paused_twin(instance: Instance, rival: Rival, bench: Bench) -> Iterator[Instance]:
    twin = Instance(rival, bench.mock.port, bench.cores.proxy, bench.build)
    try:
        twin.start()
    except StartError as exc:
        raise Faulty(f"{rival.name}: {exc}") from exc
    try:
        twin.server.pause()
        yield twin
    finally:
        twin.stop()
        instance.server.resume()


def _ratio(window: Window, pairs: int, bench: Bench, watched: Target, quiet: Target, into: Measurement) -> float:
    costs: dict[str, list[float]] = {watched.name: [], quiet.name: []}
    for pair in range(pairs):
        for target in (watched, quiet) if pair % 2 else (quiet, watched):
            other = quiet if target is watched else watched
            other.require_instance().server.pause()
            target.require_instance().server.resume()
            costs[target.name].append(window(bench, target, into))
    return _lower_quartile(costs[watched.name]) / _lower_quartile(costs[quiet.name])


def _lower_quartile(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 4]


def _requests(bench: Bench, target: Target, into: Measurement) -> float:
    options = {"connections": CONNECTIONS, "seconds": WINDOW_S, "warmup": WARMUP_S}
    result = bench.load(into, target, "rps", bench.body(KIB), options)
    return _cost(result, result.requests)


def _streams(bench: Bench, target: Target, into: Measurement) -> float:
    bench.mock.profile(chunks=CHUNKS, pace=PACE)
    options = {"connections": STREAMS, "chunks": CHUNKS, "ramp": RAMP_S, "timeout": TIMEOUT_S}
    result = bench.load(into, target, "streams", bench.body(KIB, stream=True), options)
    return _cost(result, result.events)


def _cost(result: LoadResult, pieces: int) -> float:
    cost = proxy_cpu_us(result, pieces)
    if cost is None:
        raise Faulty(f"nothing came through: {result.first_error.strip() or 'timed out'}")
    return cost

"""T5: resident memory of the proxy: idle, per idle connection, per open stream, per client that does not read, and
while long bodies pass."""

from __future__ import annotations

import contextlib
import socket
import time

from bench.bodies import KIB, MIB
from bench.context import Bench, Measurement, Target
from bench.instance import Instance

BODIES = 16
BODY_BYTES = 4 * MIB
SETTLE_S = 0.3
HOLD_S = 0.5
CHUNKS = 10_000  # of a held stream: more than it will send
TIMEOUT_S = 30.0
# What a stuck reader could read, 10 MB: more than sockets hold on the way, and an end where there is no back-pressure.
STUCK_CHUNKS = 50_000
STUCK_RECEIVE_BYTES = 4 * KIB
STALLED_S = 0.2
STALLED_LOOKS = 3
STALL_LIMIT_S = 20.0


class MemoryUse:
    """Every figure begins with a fresh process: memory that was used once hides growth."""

    name = "T5"
    title = "memory"
    has_direct_form = False

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Idle is after one answered request."""
        instance = _fresh(target)
        into.figures["idle_mb"] = instance.memory().resident_bytes / 1e6
        self._idle_connections(bench, instance, into)
        for streams in bench.effort.open_streams:
            self._open_streams(streams, bench, target, _fresh(target), into)
        self._stuck_readers(bench, _fresh(target), into)
        self._long_bodies(bench, target, _fresh(target), into)

    def _idle_connections(self, bench: Bench, instance: Instance, into: Measurement) -> None:
        count = bench.effort.idle_connections
        before = instance.memory().resident_bytes
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(socket.create_connection(("127.0.0.1", instance.site.port), TIMEOUT_S))
            time.sleep(SETTLE_S * 2)
            grown = instance.memory().resident_bytes - before
        into.figures[f"per_idle_connection_kib@{count}"] = grown / KIB / count

    def _open_streams(self, streams: int, bench: Bench, target: Target, instance: Instance, into: Measurement) -> None:
        before = instance.memory().resident_bytes
        held: list[int] = []
        bench.mock.profile(chunks=CHUNKS, pace=1)
        options = {
            "connections": streams, "ramp": bench.effort.start_s, "timeout": TIMEOUT_S, "seconds": HOLD_S,
            "chunks": CHUNKS,
        }  # fmt: skip
        result = bench.load(
            into, target, "hold", bench.body(KIB, stream=True), options, small=bench.body(KIB),
            moments={"held": lambda: held.append(instance.memory().resident_bytes)},
        )  # fmt: skip
        if result.open_streams < streams:
            into.faults.append(f"{result.open_streams} of {streams} streams stayed open")
            return
        into.figures[f"per_stream_kib@{streams}"] = (held[0] - before) / KIB / streams

    def _stuck_readers(self, bench: Bench, instance: Instance, into: Measurement) -> None:
        """Clients that ask for a long stream, which comes as fast as it can, and read nothing."""
        count = bench.effort.stuck_readers
        bench.mock.profile(chunks=STUCK_CHUNKS, burst=32)
        request = instance.request_bytes(bench.body(KIB, stream=True).read_bytes())
        before = instance.memory().resident_bytes
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                client = stack.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_RECEIVE_BYTES)
                client.connect(("127.0.0.1", instance.site.port))
                client.sendall(request)
            if not _await_stall(bench):
                into.faults.append(f"the upstream was still read {STALL_LIMIT_S:.0f} s after its readers got stuck")
            grown = instance.memory().resident_bytes - before
        into.figures["per_stuck_reader_kib"] = grown / KIB / count

    def _long_bodies(self, bench: Bench, target: Target, instance: Instance, into: Measurement) -> None:
        instance.server.reset_peak()
        before = instance.memory().resident_bytes
        options = {"connections": BODIES, "seconds": bench.effort.seconds, "warmup": 0}
        bench.load(into, target, "rps", bench.body(BODY_BYTES), options)
        grown = instance.memory().peak_bytes - before
        into.figures["peak_growth_of_bodies"] = grown / (BODIES * BODY_BYTES)


def _fresh(target: Target) -> Instance:
    instance = target.require_instance()
    instance.restart()
    time.sleep(SETTLE_S)
    return instance


def _await_stall(bench: Bench) -> bool:
    """Whether the upstream has got stuck in its turn, or has written all there was."""
    deadline = time.monotonic() + STALL_LIMIT_S
    before, same = -1, 0
    while same < STALLED_LOOKS and time.monotonic() < deadline:
        time.sleep(STALLED_S)
        events = bench.mock.stats().events
        same = same + 1 if events == before else 0
        before = events
    return same == STALLED_LOOKS

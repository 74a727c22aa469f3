"""How fast the simulator is: `python -m qproxy.simulator.speed [--backend uvloop] [--seconds 3]`.

The simulator runs in a process of its own, on a core of its own where there are two; the client only counts. CPU time
is read from /proc: for Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

_ASK = {"model": "qwen3-coder-plus", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement: what is asked, by how many connections, with which settings of the simulator."""

    name: str
    connections: int
    streams: bool
    arguments: tuple[str, ...]


LOADS = (
    Load("small plain answers", 64, streams=False, arguments=()),
    Load("streams flat out", 16, streams=True, arguments=("--tokens", "200")),
    Load("streams, each event on its own", 200, streams=True, arguments=("--tokens", "200", "--pace", "100000")),
)


class Asker(asyncio.Protocol):
    """Asks again as soon as an answer is whole."""

    def __init__(self, request: bytes, end: bytes) -> None:
        self.answers = 0
        self.events = 0
        self._request = request
        self._end = end
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data: ")
        self._tail = (self._tail + data)[-len(self._end) :]
        if self._tail == self._end and self._transport is not None:
            self.answers += 1
            self._tail = b""
            self._transport.write(self._request)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was counted up to a moment; `cpu_s` is what the simulator's process has used."""

    answers: int
    events: int
    cpu_s: float
    time_s: float


def request_for(load: Load) -> bytes:
    """The bytes that every connection sends again and again."""
    body = orjson.dumps({**_ASK, "stream": load.streams})
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: sim", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


async def measure(load: Load, process_id: int, port: int, seconds: float) -> tuple[Reading, Reading]:
    """Before and after."""
    loop = asyncio.get_running_loop()
    request, end = request_for(load), b"\r\n0\r\n\r\n" if load.streams else b'"}'
    connected = [
        await loop.create_connection(lambda: Asker(request, end), "127.0.0.1", port) for _ in range(load.connections)
    ]
    askers = [asker for _, asker in connected]
    await asyncio.sleep(seconds / 4)
    before = _read(askers, process_id)
    await asyncio.sleep(seconds)
    after = _read(askers, process_id)
    for transport, _ in connected:
        transport.abort()
    return before, after


def _read(askers: list[Asker], process_id: int) -> Reading:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    answers, events = sum(asker.answers for asker in askers), sum(asker.events for asker in askers)
    return Reading(answers, events, cpu_s, time.perf_counter())


def run(load: Load, backend: str, seconds: float) -> str:
    """Starts a simulator, measures, stops it; one line of text."""
    command = [sys.executable, "-m", "qproxy.simulator", "--backend", backend, *load.arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ourselves
        _pin(process.pid, 0)
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        before, after = asyncio.run(measure(load, process.pid, port, seconds))
        process.terminate()
    unit = "events" if load.streams else "answers"
    count = after.events - before.events if load.streams else after.answers - before.answers
    took_s, cpu_s = after.time_s - before.time_s, max(after.cpu_s - before.cpu_s, 1e-9)
    rates = f"{count / took_s:10,.0f} {unit}/s, {count / cpu_s:10,.0f} {unit}/s per core"
    return f"{backend:8} {load.name:31} {rates}, {cpu_s / max(count, 1) * 1e6:6.2f} us of CPU each"


def _pin(pid: int, core: int) -> None:
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def main() -> None:
    """Measures all loads on one loop."""
    command = argparse.ArgumentParser(prog="python -m qproxy.simulator.speed")
    command.add_argument("--backend", choices=("uvloop", "asyncio", "trio"), default="uvloop")
    command.add_argument("--seconds", type=float, default=3.0)
    given = command.parse_args()
    _pin(0, 1)
    for load in LOADS:
        sys.stdout.write(run(load, given.backend, given.seconds) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

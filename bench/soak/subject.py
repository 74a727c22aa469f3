"""The proxy under test: a process of its own with small deadlines, looked at from outside alone."""

from __future__ import annotations

import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from bench.descriptors import connections_among, descriptors_of
from bench.instance import base_environment
from bench.machine import available_cores
from bench.processes import Server, StartError, free_port
from bench.rivals.base import CLIENT_KEY, ROOT
from bench.soak.trimmed import TRIM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.soak.upstream import FaultUpstream

CLOCK_S = 3.0  # all of the proxy's deadlines, unless it says otherwise below
KEEPALIVE_S = 1.0  # of upstream connections: so soon after the last request there is none
MAX_EXCHANGES = 40
UPSTREAM_CONNECTIONS = 24
READY_S = 20.0
QUIET_S = 12.0  # for whatever is under way to end when nobody sends anything any more
LEAVES_WITHIN_S = 4.0
LOOK_S = 0.05
TRIM_S = 0.3
DRAIN_S = 20.0  # were anything under way at the end, the proxy would wait for it

SETTINGS = """
upstream = "one"
[models]
"one/*" = "one:*"
"two/*" = "two:*"
"lone/*" = "lone:*"
{upstreams}
[[fallback]]
from = "one:*"
to = "two:*"
on = ["429", "503", "connect"]
[limits]
max_exchanges = {max_exchanges}
[timeouts]
head_s = {clock_s}
body_s = {clock_s}
write_stall_s = {clock_s}
queue_wait_s = {clock_s}
pool_wait_s = {clock_s}
connect_s = 1
upload_s = {clock_s}
first_byte_stream_s = {clock_s}
first_byte_plain_s = {clock_s}
first_byte_per_100k_tokens_s = 1
first_byte_max_s = 5
stream_idle_s = {clock_s}
keepalive_idle_s = 30
drain_s = {drain_s}
"""
UPSTREAM = """
[upstreams.{name}]
url = "http://127.0.0.1:{port}/v1"
keys = [{keys}]
keepalive_s = {keepalive_s}
max_connections = {connections}
"""
DEFECTS = re.compile(r"internal error|Traceback|requests under way|broken off")
STALLS = re.compile(r"event loop stood still")


@dataclass(frozen=True, slots=True)
class Look:
    """The proxy at one moment. `down` and `up` are its connections to clients and to upstreams. `used_bytes` is what it
    has resident when free memory has been given back; 0 where it was not asked to."""

    resident_bytes: int
    used_bytes: int
    descriptors: int
    down: int
    up: int


@dataclass(frozen=True, slots=True)
class Farewell:
    """How it ended on SIGTERM. `defects` are lines of its log that must not be there; `stalls` are counted alone."""

    exit_status: int | None
    seconds: float
    defects: tuple[str, ...]
    stalls: int


class Subject:
    """One qproxy in front of the fault upstreams."""

    def __init__(self, upstreams: Sequence[FaultUpstream], folder: Path, backend: str) -> None:
        self.port = free_port()
        self._upstreams = upstreams
        self._folder = folder
        self._backend = backend
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """Only between `start` and `stop`."""
        assert self._server is not None, "not started"
        return self._server

    def start(self) -> None:
        """Does not wait until it listens. Raises StartError."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        settings = self._folder / "qproxy.toml"
        settings.write_text(self._settings())
        argv = (
            sys.executable, "-m", "bench.soak.trimmed", "serve", "--host", "127.0.0.1", "--port", str(self.port),
            "--config", str(settings), "--backend", self._backend, "--home", str(self._folder / "state"),
        )  # fmt: skip
        env = {
            **base_environment(self._folder),
            "PYTHONPATH": str(ROOT),
            "QPROXY_API_KEY": CLIENT_KEY,
            "QPROXY_ACCESS_LOG": str(self._folder / "access.log"),
        }
        self._server = Server(argv, env, self._folder, available_cores())

    def _settings(self) -> str:
        tables = (
            UPSTREAM.format(
                name=each.name, port=each.port, keys=", ".join(f'"{key}"' for key in each.keys),
                keepalive_s=KEEPALIVE_S, connections=UPSTREAM_CONNECTIONS,
            )
            for each in self._upstreams
        )  # fmt: skip
        return SETTINGS.format(upstreams="".join(tables), clock_s=CLOCK_S, max_exchanges=MAX_EXCHANGES, drain_s=DRAIN_S)

    async def until_ready(self) -> None:
        """Raises StartError."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.server.exit_status is not None:
                break
            try:
                async with await anyio.connect_tcp("127.0.0.1", self.port):
                    return
            except OSError:
                await anyio.sleep(LOOK_S)
        raise StartError(f"qproxy did not start: {self.server.last_words()}")

    def look(self) -> Look:
        """Reads /proc."""
        pids = self.server.pids()
        ports = connections_among(descriptors_of(pids))
        opened = descriptors_of(pids)  # read behind the connections: what was closed in between counts for neither
        upstream_ports = {each.port for each in self._upstreams}
        down = sum(local == self.port for local, _ in ports)
        up = sum(remote in upstream_ports for _, remote in ports)
        return Look(self.server.memory().resident_bytes, 0, len(opened), down, up)

    async def until_quiet(self) -> Look:
        """The look when no connection is left, or after `QUIET_S`."""
        deadline = time.monotonic() + QUIET_S
        look = self.look()
        while (look.down or look.up) and time.monotonic() < deadline:
            await anyio.sleep(LOOK_S)
            look = self.look()
        self.server.send_signal(TRIM)
        await anyio.sleep(TRIM_S)
        return replace(look, used_bytes=self.look().resident_bytes)

    async def leave(self) -> Farewell:
        """Ask it to end, and see how it does."""
        begun = time.monotonic()
        self.server.send_signal(signal.SIGTERM)
        while self.server.exit_status is None and time.monotonic() - begun < LEAVES_WITHIN_S:  # noqa: ASYNC110
            await anyio.sleep(LOOK_S)
        seconds = time.monotonic() - begun
        lines = self.server.log.read_text(errors="replace").splitlines()
        defects = tuple(line for line in lines if DEFECTS.search(line))
        stalls = sum(bool(STALLS.search(line)) for line in lines)
        return Farewell(self.server.exit_status, seconds, defects, stalls)

    def stop(self) -> None:
        """Safe to call twice, and when it has ended."""
        if self._server is not None:
            self._server.stop()

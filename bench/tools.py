"""The two C programs: building them, running them, and what they report."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.machine import pinned
from bench.processes import Server, StartError, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

NATIVE = Path(__file__).with_name("native")
BUILD = Path(__file__).with_name("build")
C_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
CHAT_PATH = "/v1/chat/completions"
READY_S = 5.0


class ToolError(Exception):
    """A tool could not be built or run; the message says why."""


def build_tools(target: Path = BUILD) -> None:
    """Compiles `mock` and `load`, each from its `native/NAME*.c`, where they are missing or older than a source."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ToolError("no C compiler: install one (Debian: apt-get install gcc libc6-dev) or set CC")
    target.mkdir(parents=True, exist_ok=True)
    newest = max(source.stat().st_mtime for source in NATIVE.iterdir())
    for name in ("mock", "load"):
        program = target / name
        if program.exists() and program.stat().st_mtime > newest:
            continue
        sources = [str(source) for source in sorted(NATIVE.glob(f"{name}*.c"))]
        done = subprocess.run(
            [compiler, *C_FLAGS, "-o", str(program), *sources], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ToolError(f"{compiler} failed on {name}:\n{done.stderr}")


@dataclass(frozen=True, slots=True)
class MockStats:
    """What the mock upstream has seen."""

    connections: int
    active_streams: int
    requests: int
    streams: int
    aborted: int
    events: int


class Mock:
    """The mock upstream. `profile` changes what streams look like that start from then on."""

    def __init__(self, folder: Path, cores: frozenset[int], tools: Path = BUILD) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.server = Server((str(tools / "mock"), "--port", str(self.port)), {}, folder, cores)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while "listening" not in self.server.log.read_text():
            if self.server.exit_status is not None or time.monotonic() > deadline:
                raise StartError(f"the mock upstream did not start: {self.server.last_words()}")
            time.sleep(0.005)

    def _ask(self, method: str, target: str) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_S)
        try:
            connection.request(method, target)
            answer: dict[str, int] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer

    def profile(self, *, chunks: int, pace: int = 0, first_ms: int = 0, burst: int = 1) -> None:
        """`pace` in writes per second and stream, 0: flat out; `first_ms`: before the first; `burst`: events per write,
        at most 32."""
        self._ask("POST", f"/bench/profile?chunks={chunks}&pace={pace}&first_ms={first_ms}&burst={burst}")

    def finish(self) -> None:
        """Every paced stream ends with its next write."""
        self._ask("POST", "/bench/finish")

    def stats(self) -> MockStats:
        """The asking connection is counted too."""
        return MockStats(**self._ask("GET", "/bench/stats"))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of `count` samples, in milliseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One run of the load client. A distribution is None where nothing was sampled; `cpu_s` by process group.

    `open_streams` is how many a `hold` run had open when its measurement ended; `complete`, how many ended well.
    """

    mode: str
    requests: int
    errors: int
    first_error: str
    seconds: float
    complete: int
    events: int
    disordered: int
    left: int
    open_streams: int
    cpu_s: dict[str, float]
    latency_ms: Quantiles | None = None
    direct_ms: Quantiles | None = None
    first_ms: Quantiles | None = None
    gap_ms: Quantiles | None = None
    delay_ms: Quantiles | None = None
    last_byte_ms: Quantiles | None = None
    direct_last_byte_ms: Quantiles | None = None

    @classmethod
    def parse(cls, text: str) -> LoadResult:
        """From the JSON object that the client prints."""
        fields = json.loads(text)
        for name in [name for name in fields if name.endswith("_ms")]:
            fields[name] = Quantiles(**fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Arguments of one run; see the head of `native/load.c`. Targets are `HOST:PORT/PATH`."""

    mode: str
    target: str
    body: Path
    direct: str | None = None
    small: Path | None = None
    headers: tuple[str, ...] = ()
    options: Mapping[str, int | float] = field(default_factory=dict)
    groups: Mapping[str, list[int]] = field(default_factory=dict)

    def argv(self, tools: Path = BUILD) -> list[str]:
        """The command line."""
        argv = [str(tools / "load"), self.mode, "--target", self.target, "--body", str(self.body)]
        if self.direct is not None:
            argv += ["--direct", self.direct]
        if self.small is not None:
            argv += ["--small", str(self.small)]
        for line in self.headers:
            argv += ["--header", line]
        for name, value in self.options.items():
            argv += [f"--{name}", str(value)]
        for name, pids in self.groups.items():
            argv += ["--cpu", f"{name}={','.join(map(str, pids))}"]
        return argv


class LoadRun:
    """A started load client."""

    def __init__(self, plan: LoadPlan, cores: frozenset[int], tools: Path = BUILD) -> None:
        self._lines: list[str] = []
        with pinned(cores):
            self._process = subprocess.Popen(
                plan.argv(tools), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )

    def wait_for(self, line: str) -> None:
        """Returns when a `hold` run says `held`, every stream is open, or `measured`, they may end; or at its end."""
        assert self._process.stdout is not None
        while line not in self._lines and (said := self._process.stdout.readline()):
            self._lines.append(said.strip())

    def result(self) -> LoadResult:
        """Waits for the end. Raises ToolError where the client itself failed."""
        out, err = self._process.communicate()
        if self._process.returncode:
            raise ToolError(f"load: {err.strip()}")
        return LoadResult.parse([*self._lines, *out.splitlines()][-1])


def run_load(plan: LoadPlan, cores: frozenset[int], tools: Path = BUILD) -> LoadResult:
    """One run from start to end."""
    return LoadRun(plan, cores, tools).result()

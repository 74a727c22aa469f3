"""What the tests of the bench share: load and a mock upstream that are made small."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.bodies import chat_body
from bench.context import QUICK, Effort
from bench.machine import available_cores
from bench.tools import CHAT_PATH, LoadPlan, LoadResult, LoadRun, Mock

# The smallest that still goes every way.
TINY: Effort = replace(
    QUICK, seconds=0.05, warmup_s=0.0, latency_count=3, uploads=1, paced_chunks=3, held=(0, 5), open_streams=(5,),
    start_s=0.05, idle_connections=5, stuck_readers=2, pairs=1,
)  # fmt: skip


@dataclass
class Field:
    """A mock upstream and the way to send load to it, or to another address."""

    tools: Path
    folder: Path
    mock: Mock

    def body(self, *, stream: bool, size_bytes: int = 1024) -> Path:
        path = self.folder / f"body-{stream}-{size_bytes}.json"
        path.write_bytes(chat_body(size_bytes, stream=stream))
        return path

    def target(self, port: int | None = None) -> str:
        return f"127.0.0.1:{port or self.mock.port}{CHAT_PATH}"

    def load(
        self, mode: str, *, stream: bool, port: int | None = None, size_bytes: int = 1024, **options: float
    ) -> LoadResult:
        """One run from start to end."""
        return self.start(mode, stream=stream, port=port, size_bytes=size_bytes, **options).result()

    def start(
        self, mode: str, *, stream: bool, port: int | None = None, size_bytes: int = 1024, **options: float
    ) -> LoadRun:
        direct = self.target() if mode in ("latency", "hold") else None
        body = self.body(stream=stream, size_bytes=size_bytes)
        plan = LoadPlan(
            mode, self.target(port), body, direct=direct,
            small=self.body(stream=False) if mode == "hold" else None, options=options,
            groups={"mock": self.mock.server.pids()},
        )  # fmt: skip
        return LoadRun(plan, available_cores(), self.tools)

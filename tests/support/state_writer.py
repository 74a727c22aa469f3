"""A process that counts: `python -m tests.support.state_writer FOLDER REQUESTS`, 0 for as many as it can.

It says on a line of its own how many it has noted.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from qproxy.core.counts import CountKey, one_request
from qproxy.core.usage import Usage
from qproxy.edge.store import Store

ROOT = Path(__file__).parents[2]
DAY = "2026-11-21"
WRITE_EVERY_S = 0.005
BATCH = 50


@contextmanager
def state_writer(folder: Path, requests: int) -> Iterator[subprocess.Popen[str]]:
    """The process, ended with the block if it still runs."""
    command = [sys.executable, "-m", "tests.support.state_writer", str(folder), str(requests)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


async def _count(folder: Path, requests: int) -> None:
    async with Store(folder, write_every_s=WRITE_EVERY_S) as store:
        for number in range(1, requests + 1) if requests else itertools.count(1):
            store.note(one_request(CountKey(DAY, "upstream", "account", f"model-{number % 7}"), Usage(3, 2, 5)))
            if number % BATCH == 0:
                print(number, flush=True)
                await anyio.sleep(0.001)


if __name__ == "__main__":
    anyio.run(_count, Path(sys.argv[1]), int(sys.argv[2]))

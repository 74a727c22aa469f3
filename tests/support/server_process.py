"""`python -m qproxy serve` in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from tests.support.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from typing import IO

COMMAND = [sys.executable, "-m", "qproxy", "serve"]
QUIETLY = {"QPROXY_PORT": "0", "QPROXY_ACCESS_LOG": "off", "QPROXY_STALL_MS": "0"}
TIMEOUT_S = 40.0


@dataclass
class Server:
    """`url` has no path. `stderr` is a file, so that nobody has to empty a pipe."""

    url: str
    process: subprocess.Popen[bytes]
    stderr: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, once it has one."""
        return await anyio.to_thread.run_sync(self.process.wait, TIMEOUT_S)

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self.stderr.read_text()

    async def until_said(self, words: str) -> None:
        with anyio.fail_after(TIMEOUT_S):
            while words not in self.said():
                await anyio.sleep(0.02)

    def cpu_s(self) -> float:
        """What it has used of the processor (proc(5), stat)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@asynccontextmanager
async def server_process(
    folder: Path,
    upstream_url: str | None,
    *flags: str,
    backend: str,
    environ: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] | None = None,
) -> AsyncIterator[Server]:
    """A server that listens; it is killed at the end where it still runs.

    `folder` is its home and its working folder. `wrapper` starts the command that follows it. Where stdout is not ours
    the URL is not known.
    """
    said = folder / "stderr.txt"
    command = [*wrapper, *COMMAND, "--backend", backend, *flags]
    if upstream_url is not None:
        command += ["--upstream", upstream_url]
    with said.open("wb") as file:
        process = started(command, folder, environ or {}, stdout, file if stderr is None else stderr)
    with process:
        try:
            yield Server(await _url(process), process, said)
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def with_descriptors(count: int) -> list[str]:
    """A wrapper: the command may have so many."""
    return ["sh", "-c", f'ulimit -n {count}; exec "$@"', "sh"]


def started(
    command: Sequence[str], folder: Path, environ: Mapping[str, str], stdout: int | IO[bytes], stderr: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **QUIETLY}
    return subprocess.Popen(
        command, cwd=folder, env={**own, **environ}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
    )


async def _url(process: subprocess.Popen[bytes]) -> str:
    if process.stdout is None:
        return ""
    line = await anyio.to_thread.run_sync(process.stdout.readline)
    return line.decode().removeprefix("qproxy listening on ").strip()

"""The command line in real processes, as a user's shell starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from anyio.from_thread import start_blocking_portal

from qproxy import simulator
from qproxy.config.options import UVLOOP_INSTALLED

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from qproxy.cli import main; main()"]
BACKENDS = ["asyncio", "trio", *(["uvloop"] if UVLOOP_INSTALLED else [])]
TIMEOUT_S = 40


@dataclass
class Shell:
    """A working folder and an environment in which nothing of the real one is seen."""

    cwd: Path
    environ: dict[str, str] = field(default_factory=dict)

    def popen(self, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        own = {"PATH": os.environ["PATH"], "HOME": str(self.cwd), "PYTHONPATH": str(ROOT)}
        environ = {**own, "QPROXY_STALL_MS": "0", **self.environ}  # a busy machine is no news
        return subprocess.Popen(
            [*COMMAND, *arguments], cwd=self.cwd, env=environ, text=True, stdout=stdout, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.popen(*arguments) as process:
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        assert "Traceback" not in stderr
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    @contextmanager
    def unread(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A process whose stdout nobody reads any more."""
        reading, writing = os.pipe()
        os.close(reading)
        with self.popen(*arguments, stdout=writing) as process:
            os.close(writing)
            yield process

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        """A proxy that listens: its URL and its process, which is ended afterwards if it still runs."""
        with self.popen("serve", "--port", "0", "--access-log", "off", *arguments) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().removeprefix("qproxy listening on ").strip(), process
            finally:
                process.kill()


@contextmanager
def simulated(options: simulator.Options | None = None, socket_path: str | None = None) -> Iterator[str]:
    """The base URL of a simulator that runs in a thread."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulator.running(options, socket_path=socket_path)) as running,
    ):
        yield running.url if socket_path is not None else f"{running.url}/v1"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        text: str = response.read().decode()
        return text


def wait_for(url: str) -> None:
    """Until something answers there."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            get(url)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def stop(process: subprocess.Popen[str], signal_number: int) -> tuple[int, str]:
    """Exit status and stderr after a signal."""
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
    return process.returncode, stderr

"""A terminal for the shell lines of the documentation: a folder and an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = (
    "DASHSCOPE_API_KEY",
    "BAILIAN_TOKEN_PLAN_API_KEY",
    "BAILIAN_CODING_PLAN_API_KEY",
    "TEAM_KEY",
    "TEAM_DASHSCOPE_KEY",
    "MODELS_KEY",
    "MY_PLAN_KEY",
)
"""The variables with keys that the pages speak of; here they hold a made-up one."""

READY = ("qproxy listening on ", "Serving until Ctrl-C")
DEADLINE_S = 50


@dataclass(frozen=True)
class Terminal:
    """`address` is that of the proxy which stands where the pages say 127.0.0.1:8080."""

    folder: Path
    environ: dict[str, str]
    address: str

    @classmethod
    def open(cls, folder: Path, address: str, upstream_url: str) -> Terminal:
        """Its default upstream is `upstream_url`, its port a free one, and nothing of the real environment is seen."""
        programs = folder / "programs"
        programs.mkdir()
        installed = Path(sys.executable).parent / "qproxy"
        if not installed.exists():
            shim = programs / "qproxy"
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qproxy "$@"\n')
            shim.chmod(0o755)
        environ = dict.fromkeys(KEYS, "made-up-key") | {
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            "NO_PROXY": "127.0.0.1",
            "QPROXY_PORT": "0",
            "QPROXY_UPSTREAM": upstream_url,
        }
        return cls(folder, environ, address)

    def here(self, text: str) -> str:
        """The text with this terminal's proxy in place of the one that the pages speak of."""
        return text.replace("127.0.0.1:8080", self.address)

    def run(self, *command: str, **environ: str) -> str:
        """What a command that ends by itself prints; it has to succeed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def run_script(self, script: str) -> str:
        """As `run`, for shell lines."""
        return self.run("bash", "-euo", "pipefail", "-c", self.here(script))

    @contextmanager
    def serving(self, script: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        """Shell lines whose last one serves until it is stopped: what they printed until they were ready."""
        with subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield _until_ready(process), process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: subprocess.Popen[str]) -> int:
    """What Ctrl-C does: SIGINT for everything in the foreground. The exit status."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(DEADLINE_S)


def _until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith(READY):
            return printed
    raise AssertionError(f"it ended before it was ready: {printed}")

"""A model server that is not ours, on a loopback port of its own choice: `transformers serve` on the CPU.

It lives in a virtual environment outside the repository, which `.ci/foreign.sh` makes.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.foreign_model import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "tiny-qwen3"
VENV_VARIABLE = "FOREIGN_MODEL_VENV"
REQUIRE_VARIABLE = "FOREIGN_MODEL_REQUIRED"
STOP_S = 10
READY = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


def installed_program() -> Path:
    """Skips the test where there is none, or fails it where one is required."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    venv = Path(os.environ.get(VENV_VARIABLE) or cache / "qproxy" / "foreign")
    program = venv / "bin" / "transformers"
    if program.exists():
        return program
    missing = f"NO FOREIGN MODEL SERVER in {venv}: run .ci/foreign.sh"
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def foreign_server(program: Path, folder: Path) -> Iterator[str]:
    """The base URL of a server of `MODEL`; `folder` gets the model and stands for its home, without a model cache."""
    write_model(folder / MODEL)
    arguments = [str(program), "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu", MODEL]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(arguments, cwd=folder, env=environ, text=True, stderr=subprocess.PIPE) as process:
        try:
            yield f"{_url_when_ready(process)}/v1"
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _url_when_ready(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        ready = READY.search(line)
        if ready is not None:
            threading.Thread(target=deque, args=(process.stderr, 0), daemon=True).start()  # a full pipe would stop it
            return ready[1]
    pytest.fail("".join(["the foreign server ended:\n", *lines]))

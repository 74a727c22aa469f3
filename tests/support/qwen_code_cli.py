"""The login code of the real Qwen Code CLI, in a Node process. The package is fetched once, into the user's cache."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import anyio
import platformdirs
import pytest
from anyio.streams.text import TextReceiveStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import Process

PACKAGE = "@qwen-code/qwen-code@0.24.4"
SHA512 = "pmexy/Nj+BKd3Un1ogqGQE8V4GJn5B6N9PQOrU1GH+lMR29kn6Bgf6YdbZa8hNIoTmAKT1LTPK+P8TibZRPPVg=="
FETCH_S = 45
DRIVER = Path(__file__).parents[1] / "js" / "qwen_code_login.mjs"


def unavailable(reason: str) -> NoReturn:
    """Skips, loudly; where nobody reads the skips, it fails."""
    message = f"THE LOCK OF THE REAL CLI IS NOT TESTED: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def cli_chunks() -> Path:
    """The folder of the package's modules. Skips where it cannot be had."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        unavailable("node and npm must be installed")
    place = (
        platformdirs.user_cache_path("qproxy-tests") / f"qwen-code-{hashlib.sha256(SHA512.encode()).hexdigest()[:16]}"
    )
    if not place.is_dir():
        fetch(npm, place)
    return place / "package" / "chunks"


def fetch(npm: str, place: Path) -> None:
    """Puts the folder in its place whole or not at all; whoever comes second keeps what the first one made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        command = [npm, "pack", "--silent", PACKAGE]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False)
        except subprocess.TimeoutExpired:
            unavailable(f"npm pack took longer than {FETCH_S} s")
        if done.returncode:
            unavailable(f"npm pack failed: {done.stderr.strip()[-400:]}")
        (package,) = Path(folder).glob("*.tgz")
        assert base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode() == SHA512
        made = Path(folder) / "made"
        with tarfile.open(package) as archive:
            wanted = [each for each in archive if each.name.startswith(("package/chunks/", "package/package.json"))]
            archive.extractall(made, wanted, filter="data")
        if not place.is_dir():
            made.rename(place)


class Cli:
    """One process of the CLI's login code."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._lines = TextReceiveStream(process.stdout)
        self._rest = ""

    async def do(self, command: str) -> str | None:
        """What the command gives. Raises RuntimeError with the CLI's own message."""
        assert self._process.stdin is not None
        await self._process.stdin.send(f"{command}\n".encode())
        while "\n" not in self._rest:
            self._rest += await self._lines.receive()
        line, _, self._rest = self._rest.partition("\n")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        given: str | None = answer["ok"]
        return given

    async def exit(self) -> None:
        """As a user ends it: its exit handlers run."""
        assert self._process.stdin is not None
        await self._process.stdin.send(b"exit\n")
        await self._process.wait()

    async def kill(self) -> None:
        """So that they do not."""
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def qwen_code_cli(chunks: Path, home: Path, login_url: str) -> AsyncIterator[Cli]:
    """`home` holds the login; `login_url` is its server, without a path."""
    environ = {"PATH": os.environ["PATH"], "QWEN_HOME": str(home), "CHUNKS": str(chunks), "LOGIN_URL": login_url}
    async with await anyio.open_process(["node", str(DRIVER)], env=environ, stderr=None) as process:
        try:
            yield Cli(process)
        finally:
            if process.returncode is None:
                process.kill()

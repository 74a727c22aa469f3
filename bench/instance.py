"""A started rival: where it is reached, which processes it is, whether it answers."""

from __future__ import annotations

import http.client
import os
import shutil
import time
from pathlib import Path

from bench.bodies import KIB, chat_body
from bench.processes import Memory, Server, StartError, free_port
from bench.rivals.base import Command, Rival, Site
from bench.tools import BUILD

POLL_S = 0.05
ANSWER_S = 20.0


def base_environment(folder: Path) -> dict[str, str]:
    """Nothing of the caller's settings and logins reaches a rival: `folder` is its home."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(folder), "PYTHONUNBUFFERED": "1"}


class Instance:
    """One rival in front of one upstream. `start` before use, `stop` after it."""

    def __init__(self, rival: Rival, upstream_port: int, cores: frozenset[int], build: Path = BUILD) -> None:
        self.rival = rival
        self.site = Site(build / rival.name, build / "run" / rival.name, free_port(), upstream_port)
        self._cores = cores
        self._server: Server | None = None
        self._command: Command | None = None

    @property
    def server(self) -> Server:
        """Its processes; only between `start` and `stop`."""
        assert self._server is not None, "not started"
        return self._server

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended by itself."""
        return self._server is not None and self._server.exit_status is None

    @property
    def command(self) -> Command:
        """How it is talked to."""
        assert self._command is not None, "not started"
        return self._command

    @property
    def target(self) -> str:
        """For the load client."""
        return f"127.0.0.1:{self.site.port}{self.command.path}"

    def start(self) -> None:
        """Returns when a small request was answered with 200. Raises StartError with the reason for the table."""
        missing = self.rival.packages.missing(self.site.prefix)
        if missing:
            raise StartError(missing)
        shutil.rmtree(self.site.folder, ignore_errors=True)
        self.site.folder.mkdir(parents=True)
        self._command = self.rival.command(self.site)
        env = {**base_environment(self.site.folder), **self._command.env}
        self._server = Server(self._command.argv, env, self.site.folder, self._cores)
        try:
            self._wait_ready(self._command)
        except BaseException:  # also where the run is interrupted meanwhile
            self.stop()
            raise

    def _wait_ready(self, command: Command) -> None:
        deadline = time.monotonic() + command.ready_s
        problem = "it does not listen"
        while time.monotonic() < deadline:
            if self.server.exit_status is not None:
                raise StartError(f"ended with status {self.server.exit_status}: {self.server.last_words()}")
            try:
                status, text = self.ask(chat_body(KIB))
            except (OSError, http.client.HTTPException) as exc:
                problem = f"it does not answer ({type(exc).__name__})"
            else:
                if status == http.HTTPStatus.OK:
                    return
                problem = f"status {status}: {' '.join(text.split())[:160]}"
            time.sleep(POLL_S)
        raise StartError(f"not ready after {command.ready_s:.0f} s: {problem}")

    def ask(self, body: bytes) -> tuple[int, str]:
        """One request outside of any measurement: status and text."""
        headers = dict(line.split(": ", 1) for line in self.command.headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=ANSWER_S)
        try:
            connection.request("POST", self.command.path, body, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def request_bytes(self, body: bytes) -> bytes:
        """A chat request with head and body, as the load client sends it."""
        lines = (
            f"POST {self.command.path} HTTP/1.1", f"host: 127.0.0.1:{self.site.port}", *self.command.headers,
            "content-type: application/json", f"content-length: {len(body)}", "", "",
        )  # fmt: skip
        return "\r\n".join(lines).encode() + body

    def memory(self) -> Memory:
        """Of all its processes."""
        return self.server.memory()

    def restart(self) -> None:
        """A fresh process on the same port: memory figures need one."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Safe to call twice."""
        if self._server is not None:
            self._server.stop()
            self._server = None

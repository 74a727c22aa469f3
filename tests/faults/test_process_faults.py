"""What befalls a whole process: it is killed, it is stopped for a while, and nobody reads what it says."""

from __future__ import annotations

import fcntl
import signal
import socket
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.hostile.conftest import DONE, FIRST_EVENT, recording
from tests.support.http_client import port_of
from tests.support.raw_client import End, post, raw_client, request_head
from tests.support.scripted_upstream import (
    chunk,
    expect_request,
    reached,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
)
from tests.support.shell import BACKENDS, TIMEOUT_S, Shell, get, stop

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
PIPE_BYTES = 64 * 1024
CLOCK_S = 1.5
STOPPED_S = CLOCK_S + 0.5
STALL = post(CHAT, b'{"model":"stall","stream":true}')


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The loop of the upstream and of the client; the proxy has its own."""
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


class TestKilled:
    """P04."""

    async def test_it_listens_again_on_the_same_port(self, shell: Shell, backend: str) -> None:
        """Although connections of the one before are still open."""
        async with recording() as recorder:
            arguments = ["--backend", backend, "--upstream", recorder.url]
            with shell.serving(*arguments) as (url, killed):
                async with raw_client(url) as streaming, raw_client(url) as idle:
                    assert (await idle.ask(request_head("GET", "/livez"))).status == 200
                    await streaming.send(STALL)
                    got = await streaming.begin()
                    await streaming.until(got, FIRST_EVENT)
                    killed.kill()
                    killed.wait(TIMEOUT_S)
                    while got.end is End.OPEN:
                        await streaming.more(got)
                    assert got.end in (End.FIN, End.RESET)
                    with shell.serving(*arguments, "--port", str(port_of(url))) as (again, process):
                        assert again == url
                        async with raw_client(url) as client:
                            assert (await client.ask(post(CHAT, b'{"model":"m"}'))).status == 200
                        assert stop(process, signal.SIGTERM)[0] == 0

    def test_it_listens_again_on_the_same_socket(self, shell: Shell, backend: str) -> None:
        path = shell.cwd / "q.sock"
        arguments = ["--backend", backend, "--host", f"unix:{path}"]
        with shell.serving(*arguments) as (_, killed):
            killed.kill()
            killed.wait(TIMEOUT_S)
        assert path.exists()
        with shell.serving(*arguments) as (_, process):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(request_head("GET", "/livez"))
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert stop(process, signal.SIGTERM)[0] == 0
        assert not path.exists()


class TestStopped:
    """P07: the loop stood still, as under a debugger, in a suspended laptop or on a starved machine."""

    async def test_streams_go_on(self, shell: Shell, backend: str) -> None:
        """The clocks of its streams would have rung meanwhile, and all that was awaited is there."""
        config = shell.cwd / "qproxy.toml"
        config.write_text(f"[timeouts]\nstream_idle_s = {CLOCK_S}\n")
        go_on, sent = anyio.Event(), anyio.Event()
        script = [
            expect_request(),
            send(stream_head() + chunk(FIRST_EVENT)),
            wait_for(go_on),
            send(chunk(FIRST_EVENT) * 2),
            reached(sent),
            send(chunk(DONE) + chunk(b"")),
        ]
        async with scripted_upstream(script) as upstream:
            arguments = ["--backend", backend, "--upstream", upstream.url, "--config", str(config)]
            with shell.serving(*arguments) as (url, process):
                async with raw_client(url) as client:
                    await client.send(post(CHAT, b'{"model":"m","stream":true}'))
                    got = await client.begin()
                    await client.until(got, FIRST_EVENT)
                    process.send_signal(signal.SIGSTOP)
                    go_on.set()
                    await sent.wait()
                    await anyio.sleep(STOPPED_S)
                    process.send_signal(signal.SIGCONT)
                    while got.end is End.OPEN:
                        await client.more(got)
                    assert (got.end, bytes(got.body)) == (End.WHOLE, FIRST_EVENT * 3 + DONE)

    async def test_requests_that_came_meanwhile_are_served(self, shell: Shell, backend: str) -> None:
        config = shell.cwd / "qproxy.toml"
        config.write_text(f"[timeouts]\nhead_s = {CLOCK_S}\nbody_s = {CLOCK_S}\nkeepalive_idle_s = 60\n")
        async with recording() as recorder:
            arguments = ["--backend", backend, "--upstream", recorder.url, "--config", str(config)]
            with shell.serving(*arguments) as (url, process):
                async with raw_client(url) as in_the_head, raw_client(url) as in_the_body, raw_client(url) as new:
                    request = post(CHAT, b'{"model":"m"}')
                    await in_the_head.send(request[:30])
                    await in_the_body.send(request[:-5])
                    assert (await new.ask(request_head("GET", "/livez"))).status == 200
                    process.send_signal(signal.SIGSTOP)
                    await in_the_head.send(request[30:])
                    await in_the_body.send(request[-5:])
                    await new.send(request)
                    await anyio.sleep(STOPPED_S)
                    process.send_signal(signal.SIGCONT)
                    for client in (in_the_head, in_the_body, new):
                        assert (await client.answer()).status == 200


class TestNobodyReads:
    """P08: what it says goes nowhere, and it serves all the same."""

    def asked(self, url: str, times: int) -> None:
        for _ in range(times):
            assert get(f"{url}/livez")

    def test_a_full_disk(self, shell: Shell, backend: str) -> None:
        with shell.serving("--backend", backend, "--access-log", "/dev/full") as (url, process):
            self.asked(url, 5)
            time.sleep(0.6)  # the log is written a few times a second
            self.asked(url, 5)
            assert stop(process, signal.SIGTERM)[0] == 0

    def test_a_folder_that_is_gone(self, shell: Shell, backend: str) -> None:
        log = shell.cwd / "logs" / "access.log"
        with shell.serving("--backend", backend, "--access-log", str(log)) as (url, process):
            self.asked(url, 5)
            time.sleep(0.6)
            self.asked(url, 5)
            assert stop(process, signal.SIGTERM)[0] == 0

    def test_a_full_pipe(self, shell: Shell, backend: str) -> None:
        """A log whose reader has stopped, as `qproxy serve 2>&1 | less` has it."""
        with shell.serving("--backend", backend, "--access-log", "stderr") as (url, process):
            _fill_stderr(process, url)
            self.asked(url, 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0


def _fill_stderr(process: subprocess.Popen[str], url: str) -> None:
    """Ask until the pipe takes no more."""
    assert process.stderr is not None
    before = -1
    while True:
        for _ in range(50):
            get(f"{url}/livez")
        time.sleep(0.3)
        held = struct.unpack("i", fcntl.ioctl(process.stderr, termios.FIONREAD, bytes(4)))[0]
        if held == before and held > PIPE_BYTES // 2:
            return
        before = held

"""What others take for the requests in a client's bytes: h11 alone, and nginx and HAProxy by what they pass on.

async with front_end(NGINX, folder) as url:
    reading = await read_through(url, b"POST / HTTP/1.1\\r\\n...")

The origin answers each request with what it was, so that whoever sends the bytes reads from the answers how they were
divided. What is left out of a front end's answers is what it refused, or still waits for.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import h11
import orjson
import pytest

from bench.rivals.haproxy import PACKAGES as HAPROXY_PACKAGES
from bench.rivals.nginx import PACKAGES as NGINX_PACKAGES
from bench.tools import BUILD
from qproxy.simulator.wire import PeerLeft, Wire, accept_forever, listen
from tests.support.raw_client import RawClient, raw_client
from tests.support.request_reader import read_by_h11, read_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from bench.rivals.packages import DebianPackages

BUILD_VARIABLE = "FRONT_ENDS_BUILD"
REQUIRE_VARIABLE = "FRONT_ENDS_REQUIRED"
READY_S = 20.0
PATIENCE_S = 10.0
ENOUGH = 100
"""Requests in one input: nobody reads more."""

REFUSALS = frozenset({400, 411, 413, 414, 417, 422, 431, 501, 505})
"""Of the bytes. A 405, a 408 or a 502 is no word on how they are divided."""

_ABSOLUTE_FORM = re.compile(r"https?://[^/?]*", re.IGNORECASE)

NGINX_FRAME = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {http}
}}
"""
"""Around what is to stand in its `http` block. Everything that it writes goes into `folder`."""

NGINX_CONFIGURATION = NGINX_FRAME.replace(
    "{http}",
    """
  client_header_timeout {patience_ms}ms;
  client_body_timeout {patience_ms}ms;
  keepalive_timeout {patience_ms}ms;
  lingering_close off;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://127.0.0.1:{origin_port};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_read_timeout {answer_ms}ms;
    }}
  }}""",
)
HAPROXY_CONFIGURATION = """
global
  maxconn 500
defaults
  mode http
  timeout connect 5s
  timeout client {patience_ms}ms
  timeout server {answer_ms}ms
  timeout http-request {patience_ms}ms
  timeout http-keep-alive {patience_ms}ms
frontend client
  bind 127.0.0.1:{port} backlog 1024
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin_port}
"""
SILENCE_MS = 1000
PATIENT_MS = 30_000
"""How long they wait for more bytes, in a head, in a body and between two requests. The second one is for where a slow
machine must not look like a client that says no more."""


class Message(NamedTuple):
    """A request as somebody understood it: origin-form, and the payload."""

    method: str
    target: str
    body: bytes


@dataclass(frozen=True)
class Reading:
    """The whole requests in an input, and whether the rest of it was refused (and why, where that is known)."""

    messages: tuple[Message, ...]
    refusal: str = ""


def read_by_us(data: bytes) -> Reading:
    """By the parser of this package."""
    conversation = read_requests([data])
    messages = [
        Message(request.head.method.decode(), _target(request.head.path, request.head.query), request.body)
        for request in conversation.requests
        if request.is_whole
    ]
    return Reading(tuple(messages), conversation.refusal)


def _target(path: bytes, query: bytes) -> str:
    return (path + b"?" + query if query else path).decode("latin-1")


def read_by_h11_alone(data: bytes) -> Reading:
    messages: list[Message] = []
    while data and len(messages) < ENOUGH:
        request = read_by_h11(data)
        if request is None or request.is_broken:
            return Reading(tuple(messages), "RemoteProtocolError")
        if not request.is_whole:
            break
        messages.append(Message(request.method.decode(), _origin_form(request.target.decode("latin-1")), request.body))
        if request.is_last:
            break
        data = request.rest
    return Reading(tuple(messages))


def _origin_form(target: str) -> str:
    rest = _ABSOLUTE_FORM.sub("", target, count=1) if not target.startswith("/") else target
    return rest if rest.startswith("/") else f"/{rest}"


@dataclass(frozen=True)
class FrontEnd:
    """A reverse proxy of others, from Debian."""

    name: str
    packages: DebianPackages
    configuration: str
    flags: tuple[str, ...]

    @property
    def program(self) -> str | None:
        return self.packages.find(self._prefix())

    def require(self) -> None:
        """Skips the test where it is not installed, or fails it where it is required."""
        if self.program is not None:
            return
        missing = f"NO {self.name.upper()}: install it, or run python -m bench install {self.name}"
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(missing)
        pytest.skip(missing)

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.packages.environment(self._prefix())}

    def _prefix(self) -> Path:
        return Path(os.environ.get(BUILD_VARIABLE) or BUILD) / self.name


NGINX = FrontEnd("nginx", NGINX_PACKAGES, NGINX_CONFIGURATION, ("-p", "{folder}", "-e", "{folder}/error.log", "-c"))
HAPROXY = FrontEnd("haproxy", HAPROXY_PACKAGES, HAPROXY_CONFIGURATION, ("-db", "-q", "-f"))
FRONT_ENDS = {each.name: each for each in (NGINX, HAPROXY)}


async def serve_requests(wire: Wire) -> None:
    """An origin that tells of each request what it was."""
    try:
        connection = h11.Connection(h11.SERVER)
        while connection.our_state is not h11.MUST_CLOSE:
            request, body = await _next_request(connection, wire)
            said = orjson.dumps([request.method.decode(), request.target.decode("latin-1"), body.hex()])
            fields = [("X-Origin", "yes"), ("Content-Length", str(len(said)))]
            head = connection.send(h11.Response(status_code=200, headers=fields))
            await wire.send((head or b"") + said)
            connection.send(h11.Data(data=said))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.DONE:
                connection.start_next_cycle()
    except (PeerLeft, h11.RemoteProtocolError):
        pass
    finally:
        wire.close()


@asynccontextmanager
async def front_end(
    front: FrontEnd,
    folder: Path,
    silence_ms: int = SILENCE_MS,
    *,
    answer_ms: int | None = None,
    serve: Callable[[Wire], Coroutine[object, object, None]] = serve_requests,
) -> AsyncIterator[str]:
    """The URL of a front end with an origin behind it, each connection to which is served by `serve`. It waits for a
    client's bytes for `silence_ms`, and for those of the origin for `answer_ms`."""
    with listen("127.0.0.1", 0, None) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(accept_forever, listener, tasks, serve)
            port = _free_port()
            configuration = front.configuration.format(
                folder=folder,
                port=port,
                origin_port=listener.getsockname()[1],
                patience_ms=silence_ms,
                answer_ms=answer_ms or 8 * silence_ms,
            )
            with _process(front, folder, configuration) as process:
                await _until_ready(port, process)
                yield f"http://127.0.0.1:{port}"
            tasks.cancel_scope.cancel()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _process(front: FrontEnd, folder: Path, configuration: str) -> Iterator[subprocess.Popen[bytes]]:
    path = folder / f"{front.name}.conf"
    path.write_text(configuration, encoding="utf-8")
    argv = [front.program or front.name, *(flag.format(folder=folder) for flag in front.flags), str(path)]
    with subprocess.Popen(argv, env=front.environment()) as process:
        try:
            yield process
        finally:
            process.kill()


async def _until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    with anyio.fail_after(READY_S):
        while True:
            assert process.poll() is None, "it ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await anyio.sleep(0.01)


async def read_through(url: str, data: bytes) -> Reading:
    """What the origin was asked when these bytes came to whatever listens there."""
    messages: list[Message] = []
    refusal = ""
    async with raw_client(url) as client:
        with anyio.fail_after(PATIENCE_S):
            try:
                await client.wire.send(data)
                while not refusal:
                    refusal = await _read_answer(client, messages)
            except PeerLeft:
                pass
    return Reading(tuple(messages), refusal)


async def _read_answer(client: RawClient, messages: list[Message]) -> str:
    """Takes what the origin says of a request; the status where the front end refuses. Raises PeerLeft at the end."""
    answer = await client.answer()
    if answer.header(b"x-origin"):
        method, target, body = orjson.loads(bytes(answer.body))
        messages.append(Message(method, _origin_form(target), bytes.fromhex(body)))
        return ""
    return str(answer.status) if answer.status in REFUSALS else ""


async def _next_request(connection: h11.Connection, wire: Wire) -> tuple[h11.Request, bytes]:
    """Raises PeerLeft, h11.RemoteProtocolError."""
    request: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            await wire.receive_more()
            connection.receive_data(bytes(wire.buffer))
            wire.buffer.clear()
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            return request, body
        else:
            raise PeerLeft

"""Framing by hand against every way to cut it; TLS; the command."""

from __future__ import annotations

import itertools
import signal
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.simulator import Options, running
from qproxy.simulator.request import BadRequest, Head, parse_head, read_body
from qproxy.simulator.speed import LOADS, Load, run
from qproxy.simulator.wire import PeerLeft, Wire
from tests.support.http_client import http_client, port_of, raw_post

if TYPE_CHECKING:
    from pathlib import Path

HEAD = b"POST /v1/x?a=1 HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n"
CHUNKED = parse_head(HEAD % b"Transfer-Encoding: chunked")


def body_of(head: Head, pieces: list[bytes]) -> bytes:
    """What `read_body` makes of pieces that arrive one after the other and are followed by FIN."""

    async def read() -> bytes:
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            wire = Wire(near)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed, far)
                return await read_body(wire, head)
        raise AssertionError("unreachable")

    async def feed(far: socket.socket) -> None:
        for piece in pieces:
            far.sendall(piece)
            await anyio.lowlevel.checkpoint()
        far.shutdown(socket.SHUT_WR)

    try:
        return anyio.run(read)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data cut at these places."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


PLACES = st.lists(st.integers(0, 10_000), max_size=6)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), PLACES)
def test_chunked_bodies_survive_every_cut(chunks: list[bytes], places: list[int]) -> None:
    wire = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    assert body_of(CHUNKED, cut(wire, places)) == b"".join(chunks)


@given(st.binary(max_size=200), PLACES)
def test_counted_bodies_survive_every_cut(body: bytes, places: list[int]) -> None:
    head = parse_head(HEAD % (b"Content-Length: %d" % len(body)))
    assert body_of(head, cut(body + b"next request", places)) == body


@given(st.binary(min_size=1, max_size=200).filter(lambda line: b"\r\n" not in line and line != b"\r"))
def test_chunk_sizes_are_hexadecimal_or_refused(line: bytes) -> None:
    size = line.partition(b";")[0].strip()
    try:
        body = body_of(CHUNKED, [line + b"\r\n", b"\r\n"])
    except BadRequest:
        assert not size or size.strip(b"0123456789abcdefABCDEF") or len(size) > 15 or int(size, 16) <= 2
    except PeerLeft:
        assert int(size, 16) > 0
    else:
        assert (int(size, 16), body) == (0, b"")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        HEAD % b"Content-Length: x",
        HEAD % b"bad header: x",
    ],
)
def test_heads_that_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_head(raw)


def test_a_head_is_kept_whole_and_parsed() -> None:
    raw = HEAD % b"X-Sim-Tokens: 5\r\nAuthorization: bearer  sk-1\r\nConnection: close"
    head = parse_head(raw)
    assert head.raw == raw
    assert (head.method, head.path, head.query, head.bearer) == ("POST", "/v1/x", {"a": "1"}, "sk-1")
    assert (head.sim, head.keep_alive, head.chunked, head.body_bytes) == ({"tokens": "5"}, False, False, 0)
    assert (b"X-Sim-Tokens", b"5") in head.headers


@pytest.mark.anyio
async def test_a_head_that_never_ends_is_refused() -> None:
    async with running() as simulator, await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
        await stream.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate for 127.0.0.1 in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    try:
        subprocess.run([*command.split(), *names], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


@pytest.mark.anyio
async def test_it_speaks_tls(certificate: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    ask = raw_post("/v1/chat/completions", b'{"model":"q","stream":true,"messages":[{"role":"user"}]}')
    async with (
        running(Options(tokens=2000), ssl_context=server) as simulator,
        httpcore.AsyncConnectionPool(ssl_context=client) as pool,
    ):
        body = b'{"model":"q","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 500_000)
        headers = [(b"content-type", b"application/json")]
        url = f"{simulator.base_url}/chat/completions"
        for _ in range(2):
            response = await pool.request("POST", url, headers=headers, content=body)
            assert response.status == 200
        assert simulator.requests[-1].body == body
        tcp = await anyio.connect_tcp("127.0.0.1", port_of(simulator.url), tls=True, ssl_context=client)
        await tcp.send(ask.replace(b"Host: a", b"Host: a\r\nConnection: close"))
        got = b""
        try:
            while True:
                got += await tcp.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        assert got.endswith(b"0\r\n\r\n")
        await anyio.aclose_forcefully(tcp)
        await simulator.until(lambda counters: counters.connections_open == 1)


@pytest.mark.anyio
async def test_a_client_that_is_no_tls_client_is_dropped(certificate: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    async with running(ssl_context=server) as simulator:
        async with await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await simulator.until(lambda counters: counters.connections == 1 and counters.connections_open == 0)
        assert simulator.counters.heads == 0


@pytest.mark.parametrize("backend", ["uvloop", "asyncio", "trio"])
def test_the_command_says_where_it_listens_and_ends_by_signal(backend: str) -> None:
    command = [sys.executable, "-m", "qproxy.simulator", "--backend", backend, "--tokens", "2", "--key", "sk-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("qproxy simulator listening on http://127.0.0.1:")

        async def ask() -> tuple[int, int]:
            async with http_client(line.split()[-1]) as client:
                right = await client.get("/v1/models", authorization="Bearer sk-1")
                return right.status, (await client.get("/v1/models")).status

        assert anyio.run(ask) == (200, 401)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="CPU time comes from /proc")
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_speed_command_measures(load: Load) -> None:
    line = run(load, "asyncio", 0.05)
    assert line.startswith(f"asyncio  {load.name}")
    assert line.endswith("us of CPU each")

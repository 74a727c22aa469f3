"""Limits and clocks of the client's side, and the errors of a server that has no upstream to ask."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.simulator import running
from tests.support.live import settings_for
from tests.support.raw_client import End, chunks, post, raw_client, request_head
from tests.support.scripted_upstream import answer, expect_request, scripted_upstream, send, wait_for

if TYPE_CHECKING:
    from qproxy.simulator import Simulator
    from tests.fidelity.conftest import Configure

pytestmark = pytest.mark.anyio
JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
EMBED = "/v1/embeddings"
LIMIT = 1000
SMALL = f"[limits]\nbody_bytes = {LIMIT}\ninspect_bytes = 100\n"


def body_of(size: int) -> bytes:
    return b'{"model":"m","input":"%b"}' % (b"x" * (size - 24))


@pytest.mark.parametrize(
    ("path", "framing"),
    [
        (EMBED, "length"),
        (EMBED, "chunks"),
        ("/v1/files", "length"),
        ("/v1/files", "chunks"),
    ],
)
async def test_a_body_of_exactly_the_limit_passes(
    configure: Configure, simulator: Simulator, path: str, framing: str
) -> None:
    body = body_of(LIMIT)
    before = simulator.counters.requests
    settings = configure(SMALL, upstream=simulator.base_url)
    async with app.running(settings) as proxy, raw_client(proxy.url) as client:
        if framing == "length":
            await client.send(post(path, body))
        else:
            await client.send(request_head("POST", path, JSON, CHUNKED), *chunks([body[:10], body[10:]]))
        assert (await client.answer()).end is End.WHOLE
        assert (len(body), simulator.counters.requests) == (LIMIT, before + 1)
        assert simulator.requests[-1].body == body


@pytest.mark.parametrize("path", [EMBED, "/v1/files"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_over_the_limit_is_refused(configure: Configure, path: str, framing: str) -> None:
    async with running() as simulator:
        settings = configure(SMALL, upstream=simulator.base_url)
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            body = body_of(LIMIT + 1)
            if framing == "length":
                await client.send(post(path, body)[: -len(body)])
            else:
                await client.send(request_head("POST", path, JSON, CHUNKED), *chunks([body[:500], body[500:]])[:2])
            got = await client.answer()
            assert (got.status, got.error_code, got.end) == (413, "body_too_large", End.WHOLE)
            assert (got.header(b"connection"), got.header(b"x-should-retry")) == (b"close", b"false")
            client.wire.half_close()
            assert await client.closed() == b""
        await simulator.disconnected()
        assert simulator.counters.requests == 0


@pytest.mark.parametrize("path", [EMBED, "/v1/files"])
@pytest.mark.parametrize("case", ["head", "body"])
async def test_a_client_that_falls_silent(configure: Configure, simulator: Simulator, path: str, case: str) -> None:
    settings = configure(f"[timeouts]\n{case}_s = 0.05\n", upstream=simulator.base_url)
    before = simulator.counters.requests
    async with app.running(settings) as proxy, raw_client(proxy.url) as client:
        whole = post(path, body_of(100))
        await client.send(whole[: 30 if case == "head" else -1])
        got = await client.answer()
        assert (got.status, got.error_code, got.end) == (408, f"{case}_timeout", End.WHOLE)
        assert got.header(b"connection") == b"close"
        client.wire.half_close()
        assert await client.closed() == b""
    assert simulator.counters.requests == before


@pytest.mark.parametrize("clock", ["head_s", "keepalive_idle_s"])
async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(configure: Configure, clock: str) -> None:
    settings = configure(f"[timeouts]\n{clock} = 0.05\n")
    async with app.running(settings) as proxy, raw_client(proxy.url) as client:
        if clock == "keepalive_idle_s":
            assert (await client.ask(request_head("GET", "/livez"))).status == 200
        assert await client.closed() == b""


async def test_without_an_upstream(configure: Configure) -> None:
    async with app.running(configure("")) as proxy, raw_client(proxy.url) as client:
        for request in (post(EMBED, body_of(100)), request_head("GET", "/v1/models"), post("/v1/files", b"x")):
            got = await client.ask(request)
            assert (got.status, got.error_code) == (503, "no_upstream")
            assert got.header(b"x-should-retry") == b"false"


async def test_an_upstream_that_refuses(configure: Configure) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with app.running(configure("", upstream=url)) as proxy, raw_client(proxy.url) as client:
            for request in (post(EMBED, body_of(100)), request_head("GET", "/v1/models")):
                got = await client.ask(request)
                assert (got.status, got.error_code) == (502, "upstream_connect_failed")
                assert (got.header(b"x-should-retry"), got.header(b"connection")) == (b"true", b"")


async def test_an_upstream_that_speaks_no_tls() -> None:
    script = [send(b"HTTP/1.1 400 Bad Request\r\n\r\n")]
    async with scripted_upstream(script) as upstream:
        settings = settings_for(upstream.url.replace("http:", "https:"))
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            got = await client.ask(post(EMBED, body_of(100)))
            assert (got.status, got.error_code) == (502, "upstream_tls_failed")
            assert got.header(b"x-should-retry") == b"false"


async def test_an_upstream_whose_connections_are_all_busy(configure: Configure) -> None:
    free = anyio.Event()
    script = [expect_request(), wait_for(free), send(answer(200, [], b"{}"))]
    async with scripted_upstream(script) as upstream:
        toml = f'[timeouts]\npool_wait_s = 0.05\n[upstreams.one]\nurl = "{upstream.url}"\nmax_connections = 1\n'
        async with (
            app.running(configure(toml)) as proxy,
            raw_client(proxy.url) as first,
            raw_client(proxy.url) as second,
        ):
            await first.send(post(EMBED, body_of(100)))
            await upstream.connected()
            got = await second.ask(post(EMBED, body_of(100)))
            assert (got.status, got.error_code) == (503, "overloaded")
            assert (got.header(b"retry-after"), got.header(b"x-should-retry")) == (b"1", b"true")
            free.set()
            assert (await first.answer()).status == 200

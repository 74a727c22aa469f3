"""TLS sessions are resumed: the second connection to an upstream needs no certificate, and who refuses gets a full
handshake."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpcore
import pytest

from qproxy.edge.pool import Pool
from qproxy.edge.tls import KEPT_SESSIONS, TlsSessions
from tests.support.account_stage import until_noticed
from tests.support.certificates import client_context, server_context
from tests.support.leaks import turns
from tests.support.real_pool import pool_to
from tests.support.scripted_upstream import ScriptedUpstream, answer, close, expect_request, scripted_upstream, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

NAME = "127.0.0.1"
LAST = [expect_request(), send(answer(200, [(b"connection", b"close")], b"ok")), close()]
VERSIONS = [
    pytest.param(ssl.TLSVersion.TLSv1_2, id="1.2"),
    pytest.param(ssl.TLSVersion.TLSv1_3, id="1.3"),
]


@asynccontextmanager
async def upstream_of_one_request_each(context: ssl.SSLContext) -> AsyncIterator[ScriptedUpstream]:
    """Every connection serves one request and is closed."""
    async with scripted_upstream(LAST, ssl_context=context) as upstream:
        yield upstream


async def was_resumed(pool: Pool) -> bool:
    """Whether the connection of one more request is an older one's session."""
    request = httpcore.Request("GET", pool.url, headers={"Host": "a"})
    response = await pool.handle_async_request(request)
    tls = response.extensions["network_stream"].get_extra_info("ssl_object")
    assert await response.aread() == b"ok"
    await response.aclose()
    return bool(tls.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_second_connection_resumes_the_first_ones(version: ssl.TLSVersion) -> None:
    async with upstream_of_one_request_each(server_context(NAME, version=version)) as upstream:
        async with pool_to(upstream.url, client_context()) as pool:
            assert [await was_resumed(pool) for _ in range(4)] == [False, True, True, True]
            assert len(upstream.connections) == 4


async def test_one_that_is_refused_costs_a_full_handshake_and_nothing_else() -> None:
    context = client_context()
    async with upstream_of_one_request_each(server_context(NAME)) as first:
        async with pool_to(first.url, context) as pool:
            await was_resumed(pool)
            session = pool.sessions.take()
            assert session is not None
    async with upstream_of_one_request_each(server_context(NAME)) as second, pool_to(second.url, context) as pool:
        pool.sessions._kept.append(session)
        assert [await was_resumed(pool) for _ in range(2)] == [False, True]


async def test_an_upstream_that_offers_none() -> None:
    context = server_context(NAME, version=ssl.TLSVersion.TLSv1_3)
    context.num_tickets = 0
    async with upstream_of_one_request_each(context) as upstream, pool_to(upstream.url, client_context()) as pool:
        assert [await was_resumed(pool) for _ in range(2)] == [False, False]
        assert pool.sessions.take() is None


async def test_few_are_kept_and_each_is_given_once() -> None:
    script = [expect_request(), send(answer(200, body=b"ok"))]
    async with scripted_upstream(script, ssl_context=server_context(NAME)) as upstream:
        async with pool_to(upstream.url, client_context()) as pool:
            response = await pool.handle_async_request(httpcore.Request("GET", pool.url, headers={"Host": "a"}))
            tls = response.extensions["network_stream"].get_extra_info("ssl_object")
            sessions = TlsSessions()
            for _ in range(2 * KEPT_SESSIONS):
                sessions.keep(tls)
            given = [sessions.take() for _ in range(2 * KEPT_SESSIONS)]
            assert sum(session is not None for session in given) == KEPT_SESSIONS
            await response.aclose()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_connection_that_was_opened_ahead_hands_its_session_on(version: ssl.TLSVersion) -> None:
    async with scripted_upstream([], ssl_context=server_context(NAME, version=version)) as upstream:
        async with pool_to(upstream.url, client_context(), warm=1) as pool:
            spares = pool._spares
            assert spares is not None
            await until_noticed(lambda: spares._ready)
            (first,) = spares._ready
            await turns()  # the tickets come behind the handshake
            first.expires = 0.0
            spares._ring()
            await until_noticed(lambda: spares._ready)
            (second,) = spares._ready
            assert second.wire.get_extra_info("ssl_object").session_reused
            assert first.is_closed()

"""Connections to upstreams and to the login's server, for a proxy and for commands that do without one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpcore

from qproxy import __version__
from qproxy.app.background import background
from qproxy.config import Settings
from qproxy.core.device_flow import OAuthClient
from qproxy.core.upstream import BaseUrl
from qproxy.edge.connect import NetworkBackend
from qproxy.edge.login import LoginServer
from qproxy.edge.pool import Pool
from qproxy.edge.runtime import Runtime, current_runtime
from qproxy.edge.token_endpoint import TokenEndpoint

USER_AGENT = f"qproxy/{__version__}"

new_ssl_context = httpcore.default_ssl_context


@contextlib.asynccontextmanager
async def direct_client(settings: Settings, base: BaseUrl) -> AsyncIterator[httpcore.AsyncConnectionPool]:
    """An HTTP client to one upstream, with the proxy's own connections: for checks and comparisons."""
    async with background() as tasks:
        runtime = current_runtime(tasks)
        pool = Pool(
            base,
            runtime,
            NetworkBackend(runtime),
            ssl_context=new_ssl_context() if base.scheme == "https" else None,
            max_connections=10,
            keepalive_s=5.0,
            limits=settings.limits,
        )
        try:
            yield pool
        finally:
            await pool.aclose()


@contextlib.asynccontextmanager
async def login_server(settings: Settings) -> AsyncIterator[LoginServer]:
    """The login's server, for one login outside of a running proxy."""
    async with background() as tasks:
        server = login_server_of(settings, current_runtime(tasks))
        try:
            yield server
        finally:
            await server.aclose()


def login_server_of(settings: Settings, runtime: Runtime) -> LoginServer:
    """Where this proxy logs in."""
    login = settings.login

    def endpoint(url: str) -> TokenEndpoint:
        return TokenEndpoint(
            url,
            runtime,
            limits=settings.limits,
            timeouts=settings.timeouts,
            make_ssl_context=new_ssl_context,
            user_agent=USER_AGENT,
        )

    client = OAuthClient(login.client_id, login.scope, login.client_secret.reveal())
    return LoginServer(client, endpoint(login.device_code_endpoint), endpoint(login.token_endpoint), runtime.now)

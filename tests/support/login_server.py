"""The login's server as the simulator plays it, reached through our own endpoints."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from qproxy.core.device_flow import OAuthClient
from qproxy.core.limits import Limits, Timeouts
from qproxy.edge.login import LoginServer
from qproxy.edge.runtime import current_runtime
from qproxy.edge.token_endpoint import TokenEndpoint
from qproxy.simulator.options import CLIENT_ID
from tests.support.certificates import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

CLIENT = OAuthClient(CLIENT_ID, "openid")
DEVICE_CODES = "/api/v1/oauth2/device/code"
TOKENS = "/api/v1/oauth2/token"


@asynccontextmanager
async def token_endpoint(
    url: str, *, answer_s: float = 20.0, context: ssl.SSLContext | None = None
) -> AsyncIterator[TokenEndpoint]:
    """Trusts the authority of the tests where no other context is given."""
    async with anyio.create_task_group() as tasks:
        endpoint = TokenEndpoint(
            url,
            current_runtime(tasks),
            limits=Limits(),
            timeouts=Timeouts(),
            make_ssl_context=lambda: context or client_context(),
            user_agent="qproxy/test",
            answer_s=answer_s,
        )
        yield endpoint
        await endpoint.aclose()
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def login_server(url: str, client: OAuthClient = CLIENT) -> AsyncIterator[LoginServer]:
    """`url` is the simulator's, without a path."""
    async with token_endpoint(url + DEVICE_CODES) as device_codes, token_endpoint(url + TOKENS) as tokens:
        yield LoginServer(client, device_codes, tokens, time.monotonic)

"""A pool of real connections to one upstream."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from qproxy.core.limits import Limits
from qproxy.core.upstream import BaseUrl
from qproxy.edge.connect import NetworkBackend
from qproxy.edge.pool import Pool
from qproxy.edge.runtime import current_runtime
from tests.support.leaks import nothing_left, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NEVER = 60.0
CONTEXT = ssl.create_default_context()


@asynccontextmanager
async def pool_to(
    url: str, context: ssl.SSLContext = CONTEXT, *, max_connections: int = 10, keepalive_s: float = NEVER, warm: int = 0
) -> AsyncIterator[Pool]:
    """Nothing of it is left behind the block. `warm` connections are opened ahead."""
    async with nothing_left(), anyio.create_task_group() as tasks:
        runtime = current_runtime(tasks)
        pool = Pool(
            BaseUrl.parse(url),
            runtime,
            NetworkBackend(runtime),
            ssl_context=context,
            max_connections=max_connections,
            keepalive_s=keepalive_s,
            limits=Limits(),
        )
        if warm:
            pool.keep_warm(warm, tasks, {})
        try:
            yield pool
        finally:
            await pool.aclose()
            await turns()
            tasks.cancel_scope.cancel()

"""`GET /health` for people and dashboards, `/livez` and `/readyz` for whatever restarts and balances."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from qproxy import __version__
from qproxy.core.local import json_answer
from qproxy.core.route import LocalEndpoint

if TYPE_CHECKING:
    from qproxy.core.local import LocalAnswer, LocalRequest


async def _health(request: LocalRequest) -> LocalAnswer:
    """Always 200: `status` is `ok`, or the code of what keeps new work away."""
    health = request.services.health
    obstacle = health.obstacle()
    return json_answer(
        {
            "status": "ok" if obstacle is None else obstacle.code,
            "version": __version__,
            "upstreams": [asdict(upstream) for upstream in health.upstreams()],
            "uptime_s": round(health.uptime_s(), 3),
        }
    )


async def _livez(request: LocalRequest) -> LocalAnswer:
    """The loop turns: that is all that this says."""
    del request
    return json_answer({"status": "ok"})


async def _readyz(request: LocalRequest) -> LocalAnswer:
    """`degraded` where some upstreams are left alone; requests for others are welcome."""
    health = request.services.health
    obstacle = health.obstacle()
    if obstacle is not None:
        raise obstacle
    failing = health.failing()
    return json_answer({"status": "degraded", "failing": failing} if failing else {"status": "ok"})


HEALTH = LocalEndpoint("health", b"/health", (b"GET",), needs_key=False, answer=_health)
LIVEZ = LocalEndpoint("livez", b"/livez", (b"GET",), needs_key=False, answer=_livez)
READYZ = LocalEndpoint("readyz", b"/readyz", (b"GET",), needs_key=False, answer=_readyz)

"""The life of one request, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.core.admit import is_preflight
from qproxy.core.exchange import Exchange, Phase
from qproxy.core.http1 import RequestHead
from qproxy.core.local import LocalRequest, options_answer
from qproxy.core.route import LocalEndpoint, Route
from qproxy.edge.delivery import deliver
from qproxy.edge.intake import prepare
from qproxy.edge.services import Services

if TYPE_CHECKING:
    from qproxy.edge.connection import Connection


async def serve_exchange(connection: Connection, head: RequestHead, exchange: Exchange, services: Services) -> None:
    """From a request head to a settled answer. Raises QProxyError where it failed, before or after the commit."""
    if is_preflight(head.method, head):
        connection.answer(services.gate.preflight(head), exchange)
        return
    if head.method == b"OPTIONS":
        services.gate.check(head, needs_key=False)
        connection.answer(options_answer(services.routes.allow(head.path)), exchange)
        return
    route = services.routes.match(head.method, head.path)
    if route.endpoint.needs_admin:
        services.gate.check_admin(head, exchange.peer)
    else:
        services.gate.check(head, needs_key=route.endpoint.needs_key)
    exchange.enter(Phase.ADMITTED)
    exchange.endpoint = route.endpoint.name
    if isinstance(route.endpoint, LocalEndpoint):
        await _answer_locally(connection, head, exchange, services, route)
        return
    outgoing = await prepare(connection, head, exchange, services, route)
    exchange.enter(Phase.WAITING)
    answer = await services.attempts.obtain(outgoing, exchange)
    try:
        await deliver(connection, head, exchange, services, route.endpoint, answer.response)
    finally:
        answer.close()


async def _answer_locally(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, route: Route
) -> None:
    assert isinstance(route.endpoint, LocalEndpoint)
    body = b"".join(await connection.receive_body(head)) if head.has_body else b""
    request = LocalRequest(head.method, head.path, route.tail, head.query, services.local, body)
    connection.answer(await route.endpoint.answer(request), exchange)

"""The life of one request, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.core.admit import is_preflight
from qproxy.core.exchange import Exchange, Phase
from qproxy.core.http1 import RequestHead
from qproxy.core.local import LocalRequest, options_answer
from qproxy.core.route import ForwardEndpoint, LocalEndpoint, Route
from qproxy.core.token_ratio import LEAST_PROMPT_TOKENS
from qproxy.edge.admission import Client, Place
from qproxy.edge.delivery import deliver
from qproxy.edge.intake import prepare
from qproxy.edge.keepalive import KeepAlive
from qproxy.edge.services import Services
from qproxy.edge.total import total_clock
from qproxy.edge.upstreams import Outgoing

if TYPE_CHECKING:
    from qproxy.edge.connection import Connection


async def serve_exchange(connection: Connection, head: RequestHead, exchange: Exchange, services: Services) -> None:
    """From a request head to a settled answer. Raises QProxyError where it failed, before or after the commit."""
    if head.method == b"OPTIONS":
        _answer_options(connection, head, exchange, services)
        return
    route = services.routes.match(head.method, head.path)
    client = None
    if route.endpoint.needs_admin:
        services.gate.check_admin(head, exchange.peer)
    else:
        client = services.gate.check(head, needs_key=route.endpoint.needs_key)
    exchange.enter(Phase.ADMITTED)
    exchange.endpoint = route.endpoint.name
    connection.limit_body(head, route.endpoint.most_body_bytes(services.limits))
    if isinstance(route.endpoint, LocalEndpoint):
        await _answer_locally(connection, head, exchange, services, route)
        return
    services.drain.check_open()
    if services.admission is None and not services.timeouts.total_s:
        await _forward(connection, head, exchange, services, route, None)
    else:
        await _forward_within_limits(connection, head, exchange, services, route, client)


async def _forward_within_limits(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, route: Route, client: Client
) -> None:
    assert isinstance(route.endpoint, ForwardEndpoint)
    with total_clock(connection, services.timeouts.total_s, services.runtime):
        if services.admission is None:
            await _forward(connection, head, exchange, services, route, None)
            return
        place = await services.admission.enter(client, head, route.endpoint)
        try:
            await _forward(connection, head, exchange, services, route, place)
        finally:
            place.leave(exchange)


async def _forward(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, route: Route, place: Place | None
) -> None:
    """`place` is None where places are not limited."""
    assert isinstance(route.endpoint, ForwardEndpoint)
    exchange.hides_errors = route.endpoint.hides_errors
    keep_alive = None
    try:
        outgoing = await prepare(connection, head, exchange, services, route)
        exchange.enter(Phase.WAITING)
        keep_alive = _keep_alive(connection, head, exchange, services, outgoing)
        answer = await services.failover.obtain(outgoing, exchange, place)
        try:
            await deliver(connection, head, exchange, services, route.endpoint, answer, keep_alive)
            usage = exchange.usage
            if usage is not None and usage.prompt_tokens >= LEAST_PROMPT_TOKENS and not answer.response.early:
                services.afterwards.learn(answer.outgoing, exchange, usage)
        finally:
            answer.close()
    finally:
        if keep_alive is not None:
            keep_alive.stop()
        if exchange.kept_bytes:
            services.replays.give_back(exchange.kept_bytes)


def _keep_alive(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, outgoing: Outgoing
) -> KeepAlive | None:
    every_s = services.timeouts.keepalive_after_s
    if outgoing.is_plain or head.http_10 or not every_s:
        return None
    return KeepAlive(connection, exchange, services.runtime, every_s)


def _answer_options(connection: Connection, head: RequestHead, exchange: Exchange, services: Services) -> None:
    if is_preflight(head.method, head):
        connection.answer(services.gate.preflight(head), exchange)
        return
    services.gate.check(head, needs_key=False)
    connection.answer(options_answer(services.routes.allow(head.path)), exchange)


async def _answer_locally(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, route: Route
) -> None:
    assert isinstance(route.endpoint, LocalEndpoint)
    body = b"".join(await connection.receive_body(head)) if head.has_body else b""
    request = LocalRequest(head.method, head.path, route.tail, head.query, services.local, body)
    connection.answer(await route.endpoint.answer(request), exchange)

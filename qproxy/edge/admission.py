"""How many requests may be under way at once, and how many a client may send: what of it must wait waits here.

A request takes its place before its body is read, and a place at its upstream once that is known. Both come back when
its exchange ends, however it ends. On a server that limits nothing there is no `Admission` at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import anyio

from qproxy.core.exchange import Exchange
from qproxy.core.http1 import RequestHead
from qproxy.core.limits import Limits
from qproxy.core.line import Line, Standing, Ticket
from qproxy.core.rate import Rate, spent_tokens
from qproxy.core.route import BodyRule, ForwardEndpoint
from qproxy.edge.runtime import Runtime
from qproxy.errors import DownstreamError, InternalError, QProxyError

LONGEST_GUESS_S = 60  # of a wait in line: OpenAI's SDKs give up where they are told of more than 120

Client = int | None
"""Which of the client keys was sent; None where there are none: then all clients count as one."""


def admission_for(
    limits: Limits, queue_wait_s: float, max_per_upstream: Mapping[str, int], runtime: Runtime
) -> Admission | None:
    """None where nothing is limited. `max_per_upstream` has the upstreams that may have so many exchanges at once, and
    no others."""
    places = limits.max_exchanges or limits.max_per_key or max_per_upstream
    rates = limits.requests_per_minute or limits.tokens_per_minute
    return Admission(limits, queue_wait_s, max_per_upstream, runtime) if places or rates else None


class Admission:
    """The limits of one server. `queue_wait_s` is how long a request may wait for its place, and once more for its
    place at the upstream; the rest is as in `admission_for`."""

    def __init__(
        self, limits: Limits, queue_wait_s: float, max_per_upstream: Mapping[str, int], runtime: Runtime
    ) -> None:
        def entrance(places: int, places_per_key: int) -> Entrance:
            line = Line(places=places, places_per_key=places_per_key, size=limits.queue_size)
            return Entrance(line, queue_wait_s, runtime)

        self._entrance = entrance(limits.max_exchanges, limits.max_per_key)
        self._upstream_entrances = {name: entrance(places, 0) for name, places in max_per_upstream.items()}
        self._requests = Rate(limits.requests_per_minute) if limits.requests_per_minute else None
        self._tokens = Rate(limits.tokens_per_minute) if limits.tokens_per_minute else None
        self._long_bytes = limits.long_bytes
        self._now = runtime.now

    async def enter(self, client: Client, head: RequestHead, endpoint: ForwardEndpoint) -> Place:
        """A place for the exchange, which must leave it. Raises DownstreamError `rate_limited`, InternalError
        `overloaded`."""
        self._check_rates(client)
        is_long = self._is_long(head)
        turn = await self._entrance.enter(client, is_long=is_long)
        return Place(self, client, turn, is_long=is_long, has_tokens=endpoint.body is BodyRule.JSON)

    def entrance_of(self, upstream: str) -> Entrance | None:
        """Where places at the upstream are to be had; None where they are not limited."""
        return self._upstream_entrances.get(upstream)

    def charge(self, client: Client, exchange: Exchange) -> None:
        """Count the tokens of an exchange that is over."""
        if self._tokens is not None:
            self._tokens.charge(client, spent_tokens(exchange), self._now())

    def _check_rates(self, client: Client) -> None:
        now_s = self._now()
        if self._tokens is not None:
            _check_rate(self._tokens, client, now_s, "tokens")
        if self._requests is not None:
            _check_rate(self._requests, client, now_s, "requests")
            self._requests.charge(client, 1, now_s)

    def _is_long(self, head: RequestHead) -> bool:
        """By the length that is announced; a body without one may become as long as any."""
        if head.content_length is None:
            return head.has_body
        return head.content_length >= self._long_bytes


class Place:
    """The places of one exchange, from its admission to its end."""

    __slots__ = ("_admission", "_at_upstream", "_client", "_entrance", "_has_tokens", "_is_long", "_turn")

    def __init__(self, admission: Admission, client: Client, turn: Turn, *, is_long: bool, has_tokens: bool) -> None:
        self._admission = admission
        self._client = client
        self._turn = turn
        self._is_long = is_long
        self._has_tokens = has_tokens
        self._entrance: Entrance | None = None
        self._at_upstream: Turn | None = None

    async def reach(self, upstream: str) -> None:
        """Take a place at the upstream; one at another upstream is given back first, so that nobody waits for a place
        with a place that others wait for. Raises InternalError `overloaded`."""
        entrance = self._admission.entrance_of(upstream)
        if entrance is self._entrance:
            return
        self._leave_upstream()
        if entrance is not None:
            self._at_upstream = await entrance.enter(self._client, is_long=self._is_long)
            self._entrance = entrance

    def leave(self, exchange: Exchange) -> None:
        """The exchange is over. To be called once; raises RuntimeError the second time."""
        self._leave_upstream()
        self._turn.give_back()
        if self._has_tokens:
            self._admission.charge(self._client, exchange)

    def _leave_upstream(self) -> None:
        turn, self._at_upstream, self._entrance = self._at_upstream, None, None
        if turn is not None:
            turn.give_back()


class Entrance:
    """A line, in which a turn is waited for `wait_s` at most."""

    def __init__(self, line: Line, wait_s: float, runtime: Runtime) -> None:
        self._line = line
        self._wait_s = wait_s
        self._runtime = runtime

    async def enter(self, client: Client, *, is_long: bool) -> Turn:
        """A place, which must be given back. Raises DownstreamError `rate_limited`, InternalError `overloaded`."""
        ticket = self._line.enter(client, self._runtime.now(), is_long=is_long)
        if ticket.standing is not Standing.INSIDE:
            try:
                await self._wait(ticket)
            except BaseException:
                self.leave(ticket)
                raise
        return Turn(self, ticket)

    def leave(self, ticket: Ticket) -> None:
        self._line.leave(ticket, self._runtime.now())

    async def _wait(self, ticket: Ticket) -> None:
        spot = self._runtime.spot()
        ticket.wake = spot.wake
        with anyio.move_on_after(self._wait_s):
            while ticket.standing is Standing.WAITING:
                await spot.wait()
        if ticket.standing is not Standing.INSIDE:
            raise self._refusal(ticket)

    def _refusal(self, ticket: Ticket) -> QProxyError:
        retry_after_s = min(math.ceil(self._line.expected_wait_s(ticket.key)), LONGEST_GUESS_S)
        if self._line.is_held_up_by_its_own(ticket):
            message = "As many of your requests are under way as may be at once. Wait until one of them has ended."
            return DownstreamError("rate_limited", message, retry_after_s=retry_after_s)
        message = "As many requests are under way as may be at once. Try again shortly."
        return InternalError("overloaded", message, retry_after_s=retry_after_s)


class Turn:
    """A place behind an entrance, until it is given back."""

    __slots__ = ("_entrance", "_ticket")

    def __init__(self, entrance: Entrance, ticket: Ticket) -> None:
        self._entrance = entrance
        self._ticket = ticket

    def give_back(self) -> None:
        self._entrance.leave(self._ticket)


def _check_rate(rate: Rate, client: Client, now_s: float, units: str) -> None:
    wait_s = math.ceil(rate.wait_s(client, now_s))
    if wait_s:
        message = f"The {rate.per_minute} {units} a minute that you may have are used up. Try again in {wait_s} s."
        raise DownstreamError("rate_limited", message, retry_after_s=wait_s)

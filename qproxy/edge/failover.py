"""From upstream to upstream: whatever leads a request to its answer without the client seeing any of it.

Below it `attempts` goes from account to account of one upstream. Here stands what is about the upstream itself: a
connection that could not be made is tried again, an upstream that keeps failing is left alone, and a rule of
`[[fallback]]` leads elsewhere. A request is sent again only where the upstream cannot have begun to work on it, or says
itself that it did not (`faults.md` section 3, resend rule).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import ceil

import anyio

from qproxy.core.breaker import Breaker, State
from qproxy.core.classify import GOOD
from qproxy.core.exchange import Exchange
from qproxy.core.fallback import Fallbacks, Trigger, triggers_of, triggers_of_error
from qproxy.core.models import Choice
from qproxy.edge.admission import Place
from qproxy.edge.attempts import Answer, Attempts
from qproxy.edge.runtime import Runtime
from qproxy.edge.upstreams import Outgoing
from qproxy.errors import InternalError, QProxyError

log = logging.getLogger(__name__)

WAITING_S = 10.0  # decisions.md, Codes and clocks: nothing is tried later than this after the first attempt
PAUSES_S = (0.1, 0.4)  # before a connection is tried a second and a third time
_UNREACHED = frozenset({"upstream_connect_failed", "upstream_dns_failed"})
_FAILURES = _UNREACHED | {"upstream_tls_failed", "first_byte_timeout", "upload_timeout"}


class Failover:
    """Finds the answer to every request."""

    def __init__(self, attempts: Attempts, fallbacks: Fallbacks, upstreams: Iterable[str], runtime: Runtime) -> None:
        self._attempts = attempts
        self._fallbacks = fallbacks
        self._breakers = {upstream: Breaker() for upstream in upstreams}
        self._now = runtime.now

    def failing(self) -> list[str]:
        """The upstreams that failed too often, until one request has got through again."""
        return [upstream for upstream, breaker in self._breakers.items() if breaker.state is not State.CLOSED]

    async def obtain(self, outgoing: Outgoing, exchange: Exchange, place: Place | None) -> Answer:
        """The answer to pass on; it must be closed. `place` is None where places are not limited. Raises
        QProxyError."""
        been: list[tuple[str, str | None]] = []
        pauses_s = list(PAUSES_S)
        deadline = self._now() + WAITING_S
        while True:
            _note_place(outgoing, exchange)
            been.append((outgoing.upstream, exchange.model))
            breaker = self._breakers[outgoing.upstream]
            if place is not None:
                await place.reach(outgoing.upstream)
            try:
                wait_s = breaker.wait_s(self._now())
                if wait_s:
                    raise left_alone(wait_s)
                answer = await self._attempts.obtain(outgoing, exchange)
            except QProxyError as exc:
                self._learn(outgoing.upstream, failed=exc.code in _FAILURES)
                choice = self._elsewhere(outgoing, exchange, triggers_of_error(exc), been, deadline)
                if choice is None:
                    if exc.code not in _UNREACHED or not pauses_s or self._now() > deadline:
                        raise
                    await anyio.sleep(pauses_s.pop(0))
                    continue
            except BaseException:
                breaker.leave()
                raise
            else:
                self._learn(outgoing.upstream, failed=False)
                if answer.outcome is GOOD:
                    return answer
                choice = await self._better_than(answer, outgoing, exchange, been, deadline)
                if choice is None:
                    return answer
                answer.drop()
            assert outgoing.again is not None
            outgoing = await outgoing.again(choice)

    async def _better_than(
        self,
        answer: Answer,
        outgoing: Outgoing,
        exchange: Exchange,
        been: list[tuple[str, str | None]],
        deadline: float,
    ) -> Choice | None:
        """Where a rule leads on from an answer that is not good."""
        if not self._fallbacks.concern(outgoing.upstream, exchange.model):
            return None
        try:
            outcome = answer.outcome or await self._attempts.judge(answer.response)
        except BaseException:
            answer.close()
            raise
        return self._elsewhere(outgoing, exchange, triggers_of(outcome), been, deadline)

    def _elsewhere(
        self,
        outgoing: Outgoing,
        exchange: Exchange,
        triggers: frozenset[Trigger],
        been: list[tuple[str, str | None]],
        deadline: float,
    ) -> Choice | None:
        if not triggers or outgoing.again is None or self._now() > deadline:
            return None
        return self._fallbacks.after(outgoing.upstream, exchange.model, triggers, been)

    def _learn(self, upstream: str, *, failed: bool) -> None:
        breaker = self._breakers[upstream]
        before = breaker.state
        if failed:
            breaker.fail(self._now())
        else:
            breaker.succeed()
        if breaker.state is not before:
            log.warning("upstream %s: its breaker is %s", upstream, breaker.state.value)


def left_alone(wait_s: float) -> InternalError:
    return InternalError(
        "overloaded",
        "The upstream failed too often and is left alone for a moment. Try again shortly.",
        retry_after_s=ceil(wait_s),
    )


def _note_place(outgoing: Outgoing, exchange: Exchange) -> None:
    exchange.upstream = outgoing.upstream
    if outgoing.model is not None:
        exchange.model = outgoing.model
    exchange.request_bytes = outgoing.body_bytes

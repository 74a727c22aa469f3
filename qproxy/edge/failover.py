"""From upstream to upstream: whatever leads a request to its answer without the client seeing any of it.

Below it `attempts` goes from account to account of one upstream. Here stands what is about the upstream itself: a
connection that could not be made is tried again, an upstream that keeps failing is left alone, and a rule of
`[[fallback]]` leads elsewhere. A request is sent again only where the upstream cannot have begun to work on it, or says
itself that it did not (`faults.md` section 3, resend rule).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from qproxy.core.breaker import Breaker, State
from qproxy.core.classify import GOOD
from qproxy.core.exchange import Exchange
from qproxy.core.fallback import Fallbacks, Stop, Trigger, triggers_of, triggers_of_error
from qproxy.core.models import Choice
from qproxy.edge.admission import Place
from qproxy.edge.attempts import Answer, Attempts
from qproxy.edge.runtime import Runtime
from qproxy.edge.upstreams import Outgoing
from qproxy.edge.windows import WindowCheck
from qproxy.errors import QProxyError

log = logging.getLogger(__name__)

WAITING_S = 10.0  # decisions.md, Codes and clocks: nothing is tried later than this after the first attempt
PAUSES_S = (0.1, 0.4)  # before a connection is tried a second and a third time
_UNREACHED = frozenset({"upstream_connect_failed", "upstream_dns_failed"})
_FAILURES = _UNREACHED | {"upstream_tls_failed", "first_byte_timeout", "upload_timeout"}
_ANSWERED = frozenset({"upstream_protocol_error"})


@dataclass(slots=True)
class _Search:
    """A request that has not found its answer at once. Times are on the loop's clock."""

    deadline: float
    been: list[Stop] = field(default_factory=list)
    pauses: int = 0

    def arrive(self, stop: Stop) -> None:
        """Another stop, with pauses of its own."""
        if not self.been or stop != self.been[-1]:
            self.been.append(stop)
            self.pauses = 0


class Failover:
    """Finds the answer to every request. `breakers` has one for every upstream. Without a `window_check` prompts are
    sent however long they are."""

    def __init__(
        self,
        attempts: Attempts,
        fallbacks: Fallbacks,
        breakers: Mapping[str, Breaker],
        runtime: Runtime,
        window_check: WindowCheck | None,
    ) -> None:
        self._attempts = attempts
        self._fallbacks = fallbacks
        self._breakers = breakers
        self._now = runtime.now
        self._window_check = window_check

    def failing(self) -> dict[str, float]:
        """The upstreams that failed too often, until one request has got through again; with the seconds until the
        next one may try."""
        now = self._now()
        return {
            upstream: breaker.wait_s(now)
            for upstream, breaker in self._breakers.items()
            if breaker.state is not State.CLOSED
        }

    async def obtain(self, outgoing: Outgoing, exchange: Exchange, place: Place | None) -> Answer:
        """The answer to pass on; it must be closed. `place` is None where places are not limited. Raises
        QProxyError."""
        search: _Search | None = None
        began = 0.0
        while True:
            _note_place(outgoing, exchange)
            breaker = self._breakers[outgoing.upstream]
            following: Outgoing | None
            try:
                if self._window_check is not None:
                    await self._window_check.check(outgoing)
                if place is not None:
                    await place.reach(outgoing.upstream)
                began = began or self._now()
                if breaker.state is State.CLOSED:
                    answer = await self._attempts.obtain(outgoing, exchange)
                else:
                    answer = await self._probe(breaker, outgoing, exchange)
            except QProxyError as exc:
                search = search or _Search((began or self._now()) + WAITING_S)
                search.arrive((outgoing.upstream, exchange.model))
                following = await self._after_error(exc, outgoing, search)
                if following is None:
                    raise
            else:
                if breaker.succeed():
                    log.warning("upstream %s: it answers again", outgoing.upstream)
                if answer.outcome is GOOD:
                    return answer
                search = search or _Search(began + WAITING_S)
                search.arrive((outgoing.upstream, exchange.model))
                following = await self._after_answer(answer, outgoing, search)
                if following is None:
                    return answer
            outgoing = following

    async def _probe(self, breaker: Breaker, outgoing: Outgoing, exchange: Exchange) -> Answer:
        """Find out whether an upstream that was left alone answers again. Raises LeftAlone where it is too early."""
        breaker.probe(self._now())
        try:
            return await self._attempts.obtain(outgoing, exchange)
        except BaseException as exc:
            if not (isinstance(exc, QProxyError) and exc.code in _FAILURES | _ANSWERED):
                breaker.leave()
            raise

    async def _after_error(self, error: QProxyError, outgoing: Outgoing, search: _Search) -> Outgoing | None:
        """What to send next, where nothing was sent; None where the error is the client's to see."""
        choice = self._elsewhere(triggers_of_error(error), outgoing, search)
        if choice is None and error.code in _UNREACHED and self._may_pause(outgoing.upstream, search):
            await anyio.sleep(PAUSES_S[search.pauses - 1])
            return outgoing
        self._learn_from(error, outgoing.upstream)
        return None if choice is None else await _moved(outgoing, choice)

    async def _after_answer(self, answer: Answer, outgoing: Outgoing, search: _Search) -> Outgoing | None:
        """The same where the answer is an error, which is dropped unless it is the client's to see."""
        if not self._fallbacks.concern(search.been):
            return None
        try:
            outcome = answer.outcome or await self._attempts.judge(answer.response)
        except BaseException:
            answer.close()
            raise
        choice = self._elsewhere(triggers_of(outcome), outgoing, search)
        if choice is None:
            return None
        answer.drop()
        return await _moved(outgoing, choice)

    def _elsewhere(self, triggers: frozenset[Trigger], outgoing: Outgoing, search: _Search) -> Choice | None:
        """Where a rule leads; None where none does."""
        if not triggers or outgoing.again is None or self._now() > search.deadline:
            return None
        return self._fallbacks.after(search.been, triggers, within=outgoing.upstream if outgoing.is_pinned else None)

    def _may_pause(self, upstream: str, search: _Search) -> bool:
        """Whether a connection may be tried again; a probe is one try and no more."""
        if search.pauses >= len(PAUSES_S) or self._breakers[upstream].state is not State.CLOSED:
            return False
        search.pauses += 1
        return self._now() + PAUSES_S[search.pauses - 1] <= search.deadline

    def _learn_from(self, error: QProxyError, upstream: str) -> None:
        """Tell the breaker what the error says of the upstream, if anything."""
        breaker, now = self._breakers[upstream], self._now()
        if error.code in _ANSWERED:
            breaker.succeed()
        elif error.code in _FAILURES and breaker.fail(now):
            log.warning("upstream %s: left alone for %g s (%s)", upstream, breaker.wait_s(now), error.code)


async def _moved(outgoing: Outgoing, choice: Choice) -> Outgoing:
    """The same request for another place. Raises DownstreamError where its body is unfit for that."""
    assert outgoing.again is not None
    following = await outgoing.again(choice)
    following.is_pinned = outgoing.is_pinned
    return following


def _note_place(outgoing: Outgoing, exchange: Exchange) -> None:
    exchange.upstream = outgoing.upstream
    if outgoing.model is not None:
        exchange.model = outgoing.model
    exchange.request_bytes = outgoing.body_bytes

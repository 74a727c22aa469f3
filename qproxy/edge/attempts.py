"""The attempts of one request: the only loop in its life, and nothing of it is visible to the client.

An account is leased, its credential taken, the request sent, the answer's head read. A good answer ends the loop. Of
another one the beginning of the body is read, without taking it from the connection, and judged; where another account
may do better, and there is one, the answer is dropped and the same bytes go there. What ends the loop is an answer to
pass on, or an error to answer with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qproxy.core.account import Lease, Wish
from qproxy.core.classify import GOOD, Outcome, classify
from qproxy.core.exchange import Attempt, Exchange
from qproxy.core.retry import Step, next_step
from qproxy.core.upstream import Credential
from qproxy.edge.accounts import Accounts, Cuttable
from qproxy.edge.http11 import LiveBody, UpstreamResponse
from qproxy.edge.upstreams import Outgoing, Upstreams
from qproxy.errors import AccountError

MAX_ATTEMPTS = 3  # decisions.md, Codes and clocks
ERROR_BYTES = 16 * 1024  # of an error's body: enough to know what it says
ERROR_WAIT_S = 2.0  # for an error's body, when its head has come


class Answer:
    """An answer that is to be passed on, and the lease of the account that gives it. It must be closed."""

    __slots__ = ("_others", "lease", "response")

    def __init__(self, response: UpstreamResponse, lease: Lease, others: set[Cuttable]) -> None:
        """It is one of the answers of its account, `others`, until it is closed."""
        self.response = response
        self.lease = lease
        self._others = others
        others.add(self)

    def cut(self) -> None:
        """Break it off, as if the upstream had."""
        self.response.cut()

    def close(self) -> None:
        self._others.discard(self)
        try:
            self.response.close()
        finally:
            self.lease.give_back()


class Attempts:
    """Makes the attempts of all requests. `wall_clock` gives Unix time in seconds."""

    def __init__(self, accounts: Accounts, upstreams: Upstreams, wall_clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._upstreams = upstreams
        self._wall_clock = wall_clock

    async def obtain(self, outgoing: Outgoing, exchange: Exchange) -> Answer:
        """The answer to pass on. Raises QProxyError."""
        lease = self._accounts.lease(outgoing.upstream, outgoing.wish)
        effort = _Effort(self._accounts, self._upstreams, self._wall_clock, outgoing, exchange, lease)
        try:
            response = await effort.run()
        except BaseException:
            effort.give_up()
            raise
        return Answer(response, effort.lease, self._accounts.answers_of(effort.lease))

    async def list_models(self, upstream: str) -> bytes:
        """The body of the upstream's `GET /models`, with any of its accounts. Raises QProxyError."""
        with self._accounts.lease(upstream, Wish()) as lease:
            credential = await self._accounts.credential(lease)
            return await self._upstreams.list_models(upstream, credential)


class _Effort:
    """What is done for one request. It holds one lease at a time, and an open response while that is judged."""

    def __init__(
        self,
        accounts: Accounts,
        upstreams: Upstreams,
        wall_clock: Callable[[], float],
        outgoing: Outgoing,
        exchange: Exchange,
        lease: Lease,
    ) -> None:
        self.lease = lease
        self._accounts = accounts
        self._upstreams = upstreams
        self._wall_clock = wall_clock
        self._outgoing = outgoing
        self._exchange = exchange
        self._response: UpstreamResponse | None = None
        self._refreshed = False

    async def run(self) -> UpstreamResponse:
        credential: Credential | None = None
        while True:
            if credential is None:
                credential = self._accounts.at_hand(self.lease) or await self._credential()
            response = self._response = await self._upstreams.send(self._outgoing, credential, self._attempt())
            outcome = GOOD if response.status < 400 else await self._judge(response)
            self._accounts.note(self.lease, outcome)
            step = self._step(outcome)
            if step is Step.COMMIT:
                return response
            if step is Step.REFRESH:
                credential = await self._renewed(credential)
            elif self._rotate(step):
                credential = None
            else:
                return response
            await self._prepare_again(response)

    def give_up(self) -> None:
        try:
            if self._response is not None:
                self._response.close()
        finally:
            self.lease.give_back()

    def _attempt(self) -> Attempt:
        exchange = self._exchange
        exchange.account = self.lease.account_id
        exchange.attempts += 1
        attempt = exchange.attempt = Attempt(self._outgoing.upstream)
        return attempt

    async def _judge(self, response: UpstreamResponse) -> Outcome:
        if not self._accounts.judge(self._outgoing.upstream):
            return GOOD
        body = await response.peek(ERROR_BYTES, ERROR_WAIT_S)
        return classify(response.status, response.headers, body, self._wall_clock())

    def _step(self, outcome: Outcome) -> Step:
        if outcome is GOOD or self._exchange.attempts == MAX_ATTEMPTS or not self._outgoing.is_repeatable:
            return Step.COMMIT
        return next_step(outcome, self._accounts.kind(self.lease), refreshed=self._refreshed)

    async def _credential(self) -> Credential:
        """That of the leased account, or of the next one that has any. Raises AccountError."""
        while True:
            try:
                return await self._accounts.credential(self.lease)
            except AccountError as exc:
                self._move_on(exc)

    async def _renewed(self, refused: Credential) -> Credential | None:
        """A newer credential of the same account; None: on to the next account. Raises AccountError."""
        self._refreshed = True
        try:
            return await self._accounts.renewed(self.lease, refused)
        except AccountError as exc:
            self._move_on(exc)
            return None

    def _move_on(self, problem: AccountError) -> None:
        """The leased account has no credential: lease the next one, or raise the problem where there is none to try."""
        if self._is_alone():
            raise problem
        self._take_next()

    def _rotate(self, step: Step) -> bool:
        """Lease another account. False where there is none, and the answer says best why. Raises AccountError where all
        of them are out."""
        if step is Step.CLOSE_ACCOUNT:
            self._accounts.close(self.lease)
        elif self._is_alone():
            return False
        try:
            self._take_next()
        except AccountError:
            if step is Step.ELSEWHERE:
                return False
            raise
        return True

    def _is_alone(self) -> bool:
        return self._outgoing.wish.account is not None or not self._accounts.rotate(self._outgoing.upstream)

    def _take_next(self) -> None:
        wish = self._outgoing.wish
        wish.tried = {*wish.tried, self.lease.account_id}
        following = self._accounts.lease(self._outgoing.upstream, wish)
        self.lease.give_back()
        self.lease = following

    async def _prepare_again(self, response: UpstreamResponse) -> None:
        """Drop the answer and have the whole body ready."""
        self._response = None
        response.drop()
        outgoing = self._outgoing
        if isinstance(outgoing.body, LiveBody):
            assert outgoing.whole is not None
            self._outgoing = replace(outgoing, body=await outgoing.whole())

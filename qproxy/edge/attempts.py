"""The attempts of one request: the only loop in its life, and nothing of it is visible to the client.

An account is leased, its credential taken, the request sent, the answer's head read. A good answer ends the loop. Of
another one the beginning of the body is read, without taking it from the connection, and judged; where another account
may do better, and there is one, the answer is dropped and the same bytes go there. What ends the loop is an answer to
pass on, or an error to answer with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio

from qproxy.core.account import AccountKind, Lease, Wish
from qproxy.core.classify import GOOD, Outcome, classify, hidden_error
from qproxy.core.exchange import Attempt, Exchange
from qproxy.core.fallback import SERVER_ERRORS
from qproxy.core.retry import Renewed, Step, next_step
from qproxy.core.sse import first_event, has_event, says_nothing
from qproxy.core.token_state import token_refused
from qproxy.core.upstream import Credential
from qproxy.edge.accounts import TROUBLE, Accounts, Cuttable
from qproxy.edge.http11 import LiveBody, UpstreamResponse, never
from qproxy.edge.upstreams import Outgoing, Upstreams
from qproxy.errors import AccountError, InternalError

MAX_ATTEMPTS = 3  # decisions.md, Codes and clocks
PEEK_BYTES = 16 * 1024  # of a 200: decisions.md, Answers
ERROR_BYTES = 16 * 1024  # of an error's body: enough to know what it says
ERROR_WAIT_S = 2.0  # for an error's body, when its head has come
SHOWN = (Step.ROTATE, Step.ELSEWHERE)  # what led there may be shown to the client, where nothing else can be done
TOKEN_WAIT_S = 8.0  # for renewals, of whichever accounts (decisions.md, Tokens for accounts)


class Answer:
    """An answer that is to be passed on, and the lease of the account that gives it. It must be closed.

    `outcome` is None where nobody has looked into an error yet. `hidden`: the first event, or the body, of a 200 that
    is an error. `outgoing` is what it answers.
    """

    __slots__ = ("_others", "hidden", "lease", "outcome", "outgoing", "response")

    def __init__(
        self,
        response: UpstreamResponse,
        lease: Lease,
        others: set[Cuttable],
        outcome: Outcome | None,
        hidden: bytes | None,
        outgoing: Outgoing,
    ) -> None:
        """It is one of the answers of its account, `others`, until it is closed."""
        self.response = response
        self.lease = lease
        self.outcome = outcome
        self.hidden = hidden
        self.outgoing = outgoing
        self._others = others
        others.add(self)

    def cut(self) -> None:
        """Break it off, as if the upstream had."""
        self.response.cut()

    def drop(self) -> None:
        """Close it without passing anything on."""
        self._end(self.response.drop)

    def close(self) -> None:
        self._end(self.response.close)

    def _end(self, end: Callable[[], None]) -> None:
        self._others.discard(self)
        try:
            end()
        finally:
            self.lease.give_back()


class Attempts:
    """Makes the attempts of all requests. `wall_clock` gives Unix time in seconds; a stream's first event is waited for
    `peek_s`. `retry_on_5xx`: as the setting says."""

    def __init__(
        self,
        accounts: Accounts,
        upstreams: Upstreams,
        wall_clock: Callable[[], float],
        peek_s: float,
        *,
        retry_on_5xx: bool,
    ) -> None:
        self._accounts = accounts
        self._upstreams = upstreams
        self._wall_clock = wall_clock
        self._peek_s = peek_s
        self.repeatable = SERVER_ERRORS if retry_on_5xx else frozenset()

    def obtain(self, outgoing: Outgoing, exchange: Exchange) -> Coroutine[Any, Any, Answer]:
        """The answer to pass on. Raises QProxyError."""
        return _Effort(self, self._accounts, self._upstreams, outgoing, exchange).answer()

    async def judge(self, response: UpstreamResponse) -> Outcome:
        """What an answer means that is an error. Raises UpstreamError."""
        body = await response.peek(ERROR_BYTES, ERROR_WAIT_S)
        return classify(response.status, response.headers, body, self._wall_clock())

    async def first_look(self, response: UpstreamResponse) -> tuple[Outcome, bytes | None]:
        """What a 200 means, and the payload that says so where it is an error. It takes no time where the first event
        is here already. Raises UpstreamError, also for an answer that ends without having said anything."""
        head = response.head
        is_stream = head.is_stream
        if not is_stream and head.content_type and b"json" not in head.content_type and head.content_length != 0:
            return GOOD, None
        payload = await response.peek(PEEK_BYTES, self._peek_s, has_event if is_stream else never)
        if not payload or (is_stream and says_nothing(payload)):
            response.check_more_comes()
        if is_stream:
            payload = first_event(payload) or payload
        outcome = hidden_error(payload)
        return (GOOD, None) if outcome is None else (outcome, payload)

    async def list_models(self, upstream: str) -> bytes:
        """The body of the upstream's `GET /models`, with any of its accounts. Raises QProxyError."""
        with self._accounts.lease(upstream, Wish(needs_place=False)) as lease:
            credential = await self._accounts.credential(lease)
            return await self._upstreams.list_models(upstream, credential)


class _Effort:
    """What is done for one request. It holds one lease at a time, and an open response while that is judged."""

    def __init__(
        self,
        attempts: Attempts,
        accounts: Accounts,
        upstreams: Upstreams,
        outgoing: Outgoing,
        exchange: Exchange,
    ) -> None:
        self._lease: Lease
        self._outcome: Outcome | None = None
        self._hidden: bytes | None = None
        self._attempts = attempts
        self._accounts = accounts
        self._upstreams = upstreams
        self._outgoing = outgoing
        self._exchange = exchange
        self._response: UpstreamResponse | None = None
        self._has_repeated = False  # after an error of which nobody knows whether work was done
        self._renewed = ""  # the account whose token this request has waited for
        self._patient_until_s = 0.0  # on the loop's clock; set with the first wait for a token

    async def answer(self) -> Answer:
        """The answer to pass on. Raises QProxyError."""
        self._lease = self._accounts.lease(self._outgoing.upstream, self._outgoing.wish)
        credential: Credential | None = None
        try:
            while True:
                if credential is None:
                    credential = self._accounts.at_hand(self._lease) or await self._credential()
                response = self._response = await self._upstreams.send(self._outgoing, credential, self._attempt())
                outcome = self._glance(response) or await self._look(response)
                if outcome is None:
                    return self._passed_on(response)
                self._accounts.note(self._lease, outcome)
                step = Step.COMMIT if outcome is GOOD else self._next_step(outcome)
                if step is Step.COMMIT:
                    return self._passed_on(response)
                if step is Step.RENEW:
                    credential = await self._renew(credential)
                elif self._leave(step):
                    credential = None
                else:
                    return self._passed_on(response)
                await self._prepare_again(response)
        except BaseException:
            self._give_up()
            raise

    def _passed_on(self, response: UpstreamResponse) -> Answer:
        """It takes the lease with it."""
        others = self._accounts.answers_of(self._lease)
        return Answer(response, self._lease, others, self._outcome, self._hidden, self._outgoing)

    def _give_up(self) -> None:
        try:
            if self._response is not None:
                self._response.drop()
        finally:
            self._lease.give_back()

    def _attempt(self) -> Attempt:
        exchange = self._exchange
        exchange.account = self._lease.account_id
        exchange.attempts += 1
        attempt = exchange.attempt = Attempt(self._outgoing.upstream)
        return attempt

    def _glance(self, response: UpstreamResponse) -> Outcome | None:
        """GOOD where that can be seen without waiting, as in nearly every answer."""
        if response.status != 200:
            return None
        if self._exchange.hides_errors:
            payload = response.at_hand()
            if not payload or hidden_error(payload) is not None:
                return None
        self._outcome = GOOD
        return GOOD

    async def _look(self, response: UpstreamResponse) -> Outcome | None:
        """What the answer means; None where it does not matter here: a lone key's errors just pass."""
        self._outcome = self._hidden = None
        if response.status == 200:
            self._outcome, self._hidden = await self._attempts.first_look(response)
        elif response.status < 400:
            self._outcome = GOOD
        elif self._accounts.judge(self._outgoing.upstream):
            self._outcome = await self._attempts.judge(response)
        return self._outcome

    # --- credentials

    async def _credential(self) -> Credential:
        """That of the leased account, or of the next one that has any. Raises AccountError."""
        while True:
            problem = _renewing()
            try:
                if not self._renewed:
                    credential = await self._patiently(partial(self._accounts.credential, self._lease))
                    self._renewed = self._lease.account_id
                    return credential
            except AccountError as exc:
                problem = exc
            try:
                self._move_on(problem)
            finally:
                del problem  # an error must not be held by a frame of its own traceback: both would hold the body
            at_hand = self._accounts.at_hand(self._lease)
            if at_hand is not None:
                return at_hand

    async def _renew(self, refused: Credential) -> Credential | None:
        """A newer credential of the same account; None: on to the next account. Raises AccountError."""
        self._renewed = self._lease.account_id
        try:
            return await self._patiently(partial(self._accounts.renewed, self._lease, refused))
        except AccountError as exc:
            self._move_on(exc)
            return None

    async def _patiently(self, renewal: Callable[[], Awaitable[Credential]]) -> Credential:
        """What comes of it. Raises AccountError; also where the time for all renewals of this request is over, and then
        nothing is begun."""
        now_s = anyio.current_time()
        self._patient_until_s = self._patient_until_s or now_s + TOKEN_WAIT_S
        if now_s < self._patient_until_s:
            with anyio.move_on_after(self._patient_until_s - now_s):
                return await renewal()
        raise _renewing()

    def _whose_renewed(self) -> Renewed:
        if not self._renewed:
            return Renewed.NONE
        return Renewed.THIS if self._renewed == self._lease.account_id else Renewed.ANOTHERS

    # --- from account to account

    def _next_step(self, outcome: Outcome) -> Step:
        step = next_step(outcome, self._lease.kind, self._whose_renewed())
        if step is Step.COMMIT and outcome.status in self._attempts.repeatable and not self._has_repeated:
            self._has_repeated = True
            return Step.ELSEWHERE
        return step

    def _move_on(self, problem: AccountError) -> None:
        """The leased account has no credential: lease the next one. Raises AccountError where there is none: `problem`,
        unless that is one of those which the book has counted."""
        try:
            if self._is_alone():
                raise problem
            try:
                self._change_to(self._next_lease())
            except AccountError:
                if problem.code == TROUBLE:
                    raise
                raise problem from None
        finally:
            del problem  # as in `_credential`

    def _leave(self, step: Step) -> bool:
        """Lease another account. False where the answer at hand is the best there is to say. Raises AccountError where
        it is not, and all accounts are out; InternalError `overloaded` where the others are busy."""
        if step is Step.CLOSE_ACCOUNT:
            self._accounts.close(self._lease)
        is_about_login = step not in SHOWN and self._lease.kind is AccountKind.OAUTH
        if self._is_alone() and not is_about_login:
            return False
        try:
            following = self._next_lease()
        except (AccountError, InternalError):  # all are out, or all that are not are busy
            if step is Step.ELSEWHERE:
                return False
            if step is Step.PASS_OVER:
                raise token_refused() from None
            raise
        if step in SHOWN and not self._may_repeat():
            following.give_back()
            return False
        self._change_to(following)
        return True

    def _is_alone(self) -> bool:
        return self._outgoing.wish.account is not None or not self._accounts.rotate(self._outgoing.upstream)

    def _may_repeat(self) -> bool:
        return self._exchange.attempts < MAX_ATTEMPTS and self._outgoing.is_repeatable

    def _next_lease(self) -> Lease:
        wish = self._outgoing.wish
        wish.tried = {*wish.tried, self._lease.account_id}
        return self._accounts.lease(self._outgoing.upstream, wish)

    def _change_to(self, following: Lease) -> None:
        self._lease.give_back()
        self._lease = following

    async def _prepare_again(self, response: UpstreamResponse) -> None:
        """Drop the answer and have the whole body ready. Raises AccountError where the request cannot be repeated."""
        self._response = None
        response.drop()
        if not self._may_repeat():
            raise _send_again()
        outgoing = self._outgoing
        if isinstance(outgoing.body, LiveBody):
            assert outgoing.whole is not None
            outgoing.body = await outgoing.whole()  # for whoever sends it next as well


def _renewing() -> AccountError:
    return AccountError("credentials_unavailable", "A login is being renewed. Try again shortly.", retry_after_s=5)


def _send_again() -> AccountError:
    message = "The upstream refused an account, which is renewed or left out from now on. Send the request again."
    return AccountError("credentials_unavailable", message, retry_after_s=1)

"""The keeper of one login's token: a request gets it at once while it is good, and waits for one shared renewal when it
is not. Accounts in use are renewed ahead of time, beside the requests.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.to_thread

from qproxy.core.oauth import EXPIRY_MARGIN_MS, login_command
from qproxy.core.ports import TokenPoster
from qproxy.core.token_state import Standing, TokenState, TokenView, token_refused
from qproxy.core.upstream import Credential
from qproxy.edge.kept_login import KeptLogin, LoginClock
from qproxy.edge.login_store import LoginStore
from qproxy.edge.token_renewal import Renewal, RenewalSettings

REPEAT_S = 3600.0
MAX_REMEMBERED = 100
NEEDS_LOGIN = (Standing.NOT_LOGGED_IN, Standing.LOGIN_NEEDED)


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """How a token is kept.

    No token is used within `refresh_buffer_ms` of its end without an attempt to renew it. A request waits `wait_s` for
    a renewal. The store is looked at every `look_s` while requests come, and every `tend_s` else. A token that we got
    less than `young_s` ago and that the API refuses is not renewed: a newer one would fare no better. An account that
    nobody used for `idle_s`, nor since it was renewed, is left alone.
    """

    renewal: RenewalSettings
    refresh_buffer_ms: int = EXPIRY_MARGIN_MS
    wait_s: float = 8.0
    look_s: float = 1.0
    tend_s: float = 5.0
    young_s: float = 30.0
    idle_s: float = 3600.0


class TokenKeeper:
    """One account's login. Renewals run in `tasks`, the server's own: no request that leaves takes one with it.

    `wall_clock` gives Unix time and `monotonic` a clock that nobody sets, both in seconds; `chance` gives numbers from
    0 to 1; `report` takes lines for the operator, each once until it changes.
    """

    def __init__(
        self,
        account: str,
        store: LoginStore,
        poster: TokenPoster,
        tasks: anyio.abc.TaskGroup,
        settings: KeeperSettings,
        *,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.account = account
        self._store = store
        self._tasks = tasks
        self._settings = settings
        self._clock = LoginClock(wall_clock, monotonic)
        self._state = TokenState(settings.refresh_buffer_ms / 1000)
        renewal = settings.renewal
        say = _Reporter(account, monotonic, report).say
        self._login = KeptLogin(store, self._state, self._clock, renewal.allowed_hosts, chance, say)
        self._renewal = Renewal(self._login, self._state, store.lock, poster, self._clock, renewal, say)
        self._flight: anyio.Event | None = None
        self._looked_at_s = self._used_at_s = -math.inf
        self._life = anyio.CancelScope()

    def current(self) -> Credential:
        """The token with its address, without waiting. Raises AccountError where there is none to be had at once, and
        begins nothing then: whoever asks may have another account."""
        credential = self._at_hand()
        if credential is None:
            raise self._state.error(self._clock.now_s(), self._clock.monotonic_s())
        return credential

    async def fresh(self) -> Credential:
        """The token with its address; waits for a renewal where that is needed. Raises AccountError."""
        credential = self._at_hand()
        return credential if credential is not None else await self._renewed()

    async def refused(self, credential: Credential) -> Credential:
        """Another credential than this one, to which the API said 401.

        Raises AccountError where there is none: `no_healthy_account` where a renewal would not help, which includes a
        token that is new, `credentials_unavailable` where it may help later.
        """
        if credential == self._state.credential:
            if self._is_young():
                raise token_refused()
            self._state.refuse()
        fresh = await self.fresh()
        if fresh == credential:
            raise token_refused()
        return fresh

    def state(self) -> str:
        """`valid 52 min`, `expired`, `not logged in`, `unusable` and the reason, `login needed` and the command."""
        return self.view().summary

    def since_s(self) -> float:
        """Since when the present token is here, in Unix seconds; 0.0 where there is none."""
        self._login.look()
        return self._login.taken_at_s

    def needs_login(self) -> bool:
        """Whether only a person who logs in can help."""
        return self._state.standing_at(self._clock.now_s()) in NEEDS_LOGIN

    def view(self) -> TokenView:
        """The login as people see it."""
        self._login.look()
        now_s, state = self._clock.now_s(), self._state
        return TokenView(
            standing=state.standing_at(now_s),
            summary=state.summary(now_s, login_command(self.account)),
            source=self._store.source,
            expires_s=state.expires_s if state.credential is not None and state.expires_s > 0 else None,
            last_refresh_s=state.issued_s,
            volatile=state.token is not None and self._login.is_volatile,
            problem="; ".join(text for text in (state.problem(), self._login.problem) if text),
        )

    async def run(self) -> None:
        """Renew ahead of time, save what could not be saved; until `stop` or until cancelled."""
        with self._life:
            await anyio.to_thread.run_sync(self._store.sweep)
            while True:
                await anyio.sleep(self._settings.tend_s)
                self._login.look()
                if self._login.may_save() or (self._is_in_use() and self._renewal.has_work()):
                    self._launch()

    def stop(self) -> None:
        """The account is gone: nothing is renewed for it any more unless somebody asks."""
        self._life.cancel()

    async def land(self) -> None:
        """Renew nothing ahead of time any more; returns when the renewal that is under way has ended."""
        self.stop()
        while self._flight is not None:
            await self._flight.wait()

    def abandon(self) -> None:
        """From here on the end of the server interrupts a renewal, and may cost the login."""
        self._renewal.abandon()

    def _at_hand(self) -> Credential | None:
        """What can be used without waiting. Begins a renewal beside it where it is time for one."""
        state = self._state
        now_s = self._clock.now_s()
        if not 0 <= now_s - self._looked_at_s < self._settings.look_s:
            self._looked_at_s = now_s
            self._login.look()
        self._used_at_s = now_s
        if now_s < state.due_s:
            return state.credential
        monotonic_s = self._clock.monotonic_s()
        credential = state.credential_at(now_s, monotonic_s)
        if credential is not None and state.wants_renewal(now_s, monotonic_s):
            self._launch()
        return credential

    async def _renewed(self) -> Credential:
        with anyio.move_on_after(self._settings.wait_s):
            while (flight := self._begun()) is not None:
                await flight.wait()
                credential = self._at_hand()
                if credential is not None:
                    return credential
        now_s = self._clock.now_s()
        credential = self._state.last_resort(now_s)
        if credential is None:
            raise self._state.error(now_s, self._clock.monotonic_s())
        return credential

    def _begun(self) -> anyio.Event | None:
        """The end of the renewal that is under way; begins one where it is time for it."""
        if self._state.wants_renewal(self._clock.now_s(), self._clock.monotonic_s()):
            self._launch()
        return self._flight

    def _launch(self) -> None:
        if self._flight is None:
            self._flight = anyio.Event()
            self._tasks.start_soon(self._fly, self._flight)

    async def _fly(self, landed: anyio.Event) -> None:
        try:
            await self._renewal.put_in_order()
        finally:
            self._flight = None
            landed.set()

    def _is_young(self) -> bool:
        renewed_at_s = self._renewal.renewed_at_s
        return renewed_at_s is not None and self._clock.monotonic_s() - renewed_at_s < self._settings.young_s

    def _is_in_use(self) -> bool:
        since_s = self._clock.now_s() - self._used_at_s
        return since_s < self._settings.idle_s or self._used_at_s > (self._state.issued_s or 0.0)


class _Reporter:
    """Says each thing once an hour at most."""

    def __init__(self, account: str, monotonic: Callable[[], float], report: Callable[[str], None]) -> None:
        self._account = account
        self._monotonic = monotonic
        self._report = report
        self._said_at_s: dict[str, float] = {}

    def say(self, text: str) -> None:
        now_s = self._monotonic()
        if not text or now_s - self._said_at_s.get(text, -math.inf) < REPEAT_S:
            return
        if len(self._said_at_s) >= MAX_REMEMBERED:
            self._said_at_s.clear()
        self._said_at_s[text] = now_s
        self._report(f"account {self._account}: {text}")

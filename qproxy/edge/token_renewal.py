"""The renewal of one login: under its lock, from the newest tokens, with one POST, saved before it is used.

A refresh token works once. So the file is read again under the lock, what another process has renewed is used as it is,
and an answer is never abandoned half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from qproxy.core.device_flow import OAuthClient
from qproxy.core.oauth import OAuthToken, base_from_resource_url, token_of
from qproxy.core.ports import TokenPoster
from qproxy.core.token_answer import Denial, Grant, Refusal, TokenReply, login_document, read_answer, refresh_form
from qproxy.core.token_state import TokenState
from qproxy.edge.kept_login import KeptLogin, LoginClock
from qproxy.edge.token_lock import FIRST_WAIT_S, TokenLock, waits
from qproxy.errors import UpstreamError


@dataclass(frozen=True, slots=True)
class RenewalSettings:
    """How logins are renewed.

    `allowed_hosts` may get a token beyond the built-in list. `post_s` is the limit of the one POST, which is long
    because a lost answer is a lost login. `lock_wait_s` is longer than a lock lives that somebody left behind.
    """

    client: OAuthClient
    allowed_hosts: tuple[str, ...] = ()
    post_s: float = 30.0
    lock_wait_s: float = 45.0
    lock_first_wait_s: float = FIRST_WAIT_S
    lock_renewal_s: float = 2.0


class Renewal:
    """Renews one login. One task at a time calls `put_in_order`. `lock`: None where no other process can take part."""

    def __init__(
        self,
        login: KeptLogin,
        state: TokenState,
        lock: Path | None,
        poster: TokenPoster,
        clock: LoginClock,
        settings: RenewalSettings,
        report: Callable[[str], None],
    ) -> None:
        self.renewed_at_s: float | None = None  # on the monotonic clock: when the server last gave us tokens
        self._login = login
        self._state = state
        self._lock = TokenLock(lock, clock.wall_s, clock.monotonic_s) if lock is not None else None
        self._poster = poster
        self._clock = clock
        self._settings = settings
        self._report = report
        self._shield = anyio.CancelScope(shield=True)

    def abandon(self) -> None:
        """Let a cancellation interrupt the work that is under way."""
        self._shield.shield = False

    def has_work(self) -> bool:
        """Whether `put_in_order` would do something now."""
        return self._login.may_save() or self._is_due()

    async def put_in_order(self) -> None:
        """Save what is not saved, renew what is due. Afterwards the state says how it went."""
        try:
            if await self._take_lock():
                await anyio.lowlevel.checkpoint_if_cancelled()
                # What the server gives must not be lost by shutting down.
                with anyio.CancelScope(shield=True) as self._shield:
                    await self._work_under_lock()
        finally:
            if self._lock is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._lock.release)

    def _is_due(self) -> bool:
        return self._state.wants_renewal(self._clock.now_s(), self._clock.monotonic_s())

    async def _take_lock(self) -> bool:
        """Whether to go on, as the holder of the lock. Meanwhile somebody else may do what there is to do."""
        if self._lock is None:
            return True
        give_up_s = self._clock.monotonic_s() + self._settings.lock_wait_s
        for wait_s in waits(self._settings.lock_first_wait_s):
            try:
                if await anyio.to_thread.run_sync(self._lock.take):
                    return True
            except OSError:
                return True  # where we can make no lock, waiting for one helps nobody
            await self._login.look_again()
            if not self.has_work():
                return False
            if self._clock.monotonic_s() >= give_up_s:
                break
            await anyio.sleep(wait_s)
        self._fail("another process does not let go of the login's lock")
        return False

    async def _work_under_lock(self) -> None:
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._keep_lock)
            await self._save_and_renew()
            beside.cancel_scope.cancel()

    async def _keep_lock(self) -> None:
        while self._lock is not None:
            await anyio.sleep(self._settings.lock_renewal_s)
            await anyio.to_thread.run_sync(self._lock.renew)

    async def _save_and_renew(self) -> None:
        await self._login.look_again()
        await self._login.save_again()
        token = self._state.token
        if token is not None and self._is_due():
            await self._renew(token)

    async def _renew(self, token: OAuthToken) -> None:
        reply = await self._post(token)
        if reply is None:
            return
        self._clock.correct(reply.date_s)
        answer = read_answer(reply)
        if isinstance(answer, Refusal):
            await self._take_refusal(answer, token)
        else:
            await self._take_grant(answer, token)

    async def _post(self, token: OAuthToken) -> TokenReply | None:
        form = refresh_form(self._settings.client.fields(), token.refresh_token or "")
        with anyio.move_on_after(self._settings.post_s):
            try:
                return await self._poster.post(form)
            except UpstreamError as exc:
                self._fail(f"no answer from the login server ({exc.code})")
                return None
        self._fail(f"no answer from the login server within {self._settings.post_s:g} s")
        return None

    async def _take_refusal(self, refusal: Refusal, token: OAuthToken) -> None:
        """A refusal is final unless the file has other tokens by now: then ours had been spent by somebody else."""
        if refusal.denial is Denial.PASSING:
            self._fail(refusal.reason)
            return
        await self._login.look_again()
        present = self._state.token
        if present is None or present.refresh_token == token.refresh_token:
            self._state.deny(refusal.reason)
            self._report(f"the login has ended: {refusal.reason}")
        elif self._is_due():
            self._fail("another process replaced the login by one that has expired")

    async def _take_grant(self, grant: Grant, token: OAuthToken) -> None:
        """Whatever is wrong with the answer, its tokens are saved: those before them are worth nothing any more."""
        misled = self._misled_by(grant, token)
        usable = replace(grant, resource_url=None) if misled else grant
        document = login_document(usable, self._clock.now_s(), token.document)
        renewed = token_of(document, self._settings.allowed_hosts)
        self.renewed_at_s = self._clock.monotonic_s()
        await self._login.save(renewed, token.access_token)
        if misled and self._state.token == renewed:
            self._state.mislead(misled)
            self._report(f"the login is out of use: {misled}")

    def _misled_by(self, grant: Grant, token: OAuthToken) -> str:
        """Why the new token must not be sent where the answer says; empty where it may."""
        if grant.resource_url is None:
            return ""
        try:
            base = base_from_resource_url(grant.resource_url, self._settings.allowed_hosts)
        except ValueError as exc:
            return f"in the answer to a renewal, {exc}"
        # Plain http to this machine is for whoever wrote the file to allow, not for an answer.
        if base.scheme != "https" and base != token.base:
            return "in the answer to a renewal, resource_url is not https"
        return ""

    def _fail(self, reason: str) -> None:
        self._state.fail(reason, self._clock.monotonic_s())
        self._report(f"the login could not be renewed: {reason}")

"""The logins that were begun through the admin endpoints: they are polled for here, so that whoever asks how one stands
is answered at once, and so that neither its code nor its verifier leaves the server."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio.abc
import anyio.to_thread

from qproxy.core.device_flow import LoginState, Progress
from qproxy.core.local import LoginStanding, OpenLogin
from qproxy.edge.login import LoginServer, PendingLogin, new_login
from qproxy.edge.token_file import reason_of
from qproxy.errors import DownstreamError, QProxyError

log = logging.getLogger(__name__)

MAX_OPEN = 8
KEPT_S = 600.0  # after its end, for whoever asks late
HANDLE_BYTES = 24
UNKNOWN = LoginStanding(LoginState.EXPIRED.value, 0.0)

Save = Callable[[str, Mapping[str, object]], None]


@dataclass(slots=True)
class _Login:
    """One login; `ended_s` is None while it is open."""

    account: str
    pending: PendingLogin
    state: LoginState = LoginState.PENDING
    ended_s: float | None = None


class LoginDesk:
    """`save` puts the document of an account's new login in its place, in a worker thread; it may raise OSError.

    Logins are driven in `tasks`, the server's own. `clock` only goes forward, in seconds.
    """

    def __init__(
        self,
        server: LoginServer,
        save: Save,
        tasks: anyio.abc.TaskGroup,
        *,
        allowed_hosts: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
        max_open: int = MAX_OPEN,
        kept_s: float = KEPT_S,
    ) -> None:
        self._server = server
        self._save = save
        self._tasks = tasks
        self._allowed_hosts = allowed_hosts
        self._clock = clock
        self._max_open = max_open
        self._kept_s = kept_s
        self._logins: dict[str, _Login] = {}
        self._open = 0

    async def begin(self, account: str) -> OpenLogin:
        """Raises DownstreamError `rate_limited` where too many are open, and UpstreamError."""
        self._forget_old()
        if self._open >= self._max_open:
            message = f"{self._max_open} logins are waiting for approval already. Finish one, or wait for it to expire."
            raise DownstreamError("rate_limited", message, retry_after_s=60)
        self._open += 1
        try:
            pending = await self._server.begin()
        except BaseException:
            self._open -= 1
            raise
        handle = secrets.token_urlsafe(HANDLE_BYTES)
        login = self._logins[handle] = _Login(account, pending)
        self._tasks.start_soon(self._drive, login)
        code = pending.code
        return OpenLogin(handle, code.bare_page, code.page, code.user_code, code.expires_in_s, code.interval_s)

    def standing(self, handle: str) -> LoginStanding:
        """A handle that is not known has expired."""
        login = self._logins.get(handle)
        if login is None:
            return UNKNOWN
        return LoginStanding(login.state.value, login.pending.interval_s if login.state.is_open else 0.0)

    async def _drive(self, login: _Login) -> None:
        def note(progress: Progress) -> None:
            login.state = progress.state

        try:
            progress = await login.pending.finish(note)
            login.state = await self._concluded(login.account, progress)
        finally:
            login.ended_s = self._clock()
            self._open -= 1

    async def _concluded(self, account: str, progress: Progress) -> LoginState:
        """The state after the tokens, where there are any, were saved."""
        if progress.reply is None:
            if progress.note:
                log.warning("A login failed. %s", progress.note)
            return progress.state
        try:
            document = new_login(progress.reply, time.time(), self._allowed_hosts)
            with anyio.CancelScope(shield=True):  # the code is spent: what came for it must be kept
                await anyio.to_thread.run_sync(self._save, account, document)
        except QProxyError as exc:
            log.warning("A login failed. %s", exc.message)
        except OSError as exc:
            log.warning("A login could not be saved: %s.", reason_of(exc))
        else:
            return LoginState.DONE
        return LoginState.FAILED

    def _forget_old(self) -> None:
        now_s = self._clock()
        kept = {handle: login for handle, login in self._logins.items() if not self._is_old(login, now_s)}
        self._logins = kept

    def _is_old(self, login: _Login, now_s: float) -> bool:
        return login.ended_s is not None and now_s - login.ended_s > self._kept_s

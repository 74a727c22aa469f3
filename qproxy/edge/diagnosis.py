"""How the logins are, for the administrator, without a secret and without a name; and whether one call gets through."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from qproxy.core.account import Wish
from qproxy.core.causes import Cause
from qproxy.core.classify import classify
from qproxy.core.exchange import Attempt
from qproxy.core.http1 import RequestHead
from qproxy.core.local import AuthTest, TokenReport
from qproxy.core.models import NO_UPSTREAM
from qproxy.edge.accounts import Accounts
from qproxy.edge.http11 import KnownBody
from qproxy.edge.tokens import TokenKeeper
from qproxy.edge.upstreams import Outgoing, Upstreams
from qproxy.errors import QProxyError

ERROR_BYTES = 16 * 1024
ERROR_WAIT_S = 2.0


class AccountDiagnosis:
    """`keepers` gives those of all logins by account. The call goes to `upstream` with `model`, with any account;
    `upstream` is None where there is none, `model` empty where none is known: then the list of models is asked for.
    `hint` says what people get wrong with this upstream."""

    def __init__(
        self,
        keepers: Callable[[], Mapping[str, TokenKeeper]],
        accounts: Accounts,
        upstreams: Upstreams,
        *,
        upstream: str | None,
        model: str,
        hint: str,
    ) -> None:
        self._keepers = keepers
        self._accounts = accounts
        self._upstreams = upstreams
        self._upstream = upstream
        self._model = model
        self._hint = hint

    def tokens(self) -> Sequence[TokenReport]:
        """Every login, in the order in which they came."""
        return [_report(account, keeper) for account, keeper in self._keepers().items()]

    async def test(self) -> AuthTest:
        """The shortest answer that costs anything: one token."""
        if self._upstream is None:
            return AuthTest(False, None, 0.0, NO_UPSTREAM)
        started_s = time.perf_counter()
        try:
            status, hint = await self._call(self._upstream)
        except QProxyError as exc:
            return AuthTest(False, None, _ms_since(started_s), exc.message)
        return AuthTest(status < 400, status, _ms_since(started_s), hint)

    async def _call(self, upstream: str) -> tuple[int, str]:
        """The status, and what it means where it is an error. Raises QProxyError."""
        with self._accounts.lease(upstream, Wish(self._model)) as lease:
            credential = await self._accounts.credential(lease)
            response = await self._upstreams.send(self._request(upstream), credential, Attempt(upstream))
            try:
                if response.status < 400:
                    return response.status, ""
                body = await response.peek(ERROR_BYTES, ERROR_WAIT_S)
            finally:
                response.close()
        cause = classify(response.status, response.headers, body, time.time()).cause
        said = f"{response.status}: {cause.value}."
        return response.status, f"{said} {self._hint}".rstrip() if cause in _ABOUT_KEYS else said

    def _request(self, upstream: str) -> Outgoing:
        wish = Wish(self._model)
        if not self._model:
            head = RequestHead(b"GET", b"/v1/models", b"", http_10=False)
            return Outgoing(upstream, None, b"/models", head, None, True, True, 0, wish)
        head = RequestHead(b"POST", b"/v1/chat/completions", b"", http_10=False)
        head.passed = [(b"Content-Type", b"application/json")]
        messages = [{"role": "user", "content": "Hi"}]
        body = KnownBody([orjson.dumps({"model": self._model, "messages": messages, "max_tokens": 1})])
        return Outgoing(upstream, self._model, b"/chat/completions", head, body, True, True, body.size, wish)


_ABOUT_KEYS = (Cause.AUTH, Cause.ENTITLEMENT, Cause.QUOTA, Cause.BILLING)


def _report(account: str, keeper: TokenKeeper) -> TokenReport:
    view = keeper.view()
    source = "file" if Path(view.source).is_absolute() else "setting"
    return TokenReport(masked(account), source, view.standing.value, _utc(view.expires_s), _utc(view.last_refresh_s))


def masked(account: str) -> str:
    """Enough to tell one's own accounts apart."""
    return f"{account[:1]}…{account[-1:]}"


def _utc(time_s: float | None) -> str | None:
    if time_s is None:
        return None
    try:
        return datetime.fromtimestamp(int(time_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 3)

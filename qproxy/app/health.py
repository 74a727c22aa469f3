"""How the server is, for the endpoints that say so."""

from __future__ import annotations

from collections.abc import Sequence

from qproxy.core.local import UpstreamHealth
from qproxy.core.models import NO_UPSTREAM
from qproxy.core.upstream import Upstream
from qproxy.edge.accounts import Accounts
from qproxy.edge.drain import Drain
from qproxy.edge.runtime import Runtime
from qproxy.errors import InternalError, QProxyError


class Health:
    """How the server is, from what is configured and how the accounts are."""

    def __init__(self, upstreams: Sequence[Upstream], accounts: Accounts, drain: Drain, runtime: Runtime) -> None:
        self._upstreams = upstreams
        self._accounts = accounts
        self._drain = drain
        self._now = runtime.now
        self._started = runtime.now()

    def uptime_s(self) -> float:
        return self._now() - self._started

    def upstreams(self) -> Sequence[UpstreamHealth]:
        return [UpstreamHealth(each.name, each.kind, self._accounts.state(each.name)) for each in self._upstreams]

    def obstacle(self) -> QProxyError | None:
        return self._drain.obstacle() or (None if self._upstreams else InternalError("no_upstream", NO_UPSTREAM))

"""How the server is, for the endpoints that say so."""

from __future__ import annotations

from collections.abc import Sequence

from qproxy.core.breaker import LeftAlone
from qproxy.core.local import UpstreamHealth
from qproxy.core.models import NO_UPSTREAM
from qproxy.core.upstream import Upstream
from qproxy.edge.accounts import Accounts
from qproxy.edge.drain import Drain
from qproxy.edge.failover import Failover
from qproxy.edge.runtime import Runtime
from qproxy.errors import InternalError, QProxyError


class Health:
    """How the server is, from what is configured, how the accounts are and which upstreams answer."""

    def __init__(
        self, upstreams: Sequence[Upstream], accounts: Accounts, failover: Failover, drain: Drain, runtime: Runtime
    ) -> None:
        self._upstreams = upstreams
        self._accounts = accounts
        self._failover = failover
        self._drain = drain
        self._now = runtime.now
        self._started = runtime.now()

    def uptime_s(self) -> float:
        return self._now() - self._started

    def upstreams(self) -> Sequence[UpstreamHealth]:
        return [UpstreamHealth(each.name, each.kind, self._accounts.state(each.name)) for each in self._upstreams]

    def failing(self) -> Sequence[str]:
        return tuple(self._failover.failing())

    def obstacle(self) -> QProxyError | None:
        draining = self._drain.obstacle()
        if draining is not None:
            return draining
        if not self._upstreams:
            return InternalError("no_upstream", NO_UPSTREAM)
        failing = self._failover.failing()
        soonest_s = min(failing.values(), default=0.0) if len(failing) == len(self._upstreams) else 0.0
        return LeftAlone(soonest_s) if soonest_s else None

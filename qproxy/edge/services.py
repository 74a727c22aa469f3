"""What every connection of one server shares; `qproxy/app/assembly.py` fills it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qproxy.core.admit import Gate
from qproxy.core.exchange import ExchangeRecord
from qproxy.core.known_heads import KnownHeads
from qproxy.core.limits import Limits, Timeouts
from qproxy.core.local import LocalServices
from qproxy.core.models import ModelRouter
from qproxy.core.route import RouteTable
from qproxy.edge.accounts import Accounts
from qproxy.edge.activity import Activity
from qproxy.edge.admission import Admission
from qproxy.edge.drain import Drain
from qproxy.edge.failover import Failover
from qproxy.edge.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Services:
    """Fixed while the server runs. Without an `admission` nothing is limited. `record` takes every settled exchange and
    must not wait."""

    runtime: Runtime
    limits: Limits
    timeouts: Timeouts
    heads: KnownHeads
    routes: RouteTable
    gate: Gate
    admission: Admission | None
    models: ModelRouter
    accounts: Accounts
    failover: Failover
    local: LocalServices
    activity: Activity
    drain: Drain
    record: Callable[[ExchangeRecord], None]
    new_request_id: Callable[[], bytes]
    include_usage: bool

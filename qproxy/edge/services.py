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
from qproxy.core.replay import ReplayBudget
from qproxy.core.route import RouteTable
from qproxy.core.windows import WindowTable
from qproxy.edge.accounts import Accounts
from qproxy.edge.activity import Activity
from qproxy.edge.admission import Admission
from qproxy.edge.afterwards import Afterwards
from qproxy.edge.drain import Drain
from qproxy.edge.failover import Failover
from qproxy.edge.runtime import Runtime
from qproxy.edge.windows import LimitAnswers


@dataclass(frozen=True, slots=True)
class Services:
    """Fixed while the server runs. Without an `admission` nothing is limited. `record` takes every settled exchange and
    must not wait. `output_caps` is None where no request's `max_tokens` is lowered. The upstreams in `cache_marked` get
    cache markers."""

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
    replays: ReplayBudget
    limit_answers: LimitAnswers
    output_caps: WindowTable | None
    cache_marked: frozenset[str]
    afterwards: Afterwards
    local: LocalServices
    activity: Activity
    drain: Drain
    record: Callable[[ExchangeRecord], None]
    new_request_id: Callable[[], bytes]
    include_usage: bool

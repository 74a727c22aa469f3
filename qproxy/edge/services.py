"""What every connection of one server shares; `app.py` fills it once."""

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
from qproxy.edge.attempts import Attempts
from qproxy.edge.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Services:
    """Fixed while the server runs. `record` takes every settled exchange and must not wait."""

    runtime: Runtime
    limits: Limits
    timeouts: Timeouts
    heads: KnownHeads
    routes: RouteTable
    gate: Gate
    models: ModelRouter
    accounts: Accounts
    attempts: Attempts
    local: LocalServices
    record: Callable[[ExchangeRecord], None]
    new_request_id: Callable[[], bytes]
    include_usage: bool

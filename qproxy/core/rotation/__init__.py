"""The rotation policies by name. A new one is a file and a line in `POLICIES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from qproxy.core.rotation.fill_first import FillFirst
from qproxy.core.rotation.least_in_flight import LeastInFlight
from qproxy.core.rotation.policy import Policy
from qproxy.core.rotation.round_robin import RoundRobin
from qproxy.core.rotation.sticky import Sticky

DEFAULT_POLICY = "sticky"

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {"sticky": Sticky, "round_robin": RoundRobin, "least_in_flight": LeastInFlight, "fill_first": FillFirst}
)
"""Each call makes the policy of one upstream."""

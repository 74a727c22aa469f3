"""The table of scenarios."""

from __future__ import annotations

from bench.scenarios.base import Scenario
from bench.scenarios.t1_small import SmallRequests
from bench.scenarios.t2_latency import AddedLatency
from bench.scenarios.t3_flat_out import FlatOut
from bench.scenarios.t4_paced import Paced
from bench.scenarios.t5_memory import MemoryUse
from bench.scenarios.t6_held import HeldStreams
from bench.scenarios.t7_churn import Churn
from bench.scenarios.t8_watching import Watching
from bench.scenarios.t9_link import LongLink

_ALL: tuple[Scenario, ...] = (
    SmallRequests(), AddedLatency(), FlatOut(), Paced(), MemoryUse(), HeldStreams(), Churn(), Watching(), LongLink(),
)  # fmt: skip
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}

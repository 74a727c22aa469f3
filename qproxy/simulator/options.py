"""What a simulator is told at its start, and what one request can change of it with `x-sim-*` headers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CLIENT_ID = "f0304373b74a44d2b584a3fb70ca9e56"
MODELS = (
    "qwen3.8-max",
    "qwen3.8-flash",
    "qwen3.7-max",
    "qwen3.7-plus",
    "qwen3-coder-plus",
    "qwen3-coder-flash",
    "qwen3-max",
    "qwen3-max-thinking",
    "qwen3-vl-plus",
    "qwen-plus",
    "coder-model",
    "text-embedding-v3",
    "text-embedding-v4",
    "qwen3-rerank",
)


@dataclass(frozen=True, slots=True)
class Options:
    """The simulator's settings.

    `keys`: the API keys that are let in; empty lets everyone in. `models`: the list that `GET /models` shows; requests
    may name any model. `tokens`: how many an answer has. `reasoning_tokens`: how many precede them where thinking is
    on. `tokens_per_s`: the pace of streams, 0 is flat out. `prefill_s_per_mb`: the wait before the head of an answer,
    for each 1,000,000 bytes of the request's body. `fault_after`: how many events of a stream precede what a scenario
    does in its middle. `record`: how many requests `Simulator.requests` keeps.

    OAuth: `client_id` is the only one that may log in; tokens live for `token_lifetime_s`, device codes for
    `device_lifetime_s`, `poll_interval_s` is what the device answer asks for; `resource_url` is part of token answers
    unless it is empty. `clock_skew_s` is added to the Date header.
    """

    keys: frozenset[str] = field(default=frozenset(), repr=False)
    models: tuple[str, ...] = MODELS
    tokens: int = 16
    reasoning_tokens: int = 4
    tokens_per_s: float = 0.0
    prefill_s_per_mb: float = 0.0
    fault_after: int = 3
    record: int = 1000
    client_id: str = CLIENT_ID
    token_lifetime_s: int = 3600
    device_lifetime_s: float = 600
    poll_interval_s: float = 2
    resource_url: str = ""
    clock_skew_s: int = 0

    def changed_by(self, sim: Mapping[str, str]) -> Options:
        """With the `x-sim-*` headers of one request applied, named here without that prefix.

        Raises ValueError where a number is none.
        """
        if not sim:
            return self
        return replace(
            self,
            tokens=int(sim.get("tokens", self.tokens)),
            reasoning_tokens=int(sim.get("reasoning-tokens", self.reasoning_tokens)),
            tokens_per_s=float(sim.get("pace", self.tokens_per_s)),
            fault_after=int(sim.get("fault-after", self.fault_after)),
            prefill_s_per_mb=float(sim.get("prefill", self.prefill_s_per_mb)),
        )

"""Counts that are estimates, corrected by what the upstreams count for the same prompts."""

from __future__ import annotations

from qproxy.core.local import TokenCounting
from qproxy.core.token_ratio import TokenRatios
from qproxy.core.tokens import Counted, Shape


class LearnedCounts:
    """Exact counts stay as they are."""

    def __init__(self, counter: TokenCounting, ratios: TokenRatios) -> None:
        self._counter = counter
        self._ratios = ratios

    async def count(
        self, body: bytes, shape: Shape, model: str | None = None, *, may_want_ids: bool = False
    ) -> Counted:
        """As `TokenCounter.count`."""
        counted = await self._counter.count(body, shape, model, may_want_ids=may_want_ids)
        return corrected(counted, None if counted.is_exact else self._ratios.tokens_per_count(counted.model))


def corrected(counted: Counted, tokens_per_count: float | None) -> Counted:
    """The estimate that was learned; None: nothing was."""
    return counted if tokens_per_count is None else counted._replace(tokens=round(counted.tokens * tokens_per_count))

"""What is known of prompts, from the places where it was learned, for the endpoint that shows it."""

from __future__ import annotations

from collections.abc import Sequence

from qproxy.core.local import CacheReport, LimitReport, RatioReport
from qproxy.core.prompt_cache import CacheShares
from qproxy.core.token_ratio import TokenRatios
from qproxy.core.windows import WindowTable
from qproxy.edge.diagnosis import masked


class Prompts:
    """For the administrator; names of accounts are masked all the same."""

    def __init__(self, ratios: TokenRatios, windows: WindowTable, shares: CacheShares) -> None:
        self._ratios = ratios
        self._windows = windows
        self._shares = shares

    def ratios(self) -> Sequence[RatioReport]:
        """The model that was heard of last comes first."""
        return [
            RatioReport(
                row.model, round(row.bytes_per_token, 3), row.requests, round(row.tokens_per_count, 4), row.counts
            )
            for row in reversed(self._ratios.rows())
        ]

    def limits(self) -> Sequence[LimitReport]:
        return [LimitReport(*place, *limits) for place, limits in self._windows.learned().items()]

    def cache(self) -> Sequence[CacheReport]:
        return [
            CacheReport(
                key.upstream,
                masked(key.account),
                key.model,
                share.requests,
                share.prompt_tokens,
                share.cached_tokens,
                round(share.cached_tokens / max(1, share.prompt_tokens), 4),
            )
            for key, share in self._shares.rows().items()
        ]

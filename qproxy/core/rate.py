"""So many a minute for each of several keys, held by GCRA (ITU-T I.371, annex A): one number a key, and no window at
whose border twice as much could pass.

The whole allowance of a minute may be used at once; it comes back evenly. What something costs may be told later than
that it was let in, and may be more than was left: the debt is worked off before the next one is let in.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qproxy.core.exchange import Exchange

MINUTE_S = 60.0
REQUEST_BYTES_PER_TOKEN = 4
ANSWER_BYTES_PER_TOKEN = 256
"""Answers that state no usage are streams, whose events are 200 to 300 bytes for a token or a few."""


class Rate:
    """`per_minute` units for each key, at least 1. Keys are few and known, and not forgotten."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._interval_s = MINUTE_S / per_minute
        self._whole_at_s: dict[Hashable, float] = {}  # when the allowance is whole again

    def wait_s(self, key: Hashable, now_s: float) -> float:
        """How long until one unit can be had; 0.0: now."""
        whole_at_s = self._whole_at_s.get(key, now_s)
        return max(0.0, whole_at_s + self._interval_s - MINUTE_S - now_s)

    def charge(self, key: Hashable, units: int, now_s: float) -> None:
        """So many were used, whether they were there or not."""
        whole_at_s = self._whole_at_s.get(key, now_s)
        self._whole_at_s[key] = max(whole_at_s, now_s) + units * self._interval_s


def spent_tokens(exchange: Exchange) -> int:
    """What the upstream stated; else an estimate by the bytes, and nothing for what it refused or did not answer."""
    if exchange.usage is not None:
        return exchange.usage.total_tokens
    if not 200 <= exchange.status < 300:
        return 0
    prompt = exchange.request_bytes // REQUEST_BYTES_PER_TOKEN
    return prompt + exchange.response_bytes // ANSWER_BYTES_PER_TOKEN

"""Rates by GCRA, and the tokens that an exchange has cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.exchange import Exchange
from qproxy.core.rate import MINUTE_S, Rate, spent_tokens
from qproxy.core.usage import Usage

ROUNDING_S = 1e-6


class TestRequests:
    def test_the_allowance_of_a_minute_may_be_used_at_once_and_comes_back_evenly(self) -> None:
        rate = Rate(3)
        for _ in range(3):
            assert rate.wait_s("key", 1000.0) == 0
            rate.charge("key", 1, 1000.0)
        assert rate.wait_s("key", 1000.0) == 20
        assert rate.wait_s("key", 1015.0) == 5
        assert rate.wait_s("key", 1020.0) == 0
        rate.charge("key", 1, 1020.0)
        assert rate.wait_s("key", 1020.0) == 20

    def test_what_was_not_used_is_not_saved_up(self) -> None:
        rate = Rate(2)
        rate.charge("key", 1, 0.0)
        for _ in range(2):
            assert rate.wait_s("key", 86_400.0) == 0
            rate.charge("key", 1, 86_400.0)
        assert rate.wait_s("key", 86_400.0) == 30

    def test_keys_have_an_allowance_each(self) -> None:
        rate = Rate(1)
        rate.charge(0, 1, 0.0)
        assert [rate.wait_s(key, 0.0) for key in (0, 1, None)] == [60, 0, 0]

    @given(
        per_minute=st.integers(1, 100_000),
        gaps_s=st.lists(st.floats(0, 90), max_size=60),
    )
    def test_no_span_of_time_has_more_than_a_minutes_worth_and_what_has_come_back(
        self, per_minute: int, gaps_s: list[float]
    ) -> None:
        rate = Rate(per_minute)
        now_s, passed_at_s = 0.0, []
        for gap_s in gaps_s:
            now_s += gap_s
            if rate.wait_s("key", now_s) == 0:
                rate.charge("key", 1, now_s)
                passed_at_s.append(now_s)
        for first, begin_s in enumerate(passed_at_s):
            for last in range(first, len(passed_at_s)):
                span_s = passed_at_s[last] - begin_s
                assert last - first + 1 <= per_minute * (1 + span_s / MINUTE_S) + ROUNDING_S

    @given(
        per_minute=st.integers(1, 100_000),
        charges=st.lists(st.tuples(st.floats(0, 90), st.integers(0, 200_000)), min_size=1, max_size=30),
    )
    def test_the_wait_is_neither_too_short_nor_too_long(
        self, per_minute: int, charges: list[tuple[float, int]]
    ) -> None:
        rate = Rate(per_minute)
        now_s = 0.0
        for gap_s, units in charges:
            now_s += gap_s
            rate.charge("key", units, now_s)
        wait_s = rate.wait_s("key", now_s)
        assert rate.wait_s("key", now_s + wait_s) == pytest.approx(0, abs=ROUNDING_S)
        if wait_s > 2 * ROUNDING_S:
            assert rate.wait_s("key", now_s + wait_s - ROUNDING_S) > 0


class TestTokens:
    def test_a_debt_is_worked_off_before_the_next_one_is_let_in(self) -> None:
        rate = Rate(6000)
        assert rate.wait_s("key", 0.0) == 0
        rate.charge("key", 18_000, 0.0)
        assert rate.wait_s("key", 0.0) == pytest.approx(120.01)
        assert rate.wait_s("key", 120.02) == 0

    @pytest.mark.parametrize(
        ("status", "usage", "tokens"),
        [
            (200, Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10), 10),
            (200, Usage(prompt_tokens=7, total_tokens=0), 0),
            (200, None, 4000 // 4 + 5120 // 256),
            (206, None, 4000 // 4 + 5120 // 256),
            (400, None, 0),
            (502, None, 0),
            (0, None, 0),
        ],
    )
    def test_the_upstream_knows_best_then_the_bytes_are_counted(
        self, status: int, usage: Usage | None, tokens: int
    ) -> None:
        exchange = Exchange(b"id", "peer", 0.0)
        exchange.status, exchange.usage = status, usage
        exchange.request_bytes, exchange.response_bytes = 4000, 5120
        assert spent_tokens(exchange) == tokens

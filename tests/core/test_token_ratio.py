"""Bytes a token, and tokens for one of our counts: learned from usage, bounded, sane."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core import token_ratio
from qproxy.core.limits import BYTES_PER_TOKEN
from qproxy.core.token_ratio import LEAST_PROMPT_TOKENS, MEMORY, RatioRow, TokenRatios


def test_before_anything_was_learned() -> None:
    ratios = TokenRatios()
    assert ratios.bytes_per_token("m") == ratios.bytes_per_token(None) == BYTES_PER_TOKEN
    assert ratios.tokens_per_count("m") is None
    assert not ratios.is_learned("m")
    assert ratios.tokens_in("m", 4_000) == 1_000


def test_the_first_request_decides_and_later_ones_correct_it() -> None:
    ratios = TokenRatios()
    ratios.learn("m", 3_000, 1_000)
    assert ratios.bytes_per_token("m") == 3.0
    ratios.learn("m", 5_000, 1_000)
    assert ratios.bytes_per_token("m") == pytest.approx(4.0)
    assert ratios.tokens_in("m", 8_000) == 2_000
    assert ratios.is_learned("m")
    assert ratios.bytes_per_token("other") == BYTES_PER_TOKEN


def test_what_is_said_now_counts_more_than_what_was_said_long_ago() -> None:
    ratios = TokenRatios()
    for _ in range(1_000):
        ratios.learn("m", 3_000, 1_000)
    for _ in range(MEMORY * 3):
        ratios.learn("m", 6_000, 1_000)
    assert 5.8 < ratios.bytes_per_token("m") <= 6.0


@pytest.mark.parametrize(
    ("model", "request_bytes", "prompt_tokens"),
    [
        ("m", 1_000, LEAST_PROMPT_TOKENS - 1),
        ("m", 900, 1_000),
        ("m", 4_000_000, 1_000),
        ("", 4_000, 1_000),
        ("m" * 1_000, 4_000, 1_000),
    ],
    ids=["short", "too few bytes", "an image", "no name", "no end of a name"],
)
def test_what_teaches_nothing(model: str, request_bytes: int, prompt_tokens: int) -> None:
    ratios = TokenRatios()
    ratios.learn(model, request_bytes, prompt_tokens)
    assert ratios.rows() == []


def test_our_count_against_the_upstreams() -> None:
    ratios = TokenRatios()
    ratios.learn_count("m", 1_000, 900)
    ratios.learn_count("m", 1_000, 1_100)
    assert ratios.tokens_per_count("m") == pytest.approx(1.0)
    for counted, prompt_tokens in ((10, 1_000), (1_000, 10), (1_000, 5_000), (5_000, 1_000), (0, 0)):
        ratios.learn_count("odd", counted, prompt_tokens)
    assert ratios.tokens_per_count("odd") is None


def test_changes_are_taken_once() -> None:
    ratios = TokenRatios()
    ratios.learn("a", 4_000, 1_000)
    ratios.learn("b", 4_000, 1_000)
    assert sorted(row.model for row in ratios.take_changes()) == ["a", "b"]
    assert ratios.take_changes() == []
    ratios.learn_count("a", 1_000, 1_000)
    assert ratios.take_changes() == [RatioRow("a", 4.0, 1, 1.0, 1)]


def test_a_restart_goes_on_where_it_was() -> None:
    before, after = TokenRatios(), TokenRatios()
    for number in range(10):
        before.learn("m", 3_000 + number, 1_000)
    after.restore(before.rows())
    assert after.take_changes() == []
    for ratios in (before, after):
        ratios.learn("m", 5_000, 1_000)
    assert after.rows() == before.rows()


def test_rows_that_make_no_sense_are_not_restored() -> None:
    ratios = TokenRatios()
    ratios.restore([RatioRow("a", 0.0, 3), RatioRow("b", 4.0, 1, 90.0, 1), RatioRow(""), RatioRow("c", 4.0, 1)])
    assert [row.model for row in ratios.rows()] == ["c"]


def test_the_model_that_was_not_heard_of_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_ratio, "MOST_MODELS", 2)
    ratios = TokenRatios()
    for model in ("a", "b", "a", "c", *(f"x{number}" for number in range(10)), "a"):
        ratios.learn(model, 4_000, 1_000)
    assert [row.model for row in ratios.rows()] == ["x9", "a"]
    assert len(ratios.take_changes()) <= 2


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6))))
def test_whatever_upstreams_say_the_ratios_stay_sane(said: list[tuple[int, int, int]]) -> None:
    ratios = TokenRatios()
    for request_bytes, prompt_tokens, counted in said:
        ratios.learn("m", request_bytes, prompt_tokens)
        ratios.learn_count("m", counted, prompt_tokens)
    assert 1.0 <= ratios.bytes_per_token("m") <= 12.0
    assert 0.5 <= (ratios.tokens_per_count("m") or 1.0) <= 2.0

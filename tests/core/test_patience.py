"""How long a first byte is waited for, and what is learned from those that came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.limits import BYTES_PER_TOKEN, Timeouts
from qproxy.core.patience import LONGEST_NAME, MOST_KINDS, RECENT, SHORTEST_BYTES, TIMES, Patience, RequestKind

TIMEOUTS = Timeouts()
SLOW = RequestKind("mine", "qwen3-8b", is_plain=False)
PLAIN = SLOW._replace(is_plain=True)


def body_of(tokens: int) -> int:
    return tokens * BYTES_PER_TOKEN


def usual_s(body_bytes: int, kind: RequestKind = SLOW) -> float:
    return TIMEOUTS.first_byte_s(body_bytes=body_bytes, plain=kind.is_plain)


@pytest.fixture
def patience() -> Patience:
    return Patience(TIMEOUTS)


@pytest.mark.parametrize(
    ("tokens", "plain", "seconds"),
    [
        (0, False, 60),
        (100_000, False, 120),
        (150_000, False, 150),
        (10**6, False, 600),
        (0, True, 300),
        (10**6, True, 600),
    ],
)
def test_at_first_the_formula_counts(patience: Patience, tokens: int, plain: bool, seconds: float) -> None:
    assert patience.first_byte_s(SLOW._replace(is_plain=plain), body_of(tokens)) == seconds


def test_a_slow_answer_makes_patient_with_prompts_of_its_length(patience: Patience) -> None:
    patience.learn(SLOW, body_of(50_000), 80.0)
    assert patience.first_byte_s(SLOW, body_of(50_000)) == pytest.approx(TIMES * 80)


def test_and_with_longer_and_shorter_ones_in_proportion(patience: Patience) -> None:
    patience.learn(SLOW, body_of(50_000), 80.0)
    assert patience.first_byte_s(SLOW, body_of(100_000)) == pytest.approx(TIMES * 160)
    assert patience.first_byte_s(SLOW, body_of(25_000)) == pytest.approx(TIMES * 40)
    assert patience.first_byte_s(SLOW, body_of(1_000)) == usual_s(body_of(1_000))


def test_never_more_than_the_most(patience: Patience) -> None:
    patience.learn(SLOW, body_of(50_000), 300.0)
    assert patience.first_byte_s(SLOW, body_of(150_000)) == TIMEOUTS.first_byte_max_s


def test_a_most_below_the_base_does_not_shorten_it() -> None:
    patience = Patience(Timeouts(first_byte_plain_s=900.0))
    patience.learn(PLAIN, body_of(50_000), 800.0)
    assert patience.first_byte_s(PLAIN, body_of(50_000)) == 900.0


def test_the_slowest_of_the_last_ones_counts(patience: Patience) -> None:
    for waited_s in (40.0, 90.0, 50.0):
        patience.learn(SLOW, body_of(50_000), waited_s)
    assert patience.first_byte_s(SLOW, body_of(50_000)) == pytest.approx(TIMES * 90)


def test_fast_answers_make_it_forget_the_slow_one(patience: Patience) -> None:
    patience.learn(SLOW, body_of(50_000), 80.0)
    for _ in range(RECENT):
        patience.learn(SLOW, body_of(50_000), 1.0)
    assert patience.first_byte_s(SLOW, body_of(50_000)) == usual_s(body_of(50_000))


@pytest.mark.parametrize("other", [PLAIN, SLOW._replace(model="qwen3-max"), SLOW._replace(upstream="theirs")])
def test_others_are_others(patience: Patience, other: RequestKind) -> None:
    patience.learn(SLOW, body_of(50_000), 150.0)
    assert patience.first_byte_s(other, body_of(50_000)) == usual_s(body_of(50_000), other)


def test_a_short_prompt_in_a_queue_says_little_of_long_ones(patience: Patience) -> None:
    """Ten seconds for ten tokens are not a million for a million."""
    patience.learn(SLOW, body_of(10), 5.0)
    assert patience.first_byte_s(SLOW, body_of(100_000)) == pytest.approx(TIMES * 5 * body_of(100_000) / SHORTEST_BYTES)


class TestMemory:
    def test_fast_answers_leave_none(self, patience: Patience) -> None:
        for number in range(100):
            patience.learn(RequestKind("mine", f"model-{number}", is_plain=False), body_of(50_000), 1.0)
        assert patience._slowness == {}

    def test_the_oldest_kind_makes_room(self, patience: Patience) -> None:
        kinds = [RequestKind("mine", f"model-{number}", is_plain=False) for number in range(MOST_KINDS + 1)]
        for kind in kinds:
            patience.learn(kind, body_of(50_000), 80.0)
        assert len(patience._slowness) == MOST_KINDS
        assert patience.first_byte_s(kinds[0], body_of(50_000)) == usual_s(body_of(50_000))
        assert patience.first_byte_s(kinds[-1], body_of(50_000)) == pytest.approx(TIMES * 80)

    def test_each_kind_holds_its_last_answers_alone(self, patience: Patience) -> None:
        for _ in range(10 * RECENT):
            patience.learn(SLOW, body_of(50_000), 80.0)
        assert len(patience._slowness[SLOW]) == RECENT

    def test_a_name_without_end_is_not_kept(self, patience: Patience) -> None:
        patience.learn(SLOW._replace(model="x" * (LONGEST_NAME + 1)), body_of(50_000), 80.0)
        assert patience._slowness == {}

    def test_a_request_without_a_model_is_a_kind_of_its_own(self, patience: Patience) -> None:
        patience.learn(SLOW._replace(model=None), body_of(50_000), 80.0)
        assert patience.first_byte_s(SLOW._replace(model=None), body_of(50_000)) == pytest.approx(TIMES * 80)


@given(
    st.lists(st.tuples(st.integers(0, 64 << 20), st.floats(0.0, 1e6)), max_size=40),
    st.integers(0, 64 << 20),
    st.booleans(),
    st.floats(1.0, 1e4),
    st.floats(0.0, 1e4),
)
def test_it_stays_between_the_formula_and_the_most(
    answers: list[tuple[int, float]], body_bytes: int, plain: bool, most_s: float, per_100k_s: float
) -> None:
    timeouts = Timeouts(first_byte_max_s=most_s, first_byte_per_100k_tokens_s=per_100k_s)
    patience = Patience(timeouts)
    kind = SLOW._replace(is_plain=plain)
    for size, waited_s in answers:
        patience.learn(kind, size, waited_s)
    formula_s = timeouts.first_byte_s(body_bytes=body_bytes, plain=plain)
    assert formula_s <= patience.first_byte_s(kind, body_bytes) <= max(formula_s, most_s)

"""When an upstream is left alone, for how long, and what ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qproxy.core.breaker import CONSECUTIVE, FIRST_S, LONGEST_S, WINDOW, Breaker, LeftAlone, NeverOpen, State

if TYPE_CHECKING:
    from collections.abc import Iterable


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(CONSECUTIVE):
        breaker.fail(now)
    assert breaker.state is State.OPEN
    return breaker


def after(breaker: Breaker, verdicts: Iterable[bool], now: float = 0.0) -> Breaker:
    """The breaker after these requests; True is a success."""
    for is_good in verdicts:
        if is_good:
            breaker.succeed()
        else:
            breaker.fail(now)
    return breaker


class TestItOpens:
    def test_after_so_many_failures_in_a_row_and_says_so_once(self) -> None:
        breaker = Breaker()
        assert [breaker.fail(0.0) for _ in range(CONSECUTIVE)] == [False] * (CONSECUTIVE - 1) + [True]
        assert breaker.state is State.OPEN
        assert not breaker.fail(0.0)

    def test_a_success_in_between_begins_the_row_anew(self) -> None:
        breaker = after(Breaker(), [False] * (CONSECUTIVE - 1) + [True] + [False] * (CONSECUTIVE - 1))
        assert breaker.state is State.CLOSED

    def test_when_half_of_the_last_requests_failed(self) -> None:
        half = [False, True] * (WINDOW // 2)
        assert after(Breaker(), half[:-2]).state is State.CLOSED
        assert after(Breaker(), [*half, False]).state is State.OPEN

    def test_never_by_less_than_half(self) -> None:
        assert after(Breaker(), [False, True, True] * WINDOW).state is State.CLOSED

    def test_old_failures_are_forgotten(self) -> None:
        breaker = after(Breaker(), [False, True] * (WINDOW // 2 - 1))
        assert after(breaker, [True] * WINDOW + [False] * (CONSECUTIVE - 1)).state is State.CLOSED

    @given(st.lists(st.booleans(), max_size=60))
    def test_only_by_one_of_the_two_rules(self, verdicts: list[bool]) -> None:
        breaker = Breaker()
        for count, is_good in enumerate(verdicts, 1):
            after(breaker, [is_good])
            seen = verdicts[:count]
            first = seen.index(False) if False in seen else count
            last = seen[first:][-WINDOW:]
            in_a_row = count >= CONSECUTIVE and not any(seen[-CONSECUTIVE:])
            by_share = len(last) == WINDOW and 2 * last.count(False) >= WINDOW and not is_good
            assert (breaker.state is State.OPEN) == (in_a_row or by_share)
            if breaker.state is State.OPEN:
                return


class TestItIsLeftAlone:
    def test_until_the_pause_is_over(self) -> None:
        breaker = opened(100.0)
        assert breaker.wait_s(100.0) == FIRST_S
        assert breaker.wait_s(100.5) == FIRST_S - 0.5
        with pytest.raises(LeftAlone) as caught:
            breaker.probe(100.5)
        error = caught.value
        assert (error.code, error.kind.status, error.retry_after_s) == ("overloaded", 503, 2)
        assert breaker.wait_s(100.0 + FIRST_S) == 0.0

    def test_a_short_rest_is_told_as_a_second(self) -> None:
        with pytest.raises(LeftAlone) as caught:
            opened(0.0).probe(FIRST_S - 0.01)
        assert caught.value.retry_after_s == 1

    def test_then_one_request_may_try(self) -> None:
        breaker = opened(0.0)
        breaker.probe(FIRST_S)
        assert breaker.state is State.HALF_OPEN
        with pytest.raises(LeftAlone):
            breaker.probe(FIRST_S)

    def test_a_probe_that_takes_long_is_joined_by_another(self) -> None:
        breaker = opened(0.0)
        breaker.probe(FIRST_S)
        breaker.probe(2 * FIRST_S)
        with pytest.raises(LeftAlone):
            breaker.probe(2 * FIRST_S)

    def test_a_probe_without_a_verdict_makes_room_for_the_next(self) -> None:
        breaker = opened(0.0)
        breaker.probe(FIRST_S)
        breaker.leave()
        assert (breaker.state, breaker.wait_s(FIRST_S)) == (State.HALF_OPEN, 0.0)

    def test_who_leaves_while_it_rests_changes_nothing(self) -> None:
        breaker = opened(0.0)
        breaker.leave()
        assert breaker.wait_s(0.0) == FIRST_S

    def test_each_failed_probe_doubles_the_pause_up_to_the_longest(self) -> None:
        breaker, now, pauses = opened(0.0), 0.0, []
        for _ in range(6):
            pauses.append(breaker.wait_s(now))
            now += pauses[-1]
            breaker.probe(now)
            assert breaker.fail(now)
        assert pauses == [2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
        assert pauses[-1] == LONGEST_S

    def test_requests_that_were_on_their_way_do_not_lengthen_it(self) -> None:
        breaker = opened(0.0)
        assert not breaker.fail(1.5)
        assert breaker.wait_s(1.5) == FIRST_S - 1.5


class TestItCloses:
    def test_by_a_successful_probe(self) -> None:
        breaker = opened(0.0)
        breaker.probe(FIRST_S)
        assert breaker.succeed()
        assert (breaker.state, breaker.wait_s(FIRST_S)) == (State.CLOSED, 0.0)
        assert not breaker.succeed()

    def test_by_an_answer_that_comes_late(self) -> None:
        breaker = opened(0.0)
        assert breaker.succeed()
        assert breaker.state is State.CLOSED

    def test_and_has_forgotten_what_was(self) -> None:
        breaker = opened(0.0)
        breaker.probe(FIRST_S)
        breaker.fail(FIRST_S)
        breaker.succeed()
        assert after(breaker, [False] * (CONSECUTIVE - 1), 50.0).state is State.CLOSED
        assert breaker.fail(50.0)
        assert breaker.wait_s(50.0) == FIRST_S


def test_switched_off_it_never_opens() -> None:
    breaker = after(NeverOpen(), [False] * 100)
    assert (breaker.state, breaker.wait_s(0.0)) == (State.CLOSED, 0.0)


class AnyCourse(RuleBasedStateMachine):
    """Requests that come, fail, succeed and leave in any order, and time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0

    @rule(seconds=st.floats(0.0, 2 * LONGEST_S))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def fail(self) -> None:
        before = self.breaker.state
        if self.breaker.fail(self.now):
            assert before is not State.OPEN
            assert FIRST_S <= self.breaker.wait_s(self.now) <= LONGEST_S

    @rule()
    def succeed(self) -> None:
        assert self.breaker.succeed() == self.was_troubled
        assert self.breaker.state is State.CLOSED

    @rule()
    def leave(self) -> None:
        self.breaker.leave()

    @precondition(lambda self: self.breaker.state is not State.CLOSED)
    @rule()
    def come(self) -> None:
        wait_s = self.breaker.wait_s(self.now)
        if wait_s:
            with pytest.raises(LeftAlone):
                self.breaker.probe(self.now)
        else:
            self.breaker.probe(self.now)
            assert self.breaker.state is State.HALF_OPEN
            assert self.breaker.wait_s(self.now) > 0

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        self.was_troubled = self.breaker.state is not State.CLOSED
        assert 0.0 <= self.breaker.wait_s(self.now) <= LONGEST_S
        assert self.was_troubled or not self.breaker.wait_s(self.now)


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

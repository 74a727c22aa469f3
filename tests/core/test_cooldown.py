"""Cool-downs: what begins and ends them, on a clock that jumps; and the daily allowance, told by two answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.account import WHOLE_ACCOUNT, AccountBook, AccountKind, Standing, Wish
from qproxy.core.classify import GOOD, Cause, Outcome, Scope
from qproxy.core.cooldown import MAX_MODELS, next_day_s
from tests.support.account_books import (
    AUTH,
    BAD_REQUEST,
    BILLING,
    DAILY,
    HOUR_S,
    NOON_S,
    OVERLOADED,
    QUOTA,
    QWEN,
    RATE,
    UP,
    book_of,
    named,
    refused,
    use,
    view,
)


class TestCoolDowns:
    def test_a_limit_of_a_model_holds_for_that_model(self) -> None:
        book = book_of("a", "b")
        use(book, RATE, wish=named("a"))
        assert {use(book, GOOD) for _ in range(4)} == {"b"}
        assert use(book, GOOD, wish=named("a", "other")) == "a"
        assert view(book, "a").standing is Standing.READY
        assert [(each.model, each.cause, each.remaining_s) for each in view(book, "a").cooling] == [
            ("qwen", Cause.RATE, 60.0)
        ]

    def test_a_limit_of_the_account_holds_for_all(self) -> None:
        book = book_of("a", "b")
        use(book, BILLING, wish=named("a"))
        assert use(book, GOOD, wish=Wish("other")) == "b"
        assert view(book, "a").standing is Standing.COOLING
        assert view(book, "a").cooling[0].model == WHOLE_ACCOUNT

    def test_it_ends(self) -> None:
        book = book_of("a", "b")
        use(book, RATE, wish=named("a"))
        assert refused(book, named("a"), NOON_S + 59.5).retry_after_s == 1
        assert use(book, GOOD, NOON_S + 60, named("a")) == "a"
        assert view(book, "a", NOON_S + 60).cooling == ()

    @pytest.mark.parametrize("outcome", [GOOD, BAD_REQUEST, OVERLOADED, AUTH])
    def test_what_says_nothing_about_the_account_changes_nothing(self, outcome: Outcome) -> None:
        book = book_of("a", "b")
        revision = book.revision
        use(book, outcome, wish=named("a"))
        assert view(book, "a").standing is Standing.READY
        assert view(book, "a").cooling == ()
        assert book.revision == revision

    def test_the_longer_one_holds(self) -> None:
        book = book_of("a", "b")
        leases = [book.lease(UP, named("a"), NOON_S) for _ in range(3)]
        for lease, seconds in zip(leases, (60.0, 600.0, 30.0), strict=True):
            book.note(lease, replace(RATE, cooldown_s=seconds), NOON_S)
        assert refused(book, named("a")).retry_after_s == 600

    def test_a_success_of_a_later_request_ends_it(self) -> None:
        book = book_of("a")
        use(book, BILLING)
        use(book, GOOD)
        assert view(book, "a").standing is Standing.READY

    def test_a_success_of_an_earlier_request_does_not(self) -> None:
        book = book_of("a")
        early = book.lease(UP, QWEN, NOON_S)
        use(book, BILLING)
        book.note(early, GOOD, NOON_S)
        assert view(book, "a").standing is Standing.COOLING

    def test_a_success_with_one_model_says_nothing_about_another(self) -> None:
        book = book_of("a")
        use(book, RATE)
        use(book, GOOD, wish=Wish("other"))
        assert view(book, "a").cooling != ()

    def test_a_client_that_invents_models_fills_no_memory(self) -> None:
        book = book_of("a", "b")
        for number in range(2 * MAX_MODELS):
            use(book, RATE, wish=named("a", f"model-{number}"))
            use(book, replace(QUOTA, scope=Scope.MODEL), wish=named("a", f"quota-{number}"))
        use(book, RATE, wish=named("b", "m" * 100_000))
        assert len(view(book, "a").cooling) == MAX_MODELS
        assert view(book, "b").cooling == ()
        use(book, BILLING, wish=named("a", "one more"))
        assert view(book, "a").standing is Standing.COOLING
        assert use(book, RATE, NOON_S + 61, named("b", "another")) == "b"

    @given(
        st.floats(1, 1e6),
        st.lists(st.floats(-1e7, 1e7), min_size=1, max_size=6),
    )
    def test_however_the_clock_jumps_it_ends_within_its_length(self, length_s: float, jumps_s: list[float]) -> None:
        book = book_of("a", "b")
        use(book, replace(RATE, cooldown_s=length_s), wish=named("a"))
        now_s = NOON_S
        for jump_s in jumps_s:
            now_s += jump_s
            left_s = max((each.remaining_s for each in view(book, "a", now_s).cooling), default=0.0)
            assert left_s <= length_s
        assert use(book, GOOD, now_s + length_s * (1 + 1e-9) + 1e-6, named("a")) == "a"


class TestTheDailyAllowance:
    MIDNIGHT_S = NOON_S + 12 * HOUR_S

    def test_the_answer_is_of_an_unknown_window(self) -> None:
        assert QUOTA.may_be_daily
        assert (QUOTA.scope, QUOTA.cooldown_s) == (Scope.ACCOUNT, 60.0)

    def ends_s(self, book: AccountBook, now_s: float) -> float:
        return now_s + max(each.remaining_s for each in view(book, "a", now_s).cooling)

    def test_once_is_a_minute(self) -> None:
        book = book_of("a")
        use(book, QUOTA)
        assert self.ends_s(book, NOON_S) == NOON_S + 60

    def test_twice_is_the_day(self) -> None:
        book = book_of("a")
        use(book, QUOTA)
        use(book, QUOTA, NOON_S + 61)
        assert self.ends_s(book, NOON_S + 61) == self.MIDNIGHT_S

    @pytest.mark.parametrize("apart_s", [0.0, 59.0, 60.0, 86_401.0, -HOUR_S])
    def test_not_twice_within_a_minute_nor_on_two_days_nor_by_a_clock_set_back(self, apart_s: float) -> None:
        book = book_of("a")
        use(book, QUOTA)
        use(book, QUOTA, NOON_S + apart_s)
        assert self.ends_s(book, NOON_S + apart_s) <= NOON_S + apart_s + 60

    def test_many_within_a_minute_do_not_put_off_the_second(self) -> None:
        book = book_of("a")
        for after_s in (0.0, 20.0, 40.0, 59.0, 61.0):
            use(book, QUOTA, NOON_S + after_s)
        assert self.ends_s(book, NOON_S + 61) == self.MIDNIGHT_S

    def test_a_success_between_ends_the_suspicion(self) -> None:
        book = book_of("a")
        use(book, QUOTA)
        use(book, GOOD, NOON_S + 61)
        use(book, QUOTA, NOON_S + 90)
        assert self.ends_s(book, NOON_S + 90) == NOON_S + 150

    def test_another_failure_between_does_not(self) -> None:
        book = book_of("a")
        for outcome, after_s in ((QUOTA, 0.0), (OVERLOADED, 61.0), (QUOTA, 90.0)):
            use(book, outcome, NOON_S + after_s)
        assert self.ends_s(book, NOON_S + 90) == self.MIDNIGHT_S

    def test_models_are_suspected_apart(self) -> None:
        book = book_of("a")
        of_model = replace(QUOTA, scope=Scope.MODEL)
        use(book, of_model)
        use(book, of_model, NOON_S + 61, Wish("other"))
        assert self.ends_s(book, NOON_S + 61) == NOON_S + 121

    def test_a_client_that_invents_models_is_not_suspected_without_end(self) -> None:
        book = book_of("a")
        of_model = replace(QUOTA, scope=Scope.MODEL)
        day_later_s = NOON_S + 25 * HOUR_S
        for number in range(MAX_MODELS):
            use(book, of_model, wish=Wish(f"model-{number}"))
        for now_s in (NOON_S, NOON_S + 61):
            use(book, of_model, now_s, Wish("one more"))
        assert self.ends_s(book, NOON_S + 61) == NOON_S + 121
        for now_s in (day_later_s, day_later_s + 61):
            use(book, of_model, now_s, Wish("one more"))
        assert self.ends_s(book, day_later_s + 61) == self.MIDNIGHT_S + 24 * HOUR_S

    def test_the_next_day_begins_with_a_first_one(self) -> None:
        book = book_of("a")
        for after_s in (0.0, 61.0, 12 * HOUR_S + 1):
            use(book, QUOTA, NOON_S + after_s)
        assert self.ends_s(book, self.MIDNIGHT_S + 1) == self.MIDNIGHT_S + 61

    def test_what_the_upstream_asked_for_counts(self) -> None:
        book = book_of("a")
        for after_s in (0.0, 61.0):
            use(book, replace(QUOTA, retry_after_s=7.0, cooldown_s=7.0), NOON_S + after_s)
        assert self.ends_s(book, NOON_S + 61) == NOON_S + 68

    def test_an_answer_that_names_the_day(self) -> None:
        book = book_of("a")
        use(book, DAILY)
        assert self.ends_s(book, NOON_S) == self.MIDNIGHT_S

    def test_the_day_may_begin_elsewhere(self) -> None:
        book = AccountBook(day_starts_s=16 * HOUR_S)  # midnight in Beijing
        book.add(UP, "a", AccountKind.OAUTH)
        use(book, DAILY)
        assert self.ends_s(book, NOON_S) == NOON_S + 4 * HOUR_S

    @given(st.floats(0, 4e9), st.integers(-86_400, 86_400))
    def test_the_next_day_is_ahead_and_within_a_day(self, now_s: float, day_starts_s: int) -> None:
        next_s = next_day_s(now_s, day_starts_s)
        assert 0 < next_s - now_s <= 86_400
        assert (next_s - day_starts_s) % 86_400 == 0

"""What outlives a restart."""

from __future__ import annotations

from dataclasses import astuple, replace

from qproxy.core.account import AccountBook, AccountKind, Standing, StateRow
from qproxy.core.classify import Cause
from tests.support.account_books import BILLING, HOUR_S, NOON_S, RATE, UP, book_of, named, refused, use, view


class TestState:
    def restarted(self, book: AccountBook, now_s: float, *ids: str) -> AccountBook:
        fresh = book_of(*ids)
        fresh.restore(book.state_of(now_s), now_s)
        return fresh

    def test_health_outlives_a_restart(self) -> None:
        book = book_of("a", "b", "c", "d")
        use(book, RATE, wish=named("a"))
        use(book, BILLING, wish=named("b"))
        book.login_needed(UP, "c", "log in", NOON_S)
        fresh = self.restarted(book, NOON_S + 10, "a", "b", "c", "d")
        before, after = ([replace(each, leases=0) for each in one.views(NOON_S + 10)] for one in (book, fresh))
        assert after == before
        assert fresh.state_of(NOON_S + 10) == book.state_of(NOON_S + 10)

    def test_the_rows_are_plain(self) -> None:
        book = book_of("a", "b")
        use(book, RATE, wish=named("a"))
        book.close_account(UP, "b", "why", NOON_S + 1)
        assert [astuple(row) for row in book.state_of(NOON_S + 10)] == [
            (UP, "a", "qwen", "COOLING", "RATE", NOON_S, 60.0, ""),
            (UP, "b", "", "CLOSED", "", NOON_S + 1, 0.0, "why"),
        ]

    def test_what_is_over_is_no_state(self) -> None:
        book = book_of("a", "b")
        use(book, RATE, wish=named("a"))
        rows = book.state_of(NOON_S)
        assert book.state_of(NOON_S + 60) == []
        fresh = book_of("a", "b")
        fresh.restore(rows, NOON_S + 60)
        assert fresh.state_of(NOON_S + 60) == []

    def test_a_clock_that_was_set_back_meanwhile(self) -> None:
        book = book_of("a", "b")
        use(book, RATE, wish=named("a"))
        rows = book.state_of(NOON_S)
        fresh = book_of("a", "b")
        fresh.restore(rows, NOON_S - 2 * HOUR_S)
        assert refused(fresh, named("a"), NOON_S - 2 * HOUR_S).retry_after_s == 60

    def test_a_closed_key_gets_a_chance_at_each_start(self) -> None:
        book = book_of("a", "b", kind=AccountKind.API_KEY)
        book.close_account(UP, "a", "", NOON_S)
        assert book.state_of(NOON_S) == []

    def test_foreign_rows_are_left_out(self) -> None:
        book = book_of("a", "b")
        book.restore(
            [
                StateRow(UP, "gone", "", "CLOSED", "", NOON_S, 0.0, ""),
                StateRow("nowhere", "a", "", "CLOSED", "", NOON_S, 0.0, ""),
                StateRow(UP, "a", "", "FROM_ANOTHER_VERSION", "", NOON_S, 0.0, ""),
                StateRow(UP, "a", "", "READY", "", NOON_S, 0.0, ""),
                StateRow(UP, "b", "", "COOLING", "FROM_ANOTHER_VERSION", NOON_S, 60.0, ""),
            ],
            NOON_S,
        )
        assert view(book, "a").standing is Standing.READY
        assert view(book, "b").cooling[0].cause is Cause.UNKNOWN

    def test_a_login_that_died_before_the_restart_is_refused_alone(self) -> None:
        book = book_of("a")
        book.login_needed(UP, "a", "", NOON_S)
        assert refused(self.restarted(book, NOON_S, "a")).code == "no_healthy_account"

    def test_the_revision_moves_with_the_state(self) -> None:
        book = book_of("a", "b")
        revisions = [book.revision]
        with book.lease(UP, named("a"), NOON_S) as lease:
            assert book.revision == revisions[0]
            book.note(lease, RATE, NOON_S)
        revisions.append(book.revision)
        book.login_needed(UP, "a", "", NOON_S)
        revisions.append(book.revision)
        book.recover(UP, "a")
        revisions.append(book.revision)
        book.retire(UP, "a")
        revisions.append(book.revision)
        assert revisions == sorted(set(revisions))

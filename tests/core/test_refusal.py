"""What a client is told when no account can take its request."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.account import AccountBook, AccountKind, Wish
from qproxy.core.classify import GOOD
from tests.support.account_books import BILLING, NOON_S, QWEN, RATE, UP, book_of, named, refused, use


class TestRefusals:
    def test_without_any_account(self) -> None:
        error = refused(AccountBook())
        assert (error.code, error.kind.status, error.retry_after_s) == ("no_healthy_account", 503, None)
        assert "qproxy auth login" in error.message

    def test_all_cool_down(self) -> None:
        book = book_of("anna", "bert")
        use(book, RATE, wish=named("anna"))
        use(book, replace(RATE, cooldown_s=29.2), wish=named("bert"))
        error = refused(book)
        assert (error.code, error.kind.status, error.retry_after_s) == ("all_accounts_limited", 429, 30)
        assert error.message == "No account can be used now (2 accounts: 2 are cooling down). Try again in 30 s."

    def test_some_need_a_person(self) -> None:
        book = book_of("anna", "bert", "carl")
        use(book, BILLING, wish=named("anna"))
        use(book, BILLING, wish=named("bert"))
        book.login_needed(UP, "carl", "", NOON_S)
        error = refused(book)
        assert (error.code, error.retry_after_s) == ("all_accounts_limited", 900)
        assert "(3 accounts: 2 are cooling down, 1 needs login)" in error.message

    def test_all_need_a_person(self) -> None:
        book = book_of("anna", "bert", "carl")
        book.login_needed(UP, "anna", "for anna alone", NOON_S)
        book.login_needed(UP, "bert", "", NOON_S)
        book.close_account(UP, "carl", "", NOON_S)
        error = refused(book)
        assert (error.code, error.kind.should_retry) == ("no_healthy_account", False)
        assert "(3 accounts: 2 need login, 1 is closed)" in error.message
        assert "qproxy auth login" in error.message
        assert "free tier" in error.message
        assert not any(word in error.message for word in ("anna", "bert", "carl"))

    def test_refused_keys_have_their_own_advice(self) -> None:
        book = book_of("key-1", "key-2", kind=AccountKind.API_KEY)
        for account_id in ("key-1", "key-2"):
            book.close_account(UP, account_id, "", NOON_S)
        message = refused(book).message
        assert "key" in message
        assert "login" not in message

    def test_all_were_tried(self) -> None:
        book = book_of("a", "b")
        use(book, RATE, wish=named("b"))
        error = refused(book, Wish("qwen", tried={"a", "b"}))
        assert (error.code, error.retry_after_s) == ("all_accounts_limited", 1)
        assert "1 is cooling down, 1 was tried already" in error.message

    def test_a_tried_account_is_passed_over(self) -> None:
        book = book_of("a", "b")
        assert [use(book, GOOD, wish=Wish("qwen", tried={"a"})) for _ in range(3)] == ["b"] * 3

    @given(st.floats(1e-6, 1e6))
    def test_the_wait_is_never_too_short(self, cooldown_s: float) -> None:
        book = book_of("a", "b")
        for account_id in ("a", "b"):
            use(book, replace(RATE, cooldown_s=cooldown_s), wish=named(account_id))
        retry_after_s = refused(book).retry_after_s
        assert retry_after_s is not None
        assert 1 <= retry_after_s < cooldown_s + 1.001
        book.lease(UP, QWEN, NOON_S + retry_after_s)

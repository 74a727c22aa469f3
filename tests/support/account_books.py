"""Books of accounts with the outcomes that fill them."""

from __future__ import annotations

import json

import pytest

from qproxy.core.account import AccountBook, AccountKind, AccountView, Standing, Wish
from qproxy.core.classify import Cause, Outcome, Scope, Window, classify
from qproxy.core.rotation import POLICIES
from qproxy.errors import AccountError

UP = "dashscope"
NOON_S = 1_790_000_000 // 86_400 * 86_400 + 43_200.0
HOUR_S = 3600.0

RATE = Outcome(Cause.RATE, Scope.MODEL, 60.0)
BILLING = Outcome(Cause.BILLING, Scope.ACCOUNT, 900.0)
OVERLOADED = Outcome(Cause.OVERLOADED, Scope.UPSTREAM, 30.0)
BAD_REQUEST = Outcome(Cause.BAD_REQUEST, Scope.REQUEST, 30.0)
AUTH = Outcome(Cause.AUTH, Scope.ACCOUNT)
DAILY = Outcome(Cause.QUOTA, Scope.ACCOUNT, 3600.0, window=Window.DAY)
QUOTA = classify(
    429,
    [],
    json.dumps({"error": {"code": "insufficient_quota", "message": "Free allocated quota exceeded."}}).encode(),
    NOON_S,
)

QWEN = Wish("qwen")


def book_of(*ids: str, policy: str = "least_in_flight", kind: AccountKind = AccountKind.OAUTH) -> AccountBook:
    book = AccountBook(lambda _: POLICIES[policy]())
    for account_id in ids:
        book.add(UP, account_id, kind)
    return book


def use(book: AccountBook, outcome: Outcome, now_s: float = NOON_S, wish: Wish = QWEN) -> str:
    """One attempt with this end; the account that it used."""
    with book.lease(UP, wish, now_s) as lease:
        book.note(lease, outcome, now_s)
        return lease.account_id


def named(account_id: str, model: str = "qwen") -> Wish:
    return Wish(model, account=account_id)


def view(book: AccountBook, account_id: str, now_s: float = NOON_S) -> AccountView:
    return next(each for each in book.views(now_s) if each.account_id == account_id)


def refused(book: AccountBook, wish: Wish = QWEN, now_s: float = NOON_S) -> AccountError:
    with pytest.raises(AccountError) as caught:
        book.lease(UP, wish, now_s)
    return caught.value


def fall(book: AccountBook, account_id: str, standing: Standing) -> None:
    tell = {Standing.LOGIN_NEEDED: book.login_needed, Standing.CLOSED: book.close_account}[standing]
    tell(UP, account_id, "what mends it", NOON_S)

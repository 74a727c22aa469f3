"""What an answer that is not good calls for, for every cause that there is."""

from __future__ import annotations

import pytest

from qproxy.core.classify import Cause, Outcome, Scope
from qproxy.core.health import AccountKind
from qproxy.core.outcome_table import ROWS
from qproxy.core.retry import Renewed, Step, next_step

LOGIN, KEY = AccountKind.OAUTH, AccountKind.API_KEY
REFUSED = Outcome(Cause.AUTH, Scope.ACCOUNT)


@pytest.mark.parametrize(
    ("renewed", "step"),
    [
        (Renewed.NONE, Step.RENEW),
        (Renewed.THIS, Step.CLOSE_ACCOUNT),
        (Renewed.ANOTHERS, Step.PASS_OVER),
    ],
)
def test_a_login_that_is_refused(renewed: Renewed, step: Step) -> None:
    assert next_step(REFUSED, LOGIN, renewed) is step


@pytest.mark.parametrize("renewed", Renewed)
def test_a_key_that_is_refused(renewed: Renewed) -> None:
    assert next_step(REFUSED, KEY, renewed) is Step.CLOSE_ACCOUNT


@pytest.mark.parametrize("kind", AccountKind)
@pytest.mark.parametrize("renewed", Renewed)
@pytest.mark.parametrize(
    ("cause", "scope", "step"),
    [
        (Cause.QUOTA, Scope.ACCOUNT, Step.ROTATE),
        (Cause.QUOTA, Scope.MODEL, Step.ROTATE),
        (Cause.RATE, Scope.MODEL, Step.ROTATE),
        (Cause.BURST, Scope.MODEL, Step.ROTATE),
        (Cause.CONCURRENCY, Scope.ACCOUNT, Step.ROTATE),
        (Cause.BILLING, Scope.ACCOUNT, Step.ROTATE),
        (Cause.ENTITLEMENT, Scope.MODEL, Step.ROTATE),
        (Cause.OVERLOADED, Scope.UPSTREAM, Step.ELSEWHERE),
        (Cause.CONTENT_FILTER, Scope.REQUEST, Step.COMMIT),
        (Cause.CONTEXT_OVERFLOW, Scope.REQUEST, Step.COMMIT),
        (Cause.BAD_REQUEST, Scope.REQUEST, Step.COMMIT),
        (Cause.NOT_FOUND, Scope.REQUEST, Step.COMMIT),
        (Cause.TIMEOUT, Scope.REQUEST, Step.COMMIT),
        (Cause.SERVER_ERROR, Scope.UPSTREAM, Step.COMMIT),
        (Cause.SERVER_ERROR, Scope.REQUEST, Step.COMMIT),
        (Cause.UNKNOWN, Scope.REQUEST, Step.COMMIT),
        (Cause.OK, Scope.REQUEST, Step.COMMIT),
    ],
)
def test_what_is_not_about_the_credential(
    cause: Cause, scope: Scope, kind: AccountKind, renewed: Renewed, step: Step
) -> None:
    assert next_step(Outcome(cause, scope), kind, renewed) is step


def test_a_request_goes_elsewhere_only_where_that_may_help() -> None:
    """Over the whole table: what every account would answer alike is the client's to see."""
    for row in ROWS:
        step = next_step(Outcome(row.cause, row.scope), KEY, Renewed.NONE)
        assert (step is Step.COMMIT) is (row.scope in (Scope.REQUEST, Scope.UPSTREAM) and step is not Step.ELSEWHERE)
        assert step is not Step.ELSEWHERE or row.cause is Cause.OVERLOADED

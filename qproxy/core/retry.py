"""What to do with an answer that is not good, while nothing of it has gone down (`house.md`: Outcome -> Verdict)."""

from __future__ import annotations

from enum import Enum

from qproxy.core.classify import Cause, Outcome, Scope
from qproxy.core.health import AccountKind


class Renewed(Enum):
    """Whose token this request has renewed. It renews one at most: the free tier's logins can be renewed for ever, and
    are refused all the same (`qwen-wire.md` 11.1)."""

    NONE = "nobody's"
    THIS = "that of the account that was refused now: a newer one would fare no better"
    ANOTHERS = "that of an account that this request has been to before"


class Step(Enum):
    """The next step of an exchange that holds an answer and has not committed it."""

    COMMIT = "the answer is the client's to see"
    RENEW = "with a renewed token of the same account"
    CLOSE_ACCOUNT = "on another account; this one is refused for good"
    PASS_OVER = "on another account; this one's token is for the next request to renew"  # noqa: S105
    ROTATE = "on another account; where all are out, the client is told so"
    ELSEWHERE = "on another account, if there is one"


def next_step(outcome: Outcome, kind: AccountKind, renewed: Renewed) -> Step:
    """What the answer to an account of this kind calls for."""
    if outcome.cause is Cause.AUTH:
        return _REFUSED_LOGIN[renewed] if kind is AccountKind.OAUTH else Step.CLOSE_ACCOUNT
    if outcome.scope in (Scope.ACCOUNT, Scope.MODEL):
        return Step.ROTATE
    return Step.ELSEWHERE if outcome.cause is Cause.OVERLOADED else Step.COMMIT


_REFUSED_LOGIN = {
    Renewed.NONE: Step.RENEW,
    Renewed.THIS: Step.CLOSE_ACCOUNT,
    Renewed.ANOTHERS: Step.PASS_OVER,
}

"""What to do with an answer that is not good, while nothing of it has gone down (`house.md`: Outcome -> Verdict)."""

from __future__ import annotations

from enum import Enum

from qproxy.core.classify import Cause, Outcome, Scope
from qproxy.core.health import AccountKind


class Step(Enum):
    """The next step of an exchange that holds an answer and has not committed it."""

    COMMIT = "the answer is the client's to see"
    REFRESH = "with a renewed token of the same account, once"
    CLOSE_ACCOUNT = "on another account; this one is refused for good"
    ROTATE = "on another account; where all are out, the client is told so"
    ELSEWHERE = "on another account, if there is one"


def next_step(outcome: Outcome, kind: AccountKind, *, refreshed: bool) -> Step:
    """What the answer calls for. `refreshed`: this request has renewed a token already; it does so once at most, since
    the free tier's login can be renewed for ever and is refused all the same (`qwen-wire.md` 11.1)."""
    if outcome.cause is Cause.AUTH:
        if kind is AccountKind.OAUTH and not refreshed:
            return Step.REFRESH
        return Step.CLOSE_ACCOUNT
    if outcome.scope in (Scope.ACCOUNT, Scope.MODEL):
        return Step.ROTATE
    return Step.ELSEWHERE if outcome.cause is Cause.OVERLOADED else Step.COMMIT

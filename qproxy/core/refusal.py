"""What a client is told when no account can take its request: how many there are in which state, never which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from qproxy.core.health import AccountKind, Standing
from qproxy.core.oauth import FREE_TIER_ENDED
from qproxy.errors import AccountError, InternalError

NO_ACCOUNT = "This upstream has no account. Log in with `qproxy auth login`, or configure a key."
LOG_IN = "Log in again with `qproxy auth login`."
NEW_KEY = "The upstream refuses a key: check or replace it."

_PHRASES = {  # for one, for more
    Standing.COOLING: ("is cooling down", "are cooling down"),
    Standing.LOGIN_NEEDED: ("needs login", "need login"),
    Standing.CLOSED: ("is closed", "are closed"),
    Standing.READY: ("was tried already", "were tried already"),
}


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why one account cannot be used now. READY: this request has been there. `wait_s` is that of its cool-downs."""

    kind: AccountKind
    standing: Standing
    wait_s: float


def refusal(accounts: Sequence[Unusable]) -> AccountError:
    """`all_accounts_limited` where one of them will be free again by itself, else `no_healthy_account`."""
    if not accounts:
        return AccountError("no_healthy_account", NO_ACCOUNT)
    waits_s = [each.wait_s for each in accounts if each.standing in (Standing.COOLING, Standing.READY)]
    if not waits_s:
        advice = " ".join(_advice(accounts))
        return AccountError("no_healthy_account", f"No account can be used ({_census(accounts)}). {advice}")
    retry_after_s = max(1, ceil(min(waits_s)))
    return AccountError(
        "all_accounts_limited",
        f"No account can be used now ({_census(accounts)}). Try again in {retry_after_s} s.",
        retry_after_s=retry_after_s,
    )


def all_busy() -> InternalError:
    """Accounts could be used, and each has as many requests under way as it may have."""
    message = "Every account that can be used has as many requests under way as it may have. Try again shortly."
    return InternalError("overloaded", message, retry_after_s=1)


def _census(accounts: Sequence[Unusable]) -> str:
    """`3 accounts: 2 are cooling down, 1 needs login`."""
    total = "1 account" if len(accounts) == 1 else f"{len(accounts)} accounts"
    standings = [each.standing for each in accounts]
    parts = [
        f"{count} {one if count == 1 else more}"
        for standing, (one, more) in _PHRASES.items()
        if (count := standings.count(standing))
    ]
    return f"{total}: {', '.join(parts)}"


def _advice(accounts: Sequence[Unusable]) -> list[str]:
    """What mends it: one sentence for each kind of trouble."""
    troubles = {(each.standing, each.kind) for each in accounts}
    advice = []
    if any(standing is Standing.LOGIN_NEEDED for standing, _ in troubles):
        advice.append(LOG_IN)
    if (Standing.CLOSED, AccountKind.API_KEY) in troubles:
        advice.append(NEW_KEY)
    if (Standing.CLOSED, AccountKind.OAUTH) in troubles:
        advice.append(FREE_TIER_ENDED)
    return advice

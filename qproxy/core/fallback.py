"""Where a request goes when its upstream cannot serve it: rules from a model or upstream to another one, by cause."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from qproxy.core.classify import Cause, Outcome
from qproxy.core.models import Choice
from qproxy.errors import QProxyError


class Trigger(Enum):
    """Why a request may go elsewhere: the upstream did no work for it, and says or shows so. The values are those of
    `on` in the configuration."""

    CONNECT = "connect"
    QUOTA = "quota"
    TOO_MANY = "429"
    OVERLOADED = "503"
    ACCOUNT = "account"
    CONTEXT = "context"


_QUOTA = frozenset({Cause.QUOTA, Cause.BILLING, Cause.ENTITLEMENT})
_ERRORS = {
    "upstream_connect_failed": Trigger.CONNECT,
    "upstream_dns_failed": Trigger.CONNECT,
    "upstream_tls_failed": Trigger.CONNECT,
    "overloaded": Trigger.OVERLOADED,
    "all_accounts_limited": Trigger.QUOTA,
    "no_healthy_account": Trigger.ACCOUNT,
    "credentials_unavailable": Trigger.ACCOUNT,
}


def triggers_of(outcome: Outcome) -> frozenset[Trigger]:
    """What an answer that is an error triggers; most trigger nothing."""
    found = set()
    if outcome.cause in _QUOTA:
        found.add(Trigger.QUOTA)
    if outcome.status == 429:
        found.add(Trigger.TOO_MANY)
    if outcome.cause is Cause.OVERLOADED:
        found.add(Trigger.OVERLOADED)
    if outcome.cause is Cause.AUTH:
        found.add(Trigger.ACCOUNT)
    if outcome.cause is Cause.CONTEXT_OVERFLOW:
        found.add(Trigger.CONTEXT)
    return frozenset(found)


def triggers_of_error(error: QProxyError) -> frozenset[Trigger]:
    """What an error triggers that came in place of an answer, with nothing sent."""
    trigger = _ERRORS.get(error.code)
    if trigger is None:
        return frozenset()
    limits = {Trigger.TOO_MANY} if trigger is Trigger.QUOTA else set()
    return frozenset({trigger, *limits})


@dataclass(frozen=True, slots=True)
class FallbackRule:
    """One `[[fallback]]`: `upstream` and `model` are None where the rule holds for all of them. `to_model` is None
    where the model keeps its name."""

    upstream: str | None
    model: str | None
    to_upstream: str
    to_model: str | None
    on: frozenset[Trigger]


class Fallbacks:
    """The rules of one configuration, in their order."""

    def __init__(self, rules: Sequence[FallbackRule]) -> None:
        self._rules = tuple(rules)

    def concern(self, upstream: str, model: str | None) -> bool:
        """Whether any rule may hold for a request that is there."""
        return any(_fits(rule, upstream, model) for rule in self._rules)

    def after(
        self, upstream: str, model: str | None, triggers: frozenset[Trigger], been: Collection[tuple[str, str | None]]
    ) -> Choice | None:
        """The next place, which is none of those where the request has `been`; None where there is none."""
        for rule in self._rules:
            if _fits(rule, upstream, model) and not triggers.isdisjoint(rule.on):
                target = rule.to_model if rule.to_model is not None else model
                if (rule.to_upstream, target) not in been:
                    return Choice(rule.to_upstream, target, rename=target is not None)
        return None


def _fits(rule: FallbackRule, upstream: str, model: str | None) -> bool:
    return rule.upstream in (None, upstream) and rule.model in (None, model)

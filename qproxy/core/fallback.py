"""Where a request goes when its upstream cannot serve it: rules from a model or upstream to another one, by cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from qproxy.core.breaker import LeftAlone
from qproxy.core.classify import Cause, Outcome
from qproxy.core.models import Choice
from qproxy.errors import QProxyError

Stop = tuple[str, str | None]
"""Where a request has been: the upstream, and the model's name there."""


class Trigger(Enum):
    """Why a request may go elsewhere. The values are those of `on` in the configuration. For all but SERVER_ERROR the
    upstream did no work, and says or shows so; that one needs `retry_on_5xx` as well."""

    CONNECT = "connect"
    QUOTA = "quota"
    TOO_MANY = "429"
    OVERLOADED = "503"
    ACCOUNT = "account"
    CONTEXT = "context"
    SERVER_ERROR = "5xx"


SERVER_ERRORS = frozenset({500, 502, 504})
"""Of these nobody knows whether the upstream began to work, or finished."""

_CAUSES = {
    Cause.QUOTA: Trigger.QUOTA,
    Cause.BILLING: Trigger.QUOTA,
    Cause.ENTITLEMENT: Trigger.QUOTA,
    Cause.OVERLOADED: Trigger.OVERLOADED,
    Cause.AUTH: Trigger.ACCOUNT,
    Cause.CONTEXT_OVERFLOW: Trigger.CONTEXT,
}
_CODES = {
    "upstream_connect_failed": frozenset({Trigger.CONNECT}),
    "upstream_dns_failed": frozenset({Trigger.CONNECT}),
    "upstream_tls_failed": frozenset({Trigger.CONNECT}),
    "overloaded": frozenset({Trigger.OVERLOADED}),
    "all_accounts_limited": frozenset({Trigger.QUOTA, Trigger.TOO_MANY}),
    "no_healthy_account": frozenset({Trigger.ACCOUNT}),
    "credentials_unavailable": frozenset({Trigger.ACCOUNT}),
    "context_length_exceeded": frozenset({Trigger.CONTEXT}),
}
_LEFT_ALONE = frozenset({Trigger.CONNECT, Trigger.OVERLOADED})


def triggers_of(outcome: Outcome) -> frozenset[Trigger]:
    """What an answer that is an error triggers; most trigger nothing."""
    found = {_CAUSES[outcome.cause]} if outcome.cause in _CAUSES else set()
    if outcome.status == 429:
        found.add(Trigger.TOO_MANY)
    if outcome.status in SERVER_ERRORS:
        found.add(Trigger.SERVER_ERROR)
    return frozenset(found)


def triggers_of_error(error: QProxyError) -> frozenset[Trigger]:
    """What an error triggers that came in place of an answer, with nothing sent."""
    if isinstance(error, LeftAlone):
        return _LEFT_ALONE
    return _CODES.get(error.code, frozenset())


@dataclass(frozen=True, slots=True)
class FallbackRule:
    """One `[[fallback]]`: `upstream` and `model` are None where the rule holds for all of them. `to_upstream` is None
    where the request stays at its upstream, `to_model` where the model keeps its name."""

    upstream: str | None
    model: str | None
    to_upstream: str | None
    to_model: str | None
    on: frozenset[Trigger]

    def fits(self, stop: Stop) -> bool:
        """Whether it is a rule for a request that has been there."""
        upstream, model = stop
        return self.upstream in (None, upstream) and self.model in (None, model)

    def leads_to(self, stop: Stop) -> Stop:
        """Where it leads from there."""
        upstream, model = stop
        return self.to_upstream or upstream, model if self.to_model is None else self.to_model


class Fallbacks:
    """The rules of one configuration, in their order."""

    def __init__(self, rules: Sequence[FallbackRule]) -> None:
        self._rules = tuple(rules)

    def concern(self, been: Sequence[Stop]) -> bool:
        """Whether any rule is one for a request that has been there."""
        return any(rule.fits(stop) for rule in self._rules for stop in been)

    def after(self, been: Sequence[Stop], triggers: frozenset[Trigger], *, within: str | None = None) -> Choice | None:
        """The next place, which is none of those where the request has `been`; None where there is none.

        The rules for where it is now, the last of them, come first; then those for where it was before. `within` is the
        only upstream that it may go to, None for all.
        """
        for stop in reversed(been):
            for rule in self._rules:
                if not rule.fits(stop) or triggers.isdisjoint(rule.on):
                    continue
                upstream, model = target = rule.leads_to(stop)
                if target not in been and within in (None, upstream):
                    return Choice(upstream, model, rename=model is not None)
        return None

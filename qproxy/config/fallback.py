"""`[[fallback]]`: from a model or an upstream to another one, with the causes that lead there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qproxy.config import options
from qproxy.config.sources import Sources, refusal, refuse_unknown, show, table_of
from qproxy.config.values import ConfigError
from qproxy.core.fallback import FallbackRule, Trigger

if TYPE_CHECKING:
    from collections.abc import Collection

SECTION = "fallback"
KEYS = ("from", "to", "on")
DEFAULT_ON = frozenset({Trigger.CONNECT, Trigger.QUOTA, Trigger.TOO_MANY, Trigger.OVERLOADED, Trigger.ACCOUNT})
_TO = "model, upstream:model or upstream:*"
_FROM = f"{_TO}, or * for all"


def places(sources: Sources) -> list[str]:
    """Whatever the rules name, so that the presets among it are upstreams, too."""
    rows = sources.table.get(SECTION, [])
    if not isinstance(rows, list):
        return []
    named = [row.get(key) for row in rows if isinstance(row, dict) for key in ("from", "to")]
    return [place for place in named if isinstance(place, str)]


def read_fallbacks(sources: Sources, upstreams: Collection[str]) -> tuple[FallbackRule, ...]:
    """The rules in their order. Raises ConfigError."""
    rows = sources.table.get(SECTION, [])
    if not isinstance(rows, list):
        raise refusal(f"fallback{sources.in_file}", show(rows), "tables, each under [[fallback]]")
    return tuple(_rule(row, sources, upstreams) for row in rows)


def _rule(row: object, sources: Sources, upstreams: Collection[str]) -> FallbackRule:
    where = f" in [[fallback]]{sources.in_file}"
    table = table_of(row, f"[[fallback]]{sources.in_file}")
    refuse_unknown(table, KEYS, where)
    is_all = table.get("from") == "*"
    from_upstream, from_model = (None, None) if is_all else _place("from", table, upstreams, where, _FROM)
    to_upstream, to_model = _place("to", table, upstreams, where, _TO)
    if to_upstream in (None, from_upstream) and to_model in (None, from_model):
        raise refusal(f"to{where}", show(table["to"]), "another place than from")
    triggers = _triggers(table, where)
    if Trigger.SERVER_ERROR in triggers and not sources.get(options.RETRY_ON_5XX):
        reason = "5xx needs retry_on_5xx = true (--retry-on-5xx), since work may be done twice"
        raise ConfigError(f"on{where} = {show(table['on'])}: {reason}")
    return FallbackRule(from_upstream, from_model, to_upstream, to_model, triggers)


def _place(
    key: str, table: Mapping[str, object], upstreams: Collection[str], where: str, allowed: str
) -> tuple[str | None, str | None]:
    """The upstream and the model that a text names; None for any, or for the same."""
    value = table.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise refusal(f"{key}{where}", show(value), allowed)
    if value in upstreams:
        raise refusal(f"{key}{where}", show(value), f"{allowed}; the upstream is {value}:*")
    upstream, colon, model = value.partition(":")
    if not (colon and upstream in upstreams):
        upstream, model = "", value
    if not model or ("*" in model and not (upstream and model == "*")):
        raise refusal(f"{key}{where}", show(value), f"{allowed}, with a configured upstream")
    return upstream or None, None if model == "*" else model


def _triggers(table: Mapping[str, object], where: str) -> frozenset[Trigger]:
    value = table.get("on")
    if value is None:
        return DEFAULT_ON
    allowed = f"a list of {', '.join(trigger.value for trigger in Trigger)}"
    if not isinstance(value, list) or not value:
        raise refusal(f"on{where}", show(value), allowed)
    try:
        return frozenset(Trigger(cause) for cause in value)
    except ValueError as exc:
        raise refusal(f"on{where}", show(value), allowed) from exc

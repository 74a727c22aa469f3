"""`[[fallback]]`: from a model or an upstream to another one, with the causes that lead there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qproxy.config.sources import Sources, refusal, refuse_unknown, show, table_of
from qproxy.core.fallback import FallbackRule, Trigger

if TYPE_CHECKING:
    from collections.abc import Collection

SECTION = "fallback"
KEYS = ("from", "to", "on")
DEFAULT_ON = frozenset({Trigger.CONNECT, Trigger.QUOTA, Trigger.TOO_MANY, Trigger.OVERLOADED, Trigger.ACCOUNT})
_PLACE = "model, upstream:model or upstream:*"


def places(sources: Sources) -> list[str]:
    """Whatever the rules name, so that the presets among it are upstreams, too."""
    rows = sources.table.get(SECTION, [])
    if not isinstance(rows, list):
        return []
    named = [row.get(key) for row in rows if isinstance(row, dict) for key in ("from", "to")]
    return [place for place in named if isinstance(place, str)]


def read_fallbacks(
    sources: Sources, upstreams: Collection[str], default_upstream: str | None
) -> tuple[FallbackRule, ...]:
    """The rules in their order. Raises ConfigError."""
    rows = sources.table.get(SECTION, [])
    if not isinstance(rows, list):
        raise refusal(f"fallback{sources.in_file}", show(rows), "tables, each under [[fallback]]")
    return tuple(_rule(row, sources, upstreams, default_upstream) for row in rows)


def _rule(row: object, sources: Sources, upstreams: Collection[str], default_upstream: str | None) -> FallbackRule:
    where = f" in [[fallback]]{sources.in_file}"
    table = table_of(row, f"[[fallback]]{sources.in_file}")
    refuse_unknown(table, KEYS, where)
    from_upstream, from_model = _place("from", table, upstreams, where)
    to_upstream, to_model = _place("to", table, upstreams, where)
    target = to_upstream or default_upstream
    if target is None:
        raise refusal(f"to{where}", show(table["to"]), "an upstream:model, since there is no default upstream")
    if from_upstream is None and from_model is None:
        raise refusal(f"from{where}", show(table["from"]), _PLACE)
    return FallbackRule(from_upstream, from_model, target, to_model, _triggers(table, where))


def _place(
    key: str, table: Mapping[str, object], upstreams: Collection[str], where: str
) -> tuple[str | None, str | None]:
    """The upstream and the model that a text names; None for any, or for the same."""
    value = table.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise refusal(f"{key}{where}", show(value), _PLACE)
    upstream, colon, model = value.partition(":")
    if colon and upstream in upstreams:
        if not model or "*" in model[:-1] or (model.endswith("*") and model != "*"):
            raise refusal(f"{key}{where}", show(value), _PLACE)
        return upstream, None if model == "*" else model
    if "*" in value:
        raise refusal(f"{key}{where}", show(value), f"{_PLACE}, with a configured upstream")
    return None, value


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

"""`[windows]`: how much models take, where the built-in table does not know or is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.config.sources import Sources, refusal, refuse_unknown, show
from qproxy.core.windows import FEWEST_TOKENS, MOST_TOKENS, ModelLimits, WindowRule

if TYPE_CHECKING:
    from collections.abc import Collection

SECTION = "windows"
KEYS = ("window", "output")
_NAME = "a model's name, or a prefix and one * at its end; upstream: may stand before it"
_VALUE = f"a number of tokens, or a table such as {{ window = {131_072}, output = {16_384} }}"


def read_windows(sources: Sources, upstreams: Collection[str]) -> tuple[WindowRule, ...]:
    """The rules. Raises ConfigError."""
    where = f" in [{SECTION}]{sources.in_file}"
    return tuple(_rule(name, value, upstreams, where) for name, value in sources.section(SECTION).items())


def _rule(name: str, value: object, upstreams: Collection[str], where: str) -> WindowRule:
    upstream, colon, pattern = name.partition(":")
    if not (colon and upstream in upstreams):
        upstream, pattern = "", name
    if not pattern or not pattern.isprintable() or "*" in pattern[:-1]:
        raise refusal(f"name{where}", show(name), _NAME)
    return WindowRule(upstream or None, pattern, _limits(show(name) + where, value))


def _limits(label: str, value: object) -> ModelLimits:
    if not isinstance(value, dict):
        return ModelLimits(window_tokens=_tokens(label, value, _VALUE))
    if not value:
        raise refusal(label, show(value), _VALUE)
    refuse_unknown(value, KEYS, f" of {label}")
    allowed = f"a whole number from {FEWEST_TOKENS} to {MOST_TOKENS}"
    window, output = (_tokens(f"{key} of {label}", value[key], allowed) if key in value else None for key in KEYS)
    return ModelLimits(window, output)


def _tokens(label: str, value: object, allowed: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and FEWEST_TOKENS <= value <= MOST_TOKENS:
        return value
    raise refusal(label, show(value), allowed)

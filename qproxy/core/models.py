"""From the model that a client names to the upstream that serves it, and to the name it has there.

In this order: an exact rule, the longest `prefix*` rule, an `upstream:model` prefix of the client's own, else the
default upstream. A rule is followed one step: its target is not looked up again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qproxy.errors import DownstreamError, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NO_UPSTREAM = (
    "No upstream is configured. Start qproxy with --upstream (a preset such as dashscope-intl, or a URL), "
    "or set DASHSCOPE_API_KEY, BAILIAN_TOKEN_PLAN_API_KEY or BAILIAN_CODING_PLAN_API_KEY."
)


class Choice(NamedTuple):
    """Where a request goes. `model` is its name there; None: the request named none, and there is no default.

    `rename` is True where the request named a model and `model` must stand in its place. Where it named none, `model`
    is the default to fill in.
    """

    upstream: str
    model: str | None
    rename: bool


@dataclass(frozen=True, slots=True)
class _Target:
    """The right side of a rule. `model` ends in what the star matched where `keeps_rest` is True."""

    upstream: str | None
    model: str
    keeps_rest: bool

    def name(self, rest: str) -> str:
        return self.model + rest if self.keeps_rest else self.model


class ModelRouter:
    """The rules of one configuration, compiled once; `resolve` costs a few dictionary look-ups.

    `rules` are pairs such as `("alias", "qwen3-coder-plus")`, `("local/*", "mine:*")`. A colon names an upstream only
    where the part before it is in `upstream_names`: `qwen3:8b` is a model. `default_model` fills in for a request
    without a model, wherever it goes; `default_models` does so per upstream, where the first is empty.
    """

    def __init__(
        self,
        rules: Sequence[tuple[str, str]],
        upstream_names: Sequence[str],
        default_upstream: str | None,
        default_model: str = "",
        default_models: Mapping[str, str] | None = None,
    ) -> None:
        self._upstream_names = frozenset(upstream_names)
        self._default_upstream = default_upstream
        self._default_model = default_model
        self._default_models = dict(default_models or {})
        targets = {pattern: self._target(target) for pattern, target in rules}
        self._exact = {pattern: target for pattern, target in targets.items() if not pattern.endswith("*")}
        self._prefixes = {pattern[:-1]: target for pattern, target in targets.items() if pattern.endswith("*")}
        self._prefix_lengths = tuple(sorted({len(prefix) for prefix in self._prefixes}, reverse=True))

    def resolve(self, model: str | None, pinned_upstream: str | None = None) -> Choice:
        """Where a request for `model` goes; `pinned_upstream` is the one that the client demands.

        A pin leaves only rules and prefixes that lead to the pinned upstream. Raises DownstreamError
        `unknown_upstream` for a pin that is not configured, InternalError `no_upstream` where nothing is.
        """
        if pinned_upstream is not None and pinned_upstream not in self._upstream_names:
            known = ", ".join(sorted(self._upstream_names)) or "none"
            raise DownstreamError("unknown_upstream", f"That upstream is not configured. Configured: {known}.")
        if model is not None:
            upstream, name = self._route(model, pinned_upstream)
            return Choice(self._or_default(upstream), name, rename=name != model)
        if self._default_model:
            upstream, name = self._route(self._default_model, pinned_upstream)
            return Choice(self._or_default(upstream), name, rename=False)
        upstream = self._or_default(pinned_upstream)
        return Choice(upstream, self._default_models.get(upstream) or None, rename=False)

    def resolve_blind(self, pinned_upstream: str | None) -> Choice | None:
        """Where a request goes whose model is not known yet; None where that depends on the model, or where a missing
        one would have to be filled in. The model may still have to lose an `upstream:` prefix."""
        if self._exact or self._prefixes or self._default_model:
            return None
        if pinned_upstream is None and len(self._upstream_names) > 1:
            return None
        choice = self.resolve(None, pinned_upstream)
        return choice if choice.model is None else None

    def _route(self, model: str, pin: str | None) -> tuple[str | None, str]:
        """The upstream that rules and prefixes give (None: none), and the model's name there."""
        for target, rest in self._candidates(model):
            if pin is None or target.upstream in (None, pin):
                return target.upstream or pin, target.name(rest)
        return pin, model

    def _candidates(self, model: str) -> Iterator[tuple[_Target, str]]:
        """What matches, the best first, with the part that the star stands for."""
        if (exact := self._exact.get(model)) is not None:
            yield exact, ""
        for length in self._prefix_lengths:
            if len(model) >= length and (prefixed := self._prefixes.get(model[:length])) is not None:
                yield prefixed, model[length:]
        upstream, name = self._split(model)
        if upstream is not None:
            yield _Target(upstream, name, keeps_rest=False), ""

    def _target(self, text: str) -> _Target:
        upstream, name = self._split(text)
        return _Target(upstream, name.removesuffix("*"), keeps_rest=name.endswith("*"))

    def _split(self, text: str) -> tuple[str | None, str]:
        upstream, _, name = text.partition(":")
        return (upstream, name) if name and upstream in self._upstream_names else (None, text)

    def _or_default(self, upstream: str | None) -> str:
        chosen = upstream if upstream is not None else self._default_upstream
        if chosen is None:
            raise InternalError("no_upstream", NO_UPSTREAM)
        return chosen

"""How much a model takes: context windows and output caps, from the settings, from what upstreams said, from a table.

In this order: a rule of the settings file, what the upstream itself said when it refused a request, the built-in table.
Names are compared in lower case and without what stands before their last slash (`vendor/model`); a star stands for any
end, and the longest rule wins.

Sources of the table: `qwen-wire.md` 5.3, 8.2. Where they differ the largest number stands here: a window that is too
small would refuse what the upstream takes, one that is too large costs an error that teaches the right one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FEWEST_TOKENS = 16  # nobody serves less; what an upstream says below it is no limit of a model
MOST_TOKENS = 1_000_000_000
MOST_LEARNED = 1_024
MOST_REMEMBERED = 4_096  # look-ups; clients name models as they like
LONGEST_NAME = 256

MILLION = 1_000_000


class ModelLimits(NamedTuple):
    """In tokens; None where it is not known. `window_tokens` is for the prompt, `output_tokens` for `max_tokens`."""

    window_tokens: int | None = None
    output_tokens: int | None = None


class WindowRule(NamedTuple):
    """One rule of the settings. `upstream` is None where it holds for all; `pattern` is a name, or a prefix and `*`."""

    upstream: str | None
    pattern: str
    limits: ModelLimits


TABLE: Mapping[str, ModelLimits] = {
    "coder-model": ModelLimits(1_048_576, 65_536),
    "qwen3.*": ModelLimits(MILLION, 131_072),
    "qwen3-coder-plus*": ModelLimits(MILLION, 65_536),
    "qwen3-coder-flash*": ModelLimits(MILLION, 65_536),
    "qwen-plus*": ModelLimits(MILLION, 32_768),
    "qwen-flash*": ModelLimits(MILLION, 32_768),
    "qwen*": ModelLimits(262_144, 32_768),
    "glm-5.2*": ModelLimits(MILLION),
    "glm-5*": ModelLimits(202_752),
    "glm-4*": ModelLimits(202_752),
    "kimi-k2*": ModelLimits(262_144),
    "kimi-k3*": ModelLimits(MILLION),
    "minimax-m2.5*": ModelLimits(196_608),
    "deepseek-v4*": ModelLimits(MILLION, 384_000),
}

_TEXT_ONLY = (
    "qwen3-coder", "qwen3-max", "qwen-plus", "qwen-flash", "qwen-turbo", "qwq", "glm-4", "glm-5", "deepseek-",
)  # fmt: skip


def reads_text_alone(model: str) -> bool:
    """Whether its prompts hold no images, so that their bytes tell their tokens. False where that is not known."""
    return _plain(model).startswith(_TEXT_ONLY)


class WindowTable:
    """The limits of all models of one server; it learns. Bounded: the oldest of what was learned makes room."""

    __slots__ = ("_learned", "_remembered", "_rules")

    def __init__(self, rules: Sequence[WindowRule] = ()) -> None:
        self._rules = [rule._replace(pattern=_plain(rule.pattern)) for rule in rules]
        self._learned: dict[tuple[str, str], ModelLimits] = {}
        self._remembered: dict[tuple[str | None, str], ModelLimits] = {}

    def window_of(self, model: str, upstream: str | None = None) -> int | None:
        """The context window in tokens; None where it is not known."""
        return self.limits_of(model, upstream).window_tokens

    def output_cap_of(self, model: str, upstream: str | None = None) -> int | None:
        """The most that `max_tokens` may be; None where it is not known."""
        return self.limits_of(model, upstream).output_tokens

    def limits_of(self, model: str, upstream: str | None = None) -> ModelLimits:
        """Both. Without an upstream only what holds for all of them is looked at."""
        found = self._remembered.get((upstream, model))
        if found is None:
            found = self._looked_up(model, upstream)
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            if len(model) <= LONGEST_NAME:
                self._remembered[upstream, model] = found
        return found

    def learn(self, model: str, upstream: str, limits: ModelLimits) -> bool:
        """An upstream said what a model takes. Whether that was news."""
        said = ModelLimits(*(tokens if _is_limit(tokens) else None for tokens in limits))
        if len(model) > LONGEST_NAME or said == ModelLimits():
            return False
        key = (upstream, _plain(model))
        known = self._learned.pop(key, ModelLimits())
        now = _first_of(said, known)
        if len(self._learned) >= MOST_LEARNED:
            del self._learned[next(iter(self._learned))]
        self._learned[key] = now
        self._remembered.clear()
        return now != known

    def learned(self) -> Mapping[tuple[str, str], ModelLimits]:
        """What upstreams said, by upstream and model."""
        return dict(self._learned)

    def _looked_up(self, model: str, upstream: str | None) -> ModelLimits:
        name = _plain(model)
        rules = [rule for rule in self._rules if rule.upstream in (None, upstream) and _fits(rule.pattern, name)]
        rules.sort(key=lambda rule: (rule.upstream is None, *_generality(rule.pattern)))
        limits = ModelLimits()
        for rule in rules:
            limits = _first_of(limits, rule.limits)
        if upstream is not None:
            limits = _first_of(limits, self._learned.get((upstream, name), ModelLimits()))
        for pattern in sorted((pattern for pattern in TABLE if _fits(pattern, name)), key=_generality):
            return _first_of(limits, TABLE[pattern])
        return limits


def _plain(model: str) -> str:
    return model.lower().rpartition("/")[2]


def _fits(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _generality(pattern: str) -> tuple[bool, int]:
    """Exact names come first, then the longest prefix."""
    return pattern.endswith("*"), -len(pattern)


def _first_of(first: ModelLimits, second: ModelLimits) -> ModelLimits:
    """What `first` knows, and of the rest what `second` knows."""
    window = second.window_tokens if first.window_tokens is None else first.window_tokens
    output = second.output_tokens if first.output_tokens is None else first.output_tokens
    return ModelLimits(window, output)


def _is_limit(tokens: int | None) -> bool:
    return tokens is not None and FEWEST_TOKENS <= tokens <= MOST_TOKENS

"""What the simulated model says: the same tokens in the same order each time, and JSON samples that fit a schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Multi-byte characters and characters that JSON escapes are among them, so that whoever re-encodes them is found out.
TOKENS = (
    "Hello",
    " from",
    " the",
    " Qwen",
    " simulator",
    ":",
    " 通义",
    "千问",
    ",",
    ' "quoted"',
    " and",
    "\n",
    " 🙂",
    " café",
    " \\path",
    " again.",
)
REASONING_TOKENS = ("Let", " me", " think", " 想一想", "…", " step", " by", " step", ".", "\n")
_FRAGMENT_CHARS = 6
_DEPTH_LIMIT = 8


def tokens(count: int) -> list[str]:
    """The first `count` tokens of an answer."""
    return repeated(TOKENS, count)


def reasoning(count: int) -> list[str]:
    """The first `count` tokens of a chain of thought."""
    return repeated(REASONING_TOKENS, count)


def repeated(words: Sequence[str], count: int) -> list[str]:
    """`count` words, from the first again after the last."""
    times, rest = divmod(max(count, 0), len(words))
    return [*words] * times + [*words[:rest]]


def prompt_tokens(body: bytes) -> int:
    """A rough count, four bytes each: plausible numbers are all that a usage chunk needs here."""
    return max(1, len(body) // 4)


def fragments(arguments: str) -> list[str]:
    """Arguments of a tool call, cut as a stream delivers them."""
    return [arguments[start : start + _FRAGMENT_CHARS] for start in range(0, len(arguments), _FRAGMENT_CHARS)]


def arguments_for(schema: object) -> str:
    """JSON text that fits the parameters of a function as far as types and required keys go."""
    return orjson.dumps(sample(schema)).decode()


def sample(schema: object, depth: int = 0) -> object:
    """A value for a JSON schema; text where the schema says nothing."""
    if not isinstance(schema, dict) or depth > _DEPTH_LIMIT:
        return "通义 sample"
    rule = cast("Mapping[str, object]", schema)
    options = rule.get("enum")
    if isinstance(options, list) and options:
        return cast("object", options[0])
    kind = rule.get("type")
    if kind == "object" or "properties" in rule:
        return _sample_object(rule, depth)
    if kind == "array":
        return [sample(rule.get("items"), depth + 1)]
    plain: dict[object, object] = {"integer": 7, "number": 1.5, "boolean": True, "null": None}
    return plain.get(kind, "通义 sample")


def _sample_object(rule: Mapping[str, object], depth: int) -> dict[str, object]:
    properties = rule.get("properties")
    if not isinstance(properties, dict):
        return {}
    return {str(name): sample(schema, depth + 1) for name, schema in properties.items()}

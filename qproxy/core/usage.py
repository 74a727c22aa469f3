"""The token counts that an upstream states at the end of an answer, found in its last bytes.

Nothing but the usage object itself is parsed: a body may be long, and only its end was kept. A key of a JSON text
cannot be counterfeited by a model: inside a string its quotes have backslashes before them.
Sources: `qwen-wire.md` 6.1 to 6.3; OpenAI's chat, embeddings and Responses objects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from qproxy.core.jsonscan import loads

MAX_TOKENS = 1_000_000_000  # per answer; what is above is no count but a defect, and sums must stay within 64 bits
MAX_OBJECTS = 4  # tried from the end: a tool's schema, repeated in an answer, may have a "usage" of its own

_KEY = b'"usage"'
# Three levels deep: usage, x_tools, web_search. A brace in a string of it would break the match, and never the count:
# what was cut out is no JSON then.
_PLAIN = rb"[^{}]*+"
_LEVEL_3 = rb"\{" + _PLAIN + rb"\}"
_LEVEL_2 = rb"\{" + _PLAIN + rb"(?:" + _LEVEL_3 + _PLAIN + rb")*+\}"
_LEVEL_1 = rb"\{" + _PLAIN + rb"(?:" + _LEVEL_2 + _PLAIN + rb")*+\}"
_MEMBER = re.compile(rb'(?<!\\)"usage"[ \t\n\r]*+:[ \t\n\r]*+(' + _LEVEL_1 + rb")")


class Usage(NamedTuple):
    """Tokens of one answer; 0 where the upstream said nothing. Cached ones are part of the prompt's, reasoning ones of
    the completion's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def usage_in(tail: bytes) -> Usage | None:
    """The last usage in the end of an answer; None where there is none with a count in it.

    `tail` is the end of a JSON body or of an event stream, without the framing of chunks (`TailWatch.payload`).
    """
    tried = 0
    at = tail.rfind(_KEY)
    while at >= 0 and tried < MAX_OBJECTS:
        member = _MEMBER.match(tail, at)  # null, as in most events of a stream, is none
        if member is not None:
            tried += 1
            usage = _usage_of(member[1])
            if usage is not None:
                return usage
        at = tail.rfind(_KEY, 0, at)
    return None


def _usage_of(text: bytes) -> Usage | None:
    try:
        fields = loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    prompt = _count(fields, "prompt_tokens", "input_tokens")
    completion = _count(fields, "completion_tokens", "output_tokens")
    total = _count(fields, "total_tokens")
    if prompt is None and completion is None and total is None:
        return None
    prompt, completion = prompt or 0, completion or 0
    cached = _detail(fields, "prompt_tokens_details", "input_tokens_details", "cached_tokens")
    if cached is None:
        cached = _count(fields, "cached_tokens")  # qwen-wire.md 6.3: some put it at the top
    reasoning = _detail(fields, "completion_tokens_details", "output_tokens_details", "reasoning_tokens")
    return Usage(prompt, completion, prompt + completion if total is None else total, cached or 0, reasoning or 0)


def _count(fields: Mapping[object, object], name: str, other: str = "") -> int | None:
    """The first of these fields that is a count."""
    value = fields.get(name)
    if type(value) is int and 0 <= value <= MAX_TOKENS:  # True is an int of its own type
        return value
    return _count(fields, other) if other else None


def _detail(fields: Mapping[object, object], name: str, other: str, count: str) -> int | None:
    """A count in the first of these fields that is an object."""
    details = fields.get(name)
    if not isinstance(details, dict):
        details = fields.get(other)
    return _count(details, count) if isinstance(details, dict) else None

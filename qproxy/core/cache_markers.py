"""DashScope's cache markers, put into a chat request where they help from one request to the next.

Rules (`qwen-wire.md` 5.5): `cache_control` on a content part or on a tool, at most 4 in a request; a block counts from
1,024 tokens on, is made when the answer is complete, and is looked for up to 20 parts in front of a marker. So they
stand behind what stays (the tools, the system prompt), behind the last message, for the next request to find, and
behind the one that ended the request before. Every byte of the body stays; a text becomes the only part of a list.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from qproxy.core import jsonscan
from qproxy.core.splice import Patch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qproxy.core.splice import BodyFacts

LEAST_BYTES = 4_096  # a shorter body has fewer than 1,024 tokens
MARKER = b'"cache_control":{"type":"ephemeral"}'

_STABLE_ROLES = frozenset({"system", "developer"})
_MARKED_ROLES = frozenset({"system", "developer", "user", "tool"})
_LITERALS = msgspec.json.Decoder(list[msgspec.Raw])
_BETWEEN = re.compile(rb"[ \t\n\r,]*+")


class _Kind(msgspec.Struct):
    role: str = ""
    type: str = ""


_KIND = msgspec.json.Decoder(_Kind)


class _Span(NamedTuple):
    """An element of an array, by its offsets in the body; `kind` is what it says of itself."""

    start: int
    stop: int
    kind: _Kind


def cache_markers(pieces: Sequence[bytes], facts: BodyFacts) -> tuple[Patch, ...]:
    """The markers of a body that was checked whole; none where it has some of its own, or where none would help."""
    if not facts.checked or sum(map(len, pieces)) < LEAST_BYTES or (facts.model or "").startswith("glm"):
        return ()  # without tools glm takes text alone
    body = b"".join(pieces)
    if jsonscan.may_have_key(body, "cache_control"):
        return ()
    arrays = _arrays(body)
    tools = _elements(body, arrays.get("tools"))
    messages = _elements(body, arrays.get("messages"))
    patches: list[Patch] = []
    if tools:
        patches += _in_object(body, tools[-1])
    for index in _places(messages):
        patches += _in_message(body, messages[index])
    return tuple(patches)


def _arrays(body: bytes) -> dict[str, jsonscan.Member]:
    """The members that may be marked; those that stand more than once are left alone."""
    literals = jsonscan.skim(body)
    if literals is None:
        return {}
    present = [key for key in ("messages", "tools") if key in literals]
    return jsonscan.dense_members(body, literals, present) or jsonscan.sole_members(body, present)


def _elements(body: bytes, array: jsonscan.Member | None) -> list[_Span]:
    """The objects of an array; none where it has anything else."""
    if array is None:
        return []
    spans = []
    at = array.start + 1
    try:
        for literal in _LITERALS.decode(body[array.start : array.stop]):
            between = _BETWEEN.match(body, at)
            start = between.end() if between else at
            at = start + len(literal)
            spans.append(_Span(start, at, _KIND.decode(literal)))
    except (msgspec.DecodeError, RecursionError):
        return []
    return spans


def _places(messages: Sequence[_Span]) -> list[int]:
    """The end of the system prompt, the end of the request before, the end of this one."""
    roles = [message.kind.role for message in messages]
    system = next((index for index, role in enumerate(roles) if role not in _STABLE_ROLES), len(roles)) - 1
    answer = max((index for index, role in enumerate(roles) if role == "assistant"), default=0)
    places = {system, answer - 1, len(roles) - 1}
    return sorted(place for place in places if place >= 0 and roles[place] in _MARKED_ROLES)


def _in_message(body: bytes, message: _Span) -> Iterator[Patch]:
    """At the end of its content."""
    contents = [member for member in jsonscan.members(body, message.start) if member.key == "content"]
    if len(contents) != 1:
        return
    content = contents[0]
    if body[content.start : content.start + 1] == b'"' and content.stop - content.start > 2:
        yield Patch(content.start, content.start, b'[{"type":"text","text":')
        yield Patch(content.stop, content.stop, b"," + MARKER + b"}]")
    elif body[content.start : content.start + 1] == b"[":
        parts = _elements(body, content)
        if parts and parts[-1].kind.type == "text":
            yield from _in_object(body, parts[-1])


def _in_object(body: bytes, span: _Span) -> Iterator[Patch]:
    """At its end, where it has members."""
    if not jsonscan.is_empty_object(body, span.start):
        yield Patch(span.stop - 1, span.stop - 1, b"," + MARKER)

"""A prompt as a row of digests, so that two requests of a conversation can be compared without keeping their words.

The parts are those that a chat template renders one behind the other: the tools, then each message. Digests are BLAKE2b
with a key of this process: without it nobody can tell from one whether a guess at the words is right.

Cache markers are no part of a prompt, and move on with the end of the conversation: what is marked, and a text that
became the only part of a list for it, has the digest that it had without.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from qproxy.core.jsonscan import skim

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BYTES = 4 * 1024 * 1024  # a million tokens; reading over it holds the interpreter for about 4 ms
MOST_MESSAGES = 2_048  # the others are not compared
MOST_PLAIN_BYTES = 256 * 1024  # of a part that is looked through for markers, which holds the interpreter for 1 ms
DIGEST_BYTES = 8

_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])
TOOLS = "the tools"

_SPACE = rb"[ \t\n\r]*+"
_MARKER = re.compile(rb"," + _SPACE + rb'"cache_control"' + _SPACE + rb":" + _SPACE + rb"\{[^{}]*+\}")
_ONE_TEXT = re.compile(
    rb'("content"' + _SPACE + rb":" + _SPACE + rb")\[" + _SPACE + rb"\{" + _SPACE
    + rb'"type"' + _SPACE + rb":" + _SPACE + rb'"text"' + _SPACE + rb"," + _SPACE
    + rb'"text"' + _SPACE + rb":" + _SPACE + rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")'
    + _SPACE + rb"\}" + _SPACE + rb"\]",
    re.DOTALL,
)  # fmt: skip


class _Message(msgspec.Struct):
    role: str = ""


_ROLE = msgspec.json.Decoder(_Message)
_KNOWN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class Blocks(NamedTuple):
    """The digests of one prompt. `conversation` is that of its first user message, which stays when something in front
    of it changes; `messages` has `DIGEST_BYTES` for each of `roles`."""

    conversation: bytes
    tools: bytes
    messages: bytes
    roles: tuple[str, ...]

    def first_change(self, later: Blocks) -> str:
        """The first part of this prompt that is another one in `later`, in words; "" where all of it stands there."""
        if self.tools != later.tools:
            return TOOLS
        for index, role in enumerate(self.roles):
            part = slice(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
            if self.messages[part] != later.messages[part]:
                return f"message {index} ({role})"
        return ""


def blocks_of(body: bytes, key: bytes) -> Blocks | None:
    """The digests of a chat request's body; None where it is none, has no user message, or is too long."""
    literals = skim(body) if len(body) <= MOST_BYTES else None
    if literals is None or "messages" not in literals:
        return None
    try:
        messages = _MESSAGES.decode(literals["messages"])[:MOST_MESSAGES]
        roles = tuple(map(_role, messages))
    except (msgspec.DecodeError, RecursionError):
        return None
    if "user" not in roles:
        return None
    return Blocks(
        conversation=_digest(messages[roles.index("user")], key),
        tools=_digest(literals.get("tools", b""), key),
        messages=b"".join(_digests(messages, key)),
        roles=roles,
    )


def _digests(messages: Sequence[msgspec.Raw], key: bytes) -> list[bytes]:
    return [_digest(message, key) for message in messages]


def _digest(part: msgspec.Raw | bytes, key: bytes) -> bytes:
    words = _without_markers(bytes(part)) if len(part) <= MOST_PLAIN_BYTES else part
    return hashlib.blake2b(words, digest_size=DIGEST_BYTES, key=key).digest()


def _without_markers(part: bytes) -> bytes:
    if b'"cache_control"' in part:
        part = _MARKER.sub(b"", part)
    return _ONE_TEXT.sub(rb"\1\2", part)


def _role(message: msgspec.Raw) -> str:
    """One of the known ones: the client's own words go nowhere."""
    try:
        role = _ROLE.decode(message).role
    except msgspec.DecodeError:
        return "?"
    return role if role in _KNOWN_ROLES else "?"

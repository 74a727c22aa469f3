"""Where things stand in a JSON text: a parse that takes all of RFC 8259, and the offsets of an object's members.

A member is found with a search at C speed and shown to be at the top level by parsing only what stands before it
(`first_in_head`) or behind it (`last_in_tail`). `members` walks a whole object, the slow and careful way: 3 to 7 ms
per MB, where a parse takes 0.5 to 3. Searches go backwards where they can: `rfind` is three times as fast as `find`.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

MAX_DEPTH = 1024

CANDIDATES = 4  # look-alikes tried from each end: more parses would cost more than the walk

_BACKSLASH = 0x5C
_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PLAIN = rb'[^"\[\]{}]*+'
_KEY = re.compile(rb"[ \t\n\r,{]*+(" + _STRING + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL)
_COLON = re.compile(_SPACE + rb":" + _SPACE)
_LEAF = re.compile(_STRING + rb"|[^ \t\n\r,:\[\]{}\"]++(?=[ \t\n\r,\]}])", re.DOTALL)
_TO_BRACKET = re.compile(_PLAIN + rb"(?:" + _STRING + _PLAIN + rb")*(?:([\[{])|[\]}])", re.DOTALL)
_EMPTY_OBJECT = re.compile(rb"\{" + _SPACE + rb"\}")
_ANY_STRING = re.compile(_STRING + rb"?", re.DOTALL)  # without the closing quote too, or a search becomes quadratic
_ESCAPED_KEY_LETTER = re.compile(rb"\\u00(?:[67]|5[fF])")
_SURROGATE = re.compile(
    rb"(?:\\\\)++"  # escaped backslashes: what follows them is no escape
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_LOOSE_START = re.compile(rb"([ \t\n\r]*+[\[{])([ \t\n\r]++)")
# Reads over values without making objects of them: a quarter of what a parse costs.
_SKIMMER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LEVELS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _skims(text: bytes) -> bool:
    try:
        _SKIMMER.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


# Up to CPython 3.11 the interpreter's recursion limit stops it in time, later ones let it nest some thousand levels.
_SKIMMER_NESTS_TOO_DEEP = _skims(b'{"":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")


class Member(NamedTuple):
    """One member of an object: its decoded key, and its value's offsets in the text, `start` to before `stop`."""

    key: str
    start: int
    stop: int


def loads(text: bytes) -> object:
    """The decoded text; a lone surrogate escape reads as U+FFFD.

    Raises orjson.JSONDecodeError on everything that RFC 8259 does not allow, on more than `MAX_DEPTH` levels and on
    numbers beyond a double. Its line and column are those of `text`.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        tamed = _tamed(text)
        if tamed == text:
            raise
        return orjson.loads(tamed)


def can_be_written(document: object) -> bool:
    """Whether what was read can be written, inside a few more objects: orjson reads 1,024 levels and writes 254."""
    try:
        orjson.dumps([[[[document]]]])
    except orjson.JSONEncodeError:
        return False
    return True


def _tamed(text: bytes) -> bytes:
    r"""A copy of the same length without the two valid things that orjson refuses.

    Lone surrogate escapes become the escape of U+FFFD. White space behind the first bracket moves in front of it: it
    makes the parser reserve memory for an indented text, too little for a dense one (`{\n "input":[0,0,0,...`).
    """
    if b"\\u" in text:
        text = _SURROGATE.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)
    loose = _LOOSE_START.match(text)
    return loose[2] + loose[1] + text[loose.end() :] if loose else text


def skim(text: bytes) -> Mapping[str, msgspec.Raw] | None:
    """The literals of the members of the object that `text` is, the last one of a repeated key; None where it takes a
    closer look: `text` is no valid object, or an odd one (lone surrogates, many brackets).

    What passes is UTF-8 and RFC 8259, with at most `MAX_DEPTH` levels. Numbers may be of any size.
    """
    try:
        literals = _SKIMMER.decode(text)
        if not text.isascii():
            text.decode()  # strings are read over, too
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if _SKIMMER_NESTS_TOO_DEEP and text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        return None
    return literals


def dense_members(text: bytes, literals: Mapping[str, msgspec.Raw], keys: Collection[str]) -> dict[str, Member]:
    """Those of the members that `skim` found in `text`, where that is nothing but them: no white space between them, no
    key repeated or escaped. Else none."""
    found: dict[str, Member] = {}
    at = 1
    for key, literal in literals.items():
        start = at + (len(key) if key.isascii() else len(key.encode())) + 3
        at = start + len(literal)
        if key in keys:
            found[key] = Member(key, start, at)
        at += 1
    # Whatever else there is makes the text longer than its members, and nothing makes it shorter.
    return found if at == len(text) else {}


def depth(text: bytes) -> int:
    """The deepest nesting of brackets outside strings. The text need not be valid."""
    brackets = _ANY_STRING.sub(b"", text).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_LEVELS.__getitem__, brackets), initial=0))


def has_escaped_key_letter(text: bytes) -> bool:
    r"""Whether a lower-case letter or `_` is spelled as `\u00xx`, so that a search for one of our keys may miss it."""
    return text.rfind(b"\\u00") >= 0 and _ESCAPED_KEY_LETTER.search(text) is not None


def may_have_key(text: bytes, key: str) -> bool:
    """False where no object in `text` can have that key."""
    return text.rfind(_quoted(key)) >= 0 or has_escaped_key_letter(text)


def members(text: bytes, at: int = 0) -> Iterator[Member]:
    """The members of the object that begins at `at`, in order and with repeated keys. It must be valid."""
    while key := _KEY.match(text, at):
        at = _value_stop(text, key.end())
        literal = key[1]
        yield Member(str(loads(literal)) if b"\\" in literal else literal[1:-1].decode(), key.end(), at)


def is_empty_object(text: bytes, at: int) -> bool:
    """Whether the object that begins at `at` has no members."""
    return _EMPTY_OBJECT.match(text, at) is not None


def member_at(text: bytes, at: int, key: str) -> Member:
    """The member whose quoted, unescaped key begins at `at`. Raises ValueError where `text` ends before it does."""
    colon = _COLON.match(text, at + len(key) + 2)
    if colon is None:
        raise ValueError("no member begins here")
    return Member(key, colon.end(), _value_stop(text, colon.end()))


def _value_stop(text: bytes, start: int) -> int:
    if text[start : start + 1] in (b"{", b"["):
        return _container_stop(text, start)
    leaf = _LEAF.match(text, start)
    if leaf is None:
        raise ValueError("the text ends inside a value")
    return leaf.end()


def _container_stop(text: bytes, at: int) -> int:
    level = 0
    while found := _TO_BRACKET.match(text, at):
        at = found.end()
        level += 1 if found.lastindex else -1
        if level == 0:
            return at
    raise ValueError("the text ends inside a value")


def sole_members(text: bytes, keys: Sequence[str]) -> dict[str, Member]:
    """Those of `keys` that stand once in the object that the valid `text` is; each stands there at least once."""
    is_searchable = not has_escaped_key_letter(text)
    found: dict[str, Member] = {}
    for key in keys:
        quoted_key = _quoted(key)
        at = text.rfind(quoted_key)
        if is_searchable and text.rfind(quoted_key, 0, at) < 0:
            found[key] = member_at(text, at, key)
        elif (member := _sole_member(text, key)) is not None:
            found[key] = member
    return found


def _sole_member(text: bytes, key: str) -> Member | None:
    first, last = first_in_head(text, key), last_in_tail(text, key)
    if first is not None and last is not None:
        return first if first == last else None
    same = [member for member in members(text) if member.key == key]
    return same[0] if len(same) == 1 else None


def last_member(text: bytes, key: str) -> Member | None:
    """The last member `key` of the object that the valid `text` is; None where there is none."""
    member = last_in_tail(text, key)
    if member is None:
        member = next((member for member in reversed(list(members(text))) if member.key == key), None)
    return member


def last_in_tail(tail: bytes, key: str) -> Member | None:
    """The last top-level `key` of a valid body that ends with `tail`; None where `tail` does not show one.

    If the body is valid and `{` with the rest from the key on parses, the key stands at depth one: a quote without a
    backslash before it opens or closes a string, and no letter can follow one that closes.
    """
    quoted_key = _quoted(key)
    at = len(tail)
    for _ in range(CANDIDATES):
        at = tail.rfind(quoted_key, 0, at)
        if at < 1:
            return None
        if tail[at - 1] != _BACKSLASH and _parses(b"{" + tail[at:]):
            return None if has_escaped_key_letter(tail[at:]) else member_at(tail, at, key)
    return None


def first_in_head(head: bytes, key: str) -> Member | None:
    """The first top-level `key` of a body that begins with `head`; None where `head` does not show it whole.

    What stands up to the end of its value must parse once a brace closes it; the rest of the body does not matter.
    """
    quoted_key = _quoted(key)
    if head.rfind(quoted_key) < 0:  # three times as fast as a find where there is nothing to be found
        return None
    at = 0
    for _ in range(CANDIDATES):
        at = head.find(quoted_key, at + 1)
        if at < 0:
            return None
        member = _first_member_at(head, at, key)
        if member is not None:
            return None if has_escaped_key_letter(head[:at]) else member
    return None


def _first_member_at(head: bytes, at: int, key: str) -> Member | None:
    if head[at - 1] == _BACKSLASH:
        return None
    try:
        member = member_at(head, at, key)
    except ValueError:
        return None
    return member if _parses(head[: member.stop] + b"}") else None


def _quoted(key: str) -> bytes:
    return b'"' + key.encode() + b'"'


def _parses(text: bytes) -> bool:
    try:
        loads(text)
    except orjson.JSONDecodeError:
        return False
    return True

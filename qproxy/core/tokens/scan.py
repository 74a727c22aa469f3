"""Reading a JSON text of any length in steps: where values begin and end, and long strings in pieces.

Nothing is parsed whole but what is short. What is passed over is looked at only as far as it takes to find its end, so
not every text that gets through is valid JSON; what is counted of it is. All functions raise `NotCountable` and nothing
else, whatever the bytes are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import orjson

from qproxy.core.jsonscan import MAX_DEPTH, loads
from qproxy.core.tokens import NotCountable

WINDOW_BYTES = 64 * 1024
"""What one call of the regular expressions or of the parser looks at: well below 1 ms."""

MOST_ITEMS = 100_000
"""Of an array whose items are looked at one by one, which takes some 10 us each."""

MOST_MEMBERS = 1_000
"""Of an object whose members are."""

_QUOTE = 0x22
_SPACE = re.compile(rb"[ \t\n\r]*+")
_KEY = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PLAIN = rb'[^"\[\]{}]*+'
_TO_BRACKET = re.compile(_PLAIN + rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"' + _PLAIN + rb")*+", re.DOTALL)
_LEAF = re.compile(rb"[^ \t\n\r,:\[\]{}\"]++")
# Whole characters of a string: no escape is torn apart, nor a pair of them for one character. Half of a pair is matched
# alone where what follows is seen not to be the other half. (No capturing groups: re miscounts them in such a loop.)
_UNITS = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89abAB])....|\\u[dD][89abAB]..\\u[dD][c-fC-F].."
    rb"|\\u[dD][89abAB]..(?=[^\\]|\\[^u]|\\u[^dD]|\\u[dD][^c-fC-F]))*+",
    re.DOTALL,
)


class Span(NamedTuple):
    """Where a value stands: from `start` to before `stop`."""

    start: int
    stop: int


def skip_space(text: bytes, at: int) -> int:
    """Where the next byte is that is no white space, or the end."""
    while True:
        found = _SPACE.match(text, at, at + WINDOW_BYTES)
        assert found is not None
        if found.end() < at + WINDOW_BYTES:
            return found.end()
        at = found.end()


def members(text: bytes, start: int) -> Iterator[tuple[str, Span]]:
    """The members of the object that begins at `start`."""
    at = skip_space(text, start + 1)
    if text[at : at + 1] == b"}":
        return
    for _ in range(MOST_MEMBERS):
        name, value = member_at(text, at)
        stop = value_stop(text, value)
        yield name, Span(value, stop)
        at = skip_space(text, stop)
        if text[at : at + 1] == b"}":
            return
        at = _behind_comma(text, at)
    raise NotCountable(f"An object has more than {MOST_MEMBERS} members.")


def member_at(text: bytes, at: int) -> tuple[str, int]:
    """The name of the member that begins at `at` or behind white space there, and where its value begins."""
    at = skip_space(text, at)
    key = _KEY.match(text, at, at + WINDOW_BYTES)
    colon = skip_space(text, key.end()) if key is not None else at
    if key is None or text[colon : colon + 1] != b":":
        raise NotCountable(f"The body is not JSON: no member begins at byte {at}.")
    return _key_of(key[0]), skip_space(text, colon + 1)


def fields(text: bytes, span: Span) -> dict[str, Span]:
    """The members of an object by name, the last one of each."""
    if text[span.start : span.start + 1] != b"{":
        raise NotCountable(f"What stands at byte {span.start} should be an object.")
    return dict(members(text, span.start))


def items(text: bytes, start: int) -> Iterator[Span]:
    """The items of the array that begins at `start`."""
    at = skip_space(text, start + 1)
    if text[at : at + 1] != b"]":
        yield from items_from(text, at)


def items_from(text: bytes, at: int) -> Iterator[Span]:
    """The items of an array from the one on that begins at `at`."""
    for _ in range(MOST_ITEMS):
        stop = value_stop(text, at)
        yield Span(at, stop)
        at = skip_space(text, stop)
        if text[at : at + 1] == b"]":
            return
        at = skip_space(text, _behind_comma(text, at))
    raise NotCountable(f"An array has more than {MOST_ITEMS} items.")


def _behind_comma(text: bytes, at: int) -> int:
    if text[at : at + 1] != b",":
        raise NotCountable(f"The body is not JSON: something is missing at byte {at}.")
    return at + 1


def value_stop(text: bytes, start: int) -> int:
    """Where the value ends that begins at `start`."""
    first = text[start : start + 1]
    if first == b'"':
        return _string_stop(text, start + 1)
    if first in (b"{", b"["):
        return _container_stop(text, start)
    leaf = _LEAF.match(text, start, start + WINDOW_BYTES)
    if leaf is None or leaf.end() == start + WINDOW_BYTES:
        raise NotCountable(f"The body is not JSON: no value begins at byte {start}.")
    return leaf.end()


def _string_stop(text: bytes, at: int) -> int:
    """Behind the closing quote of the string whose first character is at `at`."""
    while True:
        found = _IN_STRING.match(text, at, at + WINDOW_BYTES)
        assert found is not None
        stop = found.end()
        if text[stop : stop + 1] == b'"':
            return stop + 1
        if stop == at:
            raise NotCountable("The body is not JSON: it ends inside a string.")
        at = stop


def _container_stop(text: bytes, at: int) -> int:
    depth = 0
    while True:
        found = _TO_BRACKET.match(text, at, at + WINDOW_BYTES)
        assert found is not None
        at = found.end()
        byte = text[at : at + 1]
        if byte == b'"':
            at = _string_stop(text, at + 1)
        elif byte in (b"{", b"["):
            depth += 1
            at += 1
            if depth > MAX_DEPTH:
                raise NotCountable(f"The body is nested more than {MAX_DEPTH} levels deep.")
        elif byte in (b"}", b"]"):
            depth -= 1
            at += 1
            if depth == 0:
                return at
        elif not byte:
            raise NotCountable("The body is not JSON: it ends inside a value.")


def _key_of(literal: bytes) -> str:
    try:
        return str(loads(literal)) if b"\\" in literal else literal[1:-1].decode()
    except (orjson.JSONDecodeError, UnicodeDecodeError) as exc:
        raise NotCountable("The body is not JSON: a name in it cannot be read.") from exc


def is_string(text: bytes, span: Span) -> bool:
    return text[span.start] == _QUOTE


def strings(text: bytes, span: Span) -> Iterator[str]:
    """The string that stands at `span`, in pieces of whole characters; a lone surrogate reads as U+FFFD."""
    at, stop = span.start + 1, span.stop - 1
    while stop - at > WINDOW_BYTES:
        end = _units_stop(text, at)
        yield _decoded(text[at:end])
        at = end
    yield _decoded(text[at:stop])


def _units_stop(text: bytes, at: int) -> int:
    """The end of the last whole character in the window."""
    found = _UNITS.match(text, at, at + WINDOW_BYTES)
    assert found is not None
    end = found.end()
    while end > at and text[end] & 0xC0 == 0x80:
        end -= 1
    if end == at:
        raise NotCountable(f"The body is not JSON: the string at byte {at} cannot be read.")
    return end


def _decoded(literal: bytes) -> str:
    try:
        return str(loads(b'"%b"' % literal))
    except orjson.JSONDecodeError as exc:
        raise NotCountable("The body is not JSON: a string in it cannot be read.") from exc


def value_of(text: bytes, span: Span) -> object:
    """A short value, parsed; None where it is longer than the window."""
    if span.stop - span.start > WINDOW_BYTES:
        return None
    try:
        return loads(text[span.start : span.stop])
    except orjson.JSONDecodeError as exc:
        raise NotCountable(f"The body is not JSON: the value at byte {span.start} cannot be read.") from exc


def raw_text(text: bytes, span: Span) -> Iterator[str]:
    """The JSON text of a value as it stands there, in pieces."""
    for at in range(span.start, span.stop, WINDOW_BYTES):
        yield text[at : min(at + WINDOW_BYTES, span.stop)].decode("utf-8", "replace")

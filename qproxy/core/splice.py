"""JSON request bodies: checked, read for the few facts that the proxy needs, edited in place.

A body is the list of pieces in which it came. Up to `inspect_bytes` it is checked whole. Of a longer one a head and a
tail are looked at, and a whole parse is the exception: it holds the interpreter lock for up to 3 ms per MB.

Repeated keys. In a checked body a second top-level `model` or `stream`, in whatever spelling, is an error. In a longer
one the tail is searched first: what is found there is the last one, and the last one counts for the parsers of the
known servers (Python's json, pydantic, Go, Jackson, nlohmann). What is found in the head was not met in the tail; of a
body that goes up while it arrives the tail is seen last, and another model there is an error. A second one in the
middle is not looked for, since that would make every request pay by its length to save a client from its own mistake:
the upstream judges the rest. Where a client key restricts models, the caller passes the size of the body as
`inspect_bytes`, and nothing stays unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

import orjson

from qproxy.core import jsonscan
from qproxy.core.jsonscan import MAX_DEPTH
from qproxy.core.limits import KIB
from qproxy.errors import DownstreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

WINDOW_BYTES = 64 * KIB
COPIED_BYTES = 16 * KIB  # of an edited piece, parts up to here are copied, longer ones are views

Buffer: TypeAlias = bytes | memoryview

_BOOLEANS = {b"true": True, b"false": False}
_HINTS = {  # by the character at fault
    "": "the body ends too early",
    "'": "strings take double quotes",
    "N": "NaN is not JSON, send null",
    "I": "Infinity is not JSON, send null",
    "T": "write true in lower case",
    "F": "write false in lower case",
    "/": "JSON has no comments",
    "\n": "a line break in a string is written \\n",
    "\r": "a line break in a string is written \\r",
    "\t": "a tab in a string is written \\t",
}


class BodyFacts(NamedTuple):
    """What is known of a body.

    `model` is the top-level `model` where that is a string (its lone surrogates read as U+FFFD), and `model_span` are
    the offsets of its literal, first byte to behind the last. `stream` is None where it is neither true nor false, or
    was not found. `checked`: the whole body is a valid object.
    """

    model: str | None
    has_model: bool
    stream: bool | None
    model_span: tuple[int, int] | None
    checked: bool


@dataclass(frozen=True, slots=True)
class Rename:
    """Replaces the value of `model` where that is a string."""

    model: str


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """Puts `model` in front where the body has none."""

    model: str


@dataclass(frozen=True, slots=True)
class IncludeUsage:
    """Makes `stream_options.include_usage` true where `stream` is.

    Absent, null and false become true, other values are the upstream's to judge; of repeated keys the last one counts.
    """


@dataclass(frozen=True, slots=True)
class Patches:
    """Changes whose places in this body are known already; they overlap no other edit."""

    patches: tuple[Patch, ...]


Edit: TypeAlias = Rename | DefaultModel | IncludeUsage | Patches


def examine(pieces: Sequence[bytes], *, inspect_bytes: int, window_bytes: int = WINDOW_BYTES) -> BodyFacts:
    """The facts of the body. Raises DownstreamError `invalid_utf8`, `invalid_json`, `too_deep` or `duplicate_key`.

    A body longer than `inspect_bytes` is checked whole only where neither its first nor its last `window_bytes` show
    the model.
    """
    if sum(map(len, pieces)) > inspect_bytes:
        facts = _facts_from_ends(Ends.of(pieces, window_bytes))
        if facts is not None:
            return facts
    return _facts_from_whole(b"".join(pieces))


def examine_head(head: bytes) -> BodyFacts | None:
    """The facts that the first bytes of a longer body show, for a body that goes up while it arrives; None where they
    do not show the model. Whether its end shows another one is for `refuse_other_model` to say."""
    return _facts_from_ends(Ends(head, b"", 0))


def rename_in_tail(tail: bytes, new_name: Callable[[str], str]) -> bytes:
    """The end of a body whose length has been announced, with `model` renamed where it stands there: white space behind
    the shorter name makes up for it. A longer name does not fit, and the tail stays as it is."""
    member = jsonscan.last_in_tail(tail, "model")
    literal = b"" if member is None else tail[member.start : member.stop]
    if member is None or not literal.startswith(b'"'):
        return tail
    name = str(jsonscan.loads(literal))
    new = new_name(name)
    renamed = orjson.dumps(new)
    if new == name or len(renamed) > len(literal):
        return tail
    return tail[: member.start] + renamed.ljust(len(literal)) + tail[member.stop :]


def refuse_other_model(pieces: Sequence[bytes], names: Collection[str]) -> None:
    """Look at the end of a body whose model was read from its beginning. Raises DownstreamError `duplicate_key` where
    it shows a model that is none of `names`: for the parsers of the known servers that one would count."""
    tail = _tail(pieces, WINDOW_BYTES)
    member = jsonscan.last_in_tail(tail, "model")
    if member is not None and _decoded(tail[member.start : member.stop]) not in names:
        raise _repeated("model")


def apply(
    pieces: Sequence[bytes], facts: BodyFacts, edits: Sequence[Edit], *, window_bytes: int = WINDOW_BYTES
) -> list[Buffer]:
    """The body with the edits, at most one of each kind. Every byte that is not edited is the one that came.

    Pieces that no edit touches stay the same objects. An edit whose condition does not hold changes nothing. Raises
    DownstreamError as `examine` does, where an edit needs the whole of a body that was not checked and is invalid.
    """
    patches: list[Patch] = []
    for edit in edits:
        match edit:
            case Rename(model):
                patches += _rename(facts, model)
            case DefaultModel(model):
                patches += _default_model(pieces, facts, model)
            case IncludeUsage():
                patches += _include_usage(pieces, facts, window_bytes)
            case Patches(ready):
                patches += ready
            case _:
                assert_never(edit)
    return _patched(pieces, patches) if patches else list(pieces)


def _facts_from_whole(body: bytes) -> BodyFacts:
    literals = jsonscan.skim(body)
    document = _checked_object(body) if literals is None else literals
    present = [key for key in ("model", "stream") if key in document]
    found = {} if literals is None else jsonscan.dense_members(body, literals, present)
    if not found:
        found = jsonscan.sole_members(body, present)
    if len(found) < len(present):
        raise _repeated(next(key for key in present if key not in found))
    values = {key: _decoded(body[found[key].start : found[key].stop]) for key in present}
    model, stream = values.get("model"), values.get("stream", False)
    return BodyFacts(
        model=model if isinstance(model, str) else None,
        has_model="model" in document,
        stream=stream if isinstance(stream, bool) else None,
        model_span=(found["model"].start, found["model"].stop) if isinstance(model, str) else None,
        checked=True,
    )


def _repeated(key: str) -> DownstreamError:
    return DownstreamError("duplicate_key", f'The body has "{key}" more than once; send it once.', param=key)


def _decoded(literal: bytes) -> object:
    """A string or a boolean; None for all else, which no fact is read from and which a parse may refuse (1e400)."""
    return jsonscan.loads(literal) if literal.startswith(b'"') else _BOOLEANS.get(literal)


def _facts_from_ends(ends: Ends) -> BodyFacts | None:
    """None where the ends do not show a model that is a string."""
    model = ends.find("model") if ends.head.lstrip(b" \t\n\r").startswith(b"{") else None
    if model is None or not model.literal.startswith(b'"'):
        return None
    stream = ends.find("stream")
    return BodyFacts(
        model=str(jsonscan.loads(model.literal)),
        has_model=True,
        stream=_BOOLEANS.get(stream.literal) if stream is not None else None,
        model_span=(model.start, model.stop),
        checked=False,
    )


def _checked_object(body: bytes) -> Mapping[str, object]:
    try:
        document = jsonscan.loads(body)
    except orjson.JSONDecodeError as exc:
        raise _refusal(body, exc) from None
    if not isinstance(document, dict):
        raise DownstreamError("invalid_json", 'The body must be a JSON object, {"model": ...} (line 1, column 1).')
    return document


def _refusal(body: bytes, error: orjson.JSONDecodeError) -> DownstreamError:
    """What the client must change; orjson has one class for all errors, and its wording differs between versions."""
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        message = f"The body is not UTF-8: byte 0x{body[exc.start]:02x} at offset {exc.start}. Send UTF-8."
        return DownstreamError("invalid_utf8", message)
    if jsonscan.depth(body) > MAX_DEPTH:
        return DownstreamError("too_deep", f"The body nests deeper than {MAX_DEPTH} levels; flatten it.")
    line, column, hint = error.lineno, error.colno, _HINTS.get(text[error.pos : error.pos + 1], error.msg)
    if not text.strip(" \t\n\r"):
        line, column, hint = 1, 1, "it is empty, send a JSON object"
    elif text.startswith("\ufeff"):
        hint = "leave out the byte order mark"
    elif "\0" in text[:4]:
        hint = "this looks like UTF-16 or UTF-32, send UTF-8"
    return DownstreamError("invalid_json", f"The body is not valid JSON at line {line}, column {column}: {hint}.")


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as it stands in the body, from the offset `start` on."""

    start: int
    literal: bytes

    @property
    def stop(self) -> int:
        return self.start + len(self.literal)


@dataclass(frozen=True, slots=True)
class Ends:
    """The head and the tail of a body; `tail_at` is the offset of the tail."""

    head: bytes
    tail: bytes
    tail_at: int

    @classmethod
    def of(cls, pieces: Sequence[Buffer], window_bytes: int) -> Ends:
        tail = _tail(pieces, window_bytes)
        return cls(_head(pieces, window_bytes), tail, sum(map(len, pieces)) - len(tail))

    def find(self, key: str) -> _Value | None:
        """The value of the last top-level `key` in the tail; else of the first one in the head.

        None where neither shows one, or where the tail may hide one in an escaped spelling.
        """
        member = jsonscan.last_in_tail(self.tail, key)
        if member is not None:
            return _Value(self.tail_at + member.start, self.tail[member.start : member.stop])
        if jsonscan.has_escaped_key_letter(self.tail):
            return None
        member = jsonscan.first_in_head(self.head, key)
        if member is not None:
            return _Value(member.start, self.head[member.start : member.stop])
        return None


def _head(pieces: Sequence[Buffer], missing_bytes: int) -> bytes:
    taken: list[Buffer] = []
    for piece in pieces:
        if missing_bytes <= 0:
            break
        taken.append(piece[:missing_bytes])
        missing_bytes -= len(piece)
    return b"".join(taken)


def _tail(pieces: Sequence[Buffer], missing_bytes: int) -> bytes:
    taken: list[Buffer] = []
    for piece in reversed(pieces):
        if missing_bytes <= 0:
            break
        taken.append(piece[-missing_bytes:])
        missing_bytes -= len(piece)
    return b"".join(reversed(taken))


@dataclass(frozen=True, slots=True)
class Patch:
    """`text` in place of the body's bytes from `start` to before `stop`."""

    start: int
    stop: int
    text: bytes


def _rename(facts: BodyFacts, model: str) -> Iterator[Patch]:
    if facts.model_span is not None:
        yield Patch(*facts.model_span, orjson.dumps(model))


def _default_model(pieces: Sequence[bytes], facts: BodyFacts, model: str) -> Iterator[Patch]:
    if not facts.has_model:
        yield _put_first(b"".join(pieces), b'"model":' + orjson.dumps(model))


def _include_usage(pieces: Sequence[bytes], facts: BodyFacts, window_bytes: int) -> Iterator[Patch]:
    if facts.stream is None and not facts.checked:
        facts = _facts_from_whole(b"".join(pieces))
    if not facts.stream:
        return
    options = _stream_options(pieces, facts, window_bytes)
    if options is None:
        yield _put_first(b"".join(pieces), b'"stream_options":{"include_usage":true}')
    else:
        yield from _usage_in(options)


def _stream_options(pieces: Sequence[bytes], facts: BodyFacts, window_bytes: int) -> _Value | None:
    """The value that counts; None where there is none, which takes a search of the whole body to say."""
    found = Ends.of(pieces, window_bytes).find("stream_options")
    if found is not None:
        return found
    body = b"".join(pieces)
    if not jsonscan.may_have_key(body, "stream_options"):
        return None
    if not facts.checked:
        _checked_object(body)
    member = jsonscan.last_member(body, "stream_options")
    return None if member is None else _Value(member.start, body[member.start : member.stop])


def _usage_in(options: _Value) -> Iterator[Patch]:
    if options.literal == b"null":
        yield Patch(options.start, options.stop, b'{"include_usage":true}')
    elif options.literal.startswith(b"{"):
        usage = jsonscan.last_member(options.literal, "include_usage")
        if usage is None:
            yield _put_first(options.literal, b'"include_usage":true', options.start)
        elif options.literal[usage.start : usage.stop] in (b"false", b"null"):
            yield Patch(options.start + usage.start, options.start + usage.stop, b"true")


def _put_first(text: bytes, member: bytes, base: int = 0) -> Patch:
    """Puts `member` in front of those of the object that `text` is; `base` is the offset of `text` in the body."""
    opening = text.index(b"{")
    inside = base + opening + 1
    return Patch(inside, inside, member if jsonscan.is_empty_object(text, opening) else member + b",")


def _patched(pieces: Sequence[bytes], patches: Sequence[Patch]) -> list[Buffer]:
    """The pieces with the patches put in. They do not overlap; those at one offset keep their order."""
    patched: list[Buffer] = []
    at = 0
    for patch in sorted(patches, key=lambda patch: patch.start):
        patched += _between(pieces, at, patch.start)
        patched.append(patch.text)
        at = patch.stop
    patched += _between(pieces, at, sum(map(len, pieces)))
    return patched


def _between(pieces: Sequence[bytes], start: int, stop: int) -> Iterator[Buffer]:
    """What the pieces hold at the offsets from `start` to before `stop` of the body."""
    offset = 0
    for piece in pieces:
        first, last = max(start - offset, 0), min(stop - offset, len(piece))
        if first < last:
            is_view = COPIED_BYTES < last - first < len(piece)
            yield memoryview(piece)[first:last] if is_view else piece[first:last]
        offset += len(piece)

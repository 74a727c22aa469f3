"""`max_tokens` above what a model takes: lowered in the body before it is sent, and read for messages about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qproxy.core import jsonscan
from qproxy.core.splice import WINDOW_BYTES, Ends, Patch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qproxy.core.splice import BodyFacts, Buffer

FIELDS = ("max_tokens", "max_completion_tokens")
_WHOLE_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]{0,17})")


def clamped(
    pieces: Sequence[bytes], facts: BodyFacts, most: int, *, window_bytes: int = WINDOW_BYTES
) -> tuple[Patch, ...]:
    """The changes that leave neither of the fields above `most`; none where they are not, or are no whole numbers.

    A body that was not checked whole (`BodyFacts.checked`) is searched in its first and last `window_bytes` alone.
    """
    return tuple(_patches(pieces, facts, most, window_bytes))


def _patches(pieces: Sequence[bytes], facts: BodyFacts, most: int, window_bytes: int) -> Iterator[Patch]:
    ends = Ends.of(pieces, window_bytes)
    for field in FIELDS:
        found = ends.find(field)
        start, literal = (found.start, found.literal) if found is not None else (0, b"")
        if found is None and facts.checked:
            start, literal = _searched(b"".join(pieces), field)
        number = _number(literal)
        if number is not None and number > most:
            yield Patch(start, start + len(literal), b"%d" % most)


def number_in(pieces: Sequence[Buffer], field: str, *, window_bytes: int = WINDOW_BYTES) -> int | None:
    """The whole number that a top-level field of a valid body has; None where its ends show none."""
    found = Ends.of(pieces, window_bytes).find(field)
    return None if found is None else _number(found.literal)


def _searched(body: bytes, field: str) -> tuple[int, bytes]:
    """The last value of that name, wherever it stands; empty where there is none."""
    if not jsonscan.may_have_key(body, field):
        return 0, b""
    member = jsonscan.last_member(body, field)
    return (0, b"") if member is None else (member.start, body[member.start : member.stop])


def _number(literal: bytes) -> int | None:
    return int(literal) if _WHOLE_NUMBER.fullmatch(literal) else None

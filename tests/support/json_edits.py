"""What the edits of request bodies must come to, told from a parse alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.json_texts import Document


def with_last(document: Document, key: str, value: object) -> Document:
    """The document with another value of the last `key`."""
    at = max(place for place, (name, _) in enumerate(document) if name == key)
    return (*document[:at], (key, value), *document[at + 1 :])


def including_usage(document: Document) -> Document:
    """The document as it must read after IncludeUsage."""
    decoded = dict(document)
    if decoded.get("stream") is not True:
        return document
    if "stream_options" not in decoded:
        return (("stream_options", (("include_usage", True),)), *document)
    options = decoded["stream_options"]
    if options is None:
        return with_last(document, "stream_options", (("include_usage", True),))
    if not isinstance(options, tuple):
        return document
    usage = dict(options).get("include_usage", False)
    if usage is not None and usage is not False:
        return document
    if "include_usage" not in dict(options):
        return with_last(document, "stream_options", (("include_usage", True), *options))
    return with_last(document, "stream_options", with_last(options, "include_usage", True))


def replaced(before: bytes, after: bytes) -> bytes:
    """What of `before` is gone, without the bytes that both have in front and behind."""
    front = _common(before, after)
    back = _common(before[front:][::-1], after[front:][::-1])
    return before[front : len(before) - back]


def _common(first: bytes, second: bytes) -> int:
    shorter = min(len(first), len(second))
    return next((at for at in range(shorter) if first[at] != second[at]), shorter)

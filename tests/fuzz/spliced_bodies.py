"""A JSON body: what is known of it, and every edit, against a parse of the whole by the standard library."""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING

from qproxy.core.jsonscan import depth
from qproxy.core.splice import (
    BodyFacts,
    DefaultModel,
    IncludeUsage,
    Rename,
    apply,
    examine,
    examine_head,
    rename_in_tail,
)
from qproxy.errors import DownstreamError
from tests.fuzz.splits import splits
from tests.support.json_edits import including_usage, replaced, with_last
from tests.support.json_texts import accepts, pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qproxy.core.splice import Edit
    from tests.support.json_texts import Document

WHOLE = 1 << 30
NAME = 'new "модель"'
WINDOWS_BYTES = (8, 40, 200)
DEEP = 200
"""Brackets may nest so deep in a body of this test: the standard library's parser has less room than ours."""


def one_input(data: bytes) -> None:
    facts = _examined([data], WHOLE, WHOLE)
    for pieces in splits(data):
        assert _examined(pieces, WHOLE, WHOLE) == facts
    if depth(data) > DEEP:
        return
    if isinstance(facts, BodyFacts):
        _check_edits(data, facts)
    else:
        assert facts in _reasons_to_refuse(data)
    _check_long(data, facts)


def _examined(pieces: Sequence[bytes], inspect_bytes: int, window_bytes: int) -> BodyFacts | str:
    """The facts, or the code of the refusal."""
    try:
        return examine(pieces, inspect_bytes=inspect_bytes, window_bytes=window_bytes)
    except DownstreamError as exc:
        return exc.code


def _reasons_to_refuse(data: bytes) -> set[str]:
    try:
        data.decode()
    except UnicodeDecodeError:
        return {"invalid_utf8"}
    reasons = set() if accepts(data) else {"invalid_json"}  # also for a number that only some parsers have room for
    try:
        names = [name for name, _ in pairs(data)]
    except (ValueError, AssertionError):  # not JSON, or no object
        return {"invalid_json"}
    return reasons | {"duplicate_key" for name in ("model", "stream") if names.count(name) > 1}


def _check_edits(data: bytes, facts: BodyFacts) -> None:
    document = pairs(data)
    _check_facts(facts, document)
    renamed, with_default, with_usage = (
        _applied(data, facts, edit) for edit in (Rename(NAME), DefaultModel(NAME), IncludeUsage())
    )
    assert pairs(renamed) == (document if facts.model is None else with_last(document, "model", NAME))
    assert pairs(with_default) == (document if facts.has_model else (("model", NAME), *document))
    assert pairs(with_usage) == including_usage(document)
    assert replaced(data, with_default) == b""
    assert replaced(data, with_usage) in (b"", b"fals", b"null")
    if facts.model_span is None:
        assert renamed == data
    else:
        start, stop = facts.model_span
        assert renamed == data[:start] + json.dumps(NAME, ensure_ascii=False).encode() + data[stop:]


def _check_facts(facts: BodyFacts, document: Document) -> None:
    names = [name for name, _ in document]
    values = dict(document)
    assert names.count("model") < 2
    assert names.count("stream") < 2
    assert facts.has_model == ("model" in names)
    stream = values.get("stream", False)
    assert facts.stream is (stream if isinstance(stream, bool) else None)
    model = values.get("model")
    if facts.model is not None:
        assert facts.model == re.sub("[\ud800-\udfff]", "\ufffd", str(model))
    else:
        assert not isinstance(model, str) or re.match(r"\s*-?[0-9]", model)  # numbers are kept as they are written


def _applied(data: bytes, facts: BodyFacts, edit: Edit) -> bytes:
    """The edited body, which is the same however it came."""
    edited = b"".join(apply([data], facts, [edit]))
    for pieces in splits(data):
        assert b"".join(apply(pieces, facts, [edit])) == edited
    return edited


def _check_long(data: bytes, whole: BodyFacts | str) -> None:
    """What the ends of a body show is what the whole of it says, unless that names a key twice or is no JSON."""
    for window_bytes in WINDOWS_BYTES:
        facts = _examined([data], 0, window_bytes)
        if isinstance(facts, str):
            assert facts == whole
        elif isinstance(whole, BodyFacts):
            assert (facts.model, facts.model_span) == (whole.model, whole.model_span)
            assert facts.stream in (whole.stream, None)
            for edit in (Rename(NAME), IncludeUsage()):
                edited = b"".join(apply([data], facts, [edit], window_bytes=window_bytes))
                assert pairs(edited) == pairs(b"".join(apply([data], whole, [edit])))
    head = examine_head(data[: zlib.crc32(data) % (len(data) + 1)])
    assert head is None or not isinstance(whole, BodyFacts) or head.model == whole.model
    _check_late_name(data, whole)


def _check_late_name(data: bytes, whole: BodyFacts | str) -> None:
    for window_bytes in WINDOWS_BYTES:
        head, tail = data[:-window_bytes], data[-window_bytes:]
        edited = head + rename_in_tail(tail, lambda _: "x")
        assert len(edited) == len(data)
        if isinstance(whole, BodyFacts) and edited != data:
            assert pairs(edited) == with_last(pairs(data), "model", "x")

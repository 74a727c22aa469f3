"""Request bodies: every edit of random documents against a parse, an edit and a comparison, and against exact bytes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core.splice import BodyFacts, DefaultModel, IncludeUsage, Rename, apply, examine
from qproxy.errors import DownstreamError
from tests.support.json_edits import including_usage, replaced, with_last
from tests.support.json_texts import (
    DAMAGED,
    OTHER_ENTRIES,
    SPACES,
    VALUES,
    Entry,
    accepts,
    cut,
    entries,
    pairs,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qproxy.core.splice import Edit

WHOLE = 256 * 1024
LONG = 0  # every body is a long one

MODEL_KEYS = ['"model"', '"model"', '"model"', r'"\u006dodel"', r'"mod\u0065l"']
STREAM_KEYS = ['"stream"', '"stream"', '"stream"', r'"\u0073tream"']
OPTIONS_KEYS = ['"stream_options"', '"stream_options"', r'"stream\u005foptions"', r'"stream\u005Foptions"']
USAGE_KEYS = ['"include_usage"', '"include_usage"', r'"\u0069nclude_usage"', '"chunk_include_usage"']
NAMES = st.sampled_from(['"a"', '"mine:b"', r'"q\u0077en"', r'"\"model\":\"x\""', '"модель"', '""', r'"\\"'])
OPTIONS = st.one_of(
    st.sampled_from(["null", "{}", "{ }", "[]", '"x"', "true", r'{"a":"\ud800"}']),
    st.builds(
        written,
        st.lists(entries(USAGE_KEYS, st.sampled_from(["true", "false", "null", "1", '"yes"', '{"include_usage":1}']))),
        SPACES,
    ),
)
KNOWN_ENTRIES = st.one_of(
    entries(MODEL_KEYS, st.one_of(NAMES, NAMES, VALUES)),
    entries(STREAM_KEYS, st.sampled_from(["true", "true", "true", "false", "null", '"true"', "1"])),
    entries(OPTIONS_KEYS, OPTIONS),
)
MEMBERS = st.lists(st.one_of(KNOWN_ENTRIES, OTHER_ENTRIES), max_size=7)
NEW_NAMES = st.text(st.characters(codec="utf-8"), max_size=6)


def _places(members: Sequence[Entry], key: str) -> list[int]:
    return [at for at, entry in enumerate(members) if json.loads(entry.key) == key]


def _is_repeated(members: Sequence[Entry], *keys: str) -> bool:
    return any(len(_places(members, key)) > 1 for key in keys)


def _renamed(members: Sequence[Entry], at: int, model: str) -> list[Entry]:
    literal = json.dumps(model, ensure_ascii=False)
    return [entry._replace(value=literal) if place == at else entry for place, entry in enumerate(members)]


def _examined(pieces: Sequence[bytes], inspect_bytes: int, window_bytes: int) -> BodyFacts | str:
    """The facts, or the code of the error."""
    try:
        return examine(pieces, inspect_bytes=inspect_bytes, window_bytes=window_bytes)
    except DownstreamError as exc:
        return exc.code


def _applied(pieces: Sequence[bytes], facts: BodyFacts, edits: Sequence[Edit], window_bytes: int) -> bytes:
    return b"".join(apply(pieces, facts, edits, window_bytes=window_bytes))


@settings(deadline=None)
@given(MEMBERS, SPACES, NEW_NAMES, st.data())
def test_edits_of_checked_bodies(members: list[Entry], space: str, name: str, data: st.DataObject) -> None:
    body = (space + written(members, space) + space).encode()
    pieces = cut(data, body)
    facts = _examined(pieces, WHOLE, WHOLE)
    if _is_repeated(members, "model", "stream"):
        assert facts == "duplicate_key"
        return
    assert isinstance(facts, BodyFacts)
    document = pairs(body)
    model, stream = dict(document).get("model"), dict(document).get("stream", False)
    assert facts.has_model == ("model" in dict(document))
    assert facts.stream is (stream if isinstance(stream, bool) else None)

    with_name, with_default = (_applied(pieces, facts, [edit], WHOLE) for edit in (Rename(name), DefaultModel(name)))
    if facts.model is not None:
        assert facts.model == re.sub("[\ud800-\udfff]", "\ufffd", str(model))
        assert (
            with_name.decode() == space + written(_renamed(members, _places(members, "model")[0], name), space) + space
        )
        assert pairs(with_name) == with_last(document, "model", name)
    else:
        assert with_name == body
    if facts.has_model:
        assert with_default == body
    else:
        member = f'"model":{json.dumps(name, ensure_ascii=False)}{"," if members else ""}'
        assert with_default.decode() == space + written(members, space, member) + space
        assert pairs(with_default) == (("model", name), *document)
    with_usage = _applied(pieces, facts, [IncludeUsage()], WHOLE)
    assert pairs(with_usage) == including_usage(document)
    assert replaced(body, with_usage) in (b"", b"fals", b"null")


@settings(deadline=None)
@given(MEMBERS, SPACES, NEW_NAMES, st.integers(1, 150), st.data())
def test_edits_of_long_bodies(
    members: list[Entry], space: str, name: str, window_bytes: int, data: st.DataObject
) -> None:
    body = (space + written(members, space) + space).encode()
    pieces = cut(data, body)
    facts = _examined(pieces, LONG, window_bytes)
    whole = _examined([body], WHOLE, WHOLE)
    if isinstance(facts, str) or facts.checked:
        assert facts == whole
        return
    streams = [json.loads(members[at].value) for at in _places(members, "stream")]
    assert facts.stream is None or any(facts.stream is stream for stream in streams)
    renamed = [space + written(_renamed(members, at, name), space) + space for at in _places(members, "model")]
    assert _applied(pieces, facts, [Rename(name)], window_bytes).decode() in renamed
    if isinstance(whole, BodyFacts) and not _is_repeated(members, "stream_options"):
        with_usage = _applied(pieces, facts, [IncludeUsage()], window_bytes)
        assert with_usage == _applied([body], whole, [IncludeUsage()], WHOLE)


@settings(deadline=None)
@given(DAMAGED)
def test_a_checked_body_is_one_that_a_strict_parser_takes(body: bytes) -> None:
    found = _examined([body], WHOLE, WHOLE)
    is_utf8 = body.decode(errors="replace").encode() == body
    if found == "duplicate_key":
        keys = [key for key, _ in pairs(body)]
        assert keys.count("model") > 1 or keys.count("stream") > 1
    elif isinstance(found, str):
        assert found == ("invalid_json" if is_utf8 else "invalid_utf8")
        assert not (accepts(body) and isinstance(json.loads(body), dict))
    else:
        assert accepts(body)


@settings(deadline=None)
@given(st.one_of(DAMAGED, st.binary(max_size=40)), st.integers(1, 150), st.data())
def test_what_is_wrong_with_a_long_body_is_the_clients_fault(
    body: bytes, window_bytes: int, data: st.DataObject
) -> None:
    pieces = cut(data, body)
    facts = _examined(pieces, LONG, window_bytes)
    if isinstance(facts, str):
        assert _examined([body], WHOLE, WHOLE) == facts
        return
    assert _applied(pieces, facts, [], window_bytes) == body
    try:
        _applied(pieces, facts, [Rename("x"), DefaultModel("x"), IncludeUsage()], window_bytes)
    except DownstreamError:
        assert not facts.checked

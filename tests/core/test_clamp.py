"""`max_tokens` lowered in place: nothing else of the body changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core.clamp import FIELDS, clamped, number_in
from qproxy.core.splice import Buffer, Patches, Rename, apply, examine
from qproxy.errors import DownstreamError
from tests.support.json_texts import OTHER_ENTRIES, SPACES, Entry, cut, entries, pairs, written

WHOLE = 256 * 1024
MOST = 1_000

NAMES = ['"max_tokens"', '"max_completion_tokens"', r'"max\u005ftokens"', r'"max_token\u0073"']
NUMBERS = ["0", "1000", "1001", "32768", "-5", "1e5", "1001.0", "null", '"5000"', "[5000]", "123456789012345678901234"]
CAPPED = entries(NAMES, st.sampled_from(NUMBERS))


def edited(pieces: list[bytes], most: int, inspect_bytes: int = WHOLE, window_bytes: int = WHOLE) -> bytes:
    facts = examine(pieces, inspect_bytes=inspect_bytes, window_bytes=window_bytes)
    patches = clamped(pieces, facts, most, window_bytes=window_bytes)
    return b"".join(apply(pieces, facts, [Rename("m2"), Patches(patches)]))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("asked", "sent"), [("1000", "1000"), ("1001", "1000"), ("99999", "1000"), ("-1", "-1")])
def test_what_is_above_comes_down(field: str, asked: str, sent: str) -> None:
    body = '{"model": "m", "%s" : %s , "messages": [{"content": "\\"max_tokens\\": 5000, é"}]}'
    assert edited([(body % (field, asked)).encode()], MOST).decode() == body.replace('"m"', '"m2"') % (field, sent)


def test_in_the_middle_of_a_checked_body() -> None:
    body = b'{"a": "%b", "max_tokens": 5000, "b": "%b", "model": "m"}'
    padding = b"x" * 5_000
    assert b'"max_tokens": 1000,' in edited([body % (padding, padding)], MOST, window_bytes=100)


def test_of_a_long_body_its_ends_alone_are_searched() -> None:
    body = b'{"a": "%b", "max_tokens": 5000, "b": "%b", "model": "m"}'
    padding = b"x" * 5_000
    in_the_middle, at_its_end = body % (padding, padding), body % (padding, b"")
    assert b'"max_tokens": 5000,' in edited([in_the_middle], MOST, inspect_bytes=0, window_bytes=100)
    assert b'"max_tokens": 1000,' in edited([at_its_end], MOST, inspect_bytes=0, window_bytes=100)


@settings(deadline=None)
@given(st.lists(st.one_of(CAPPED, OTHER_ENTRIES), max_size=6), SPACES, st.integers(1, 200), st.data())
def test_random_bodies(members: list[Entry], space: str, window_bytes: int, data: st.DataObject) -> None:
    body = written([Entry('"model"', ":", '"m"', ""), *members], space).encode()
    pieces = cut(data, body)
    try:
        after = edited(pieces, MOST, window_bytes=window_bytes)
    except DownstreamError:
        return
    before, changed = pairs(body), pairs(after)
    assert [key for key, _ in changed] == [key for key, _ in before]
    lowered = [(key, old, new) for (key, old), (_, new) in zip(before, changed, strict=True) if old != new]
    assert lowered[0] == ("model", "m", "m2")
    for key, old, new in lowered[1:]:
        assert key in FIELDS
        assert int(str(old)) > MOST
        assert new == str(MOST)
    for field in FIELDS:
        same = [json.loads(entry.value) for entry in members if json.loads(entry.key) == field]
        if len(same) == 1 and type(same[0]) is int and same[0] < 10**18:
            assert dict(changed)[field] == str(min(same[0], MOST))


def test_reading_it_for_a_message() -> None:
    body = b'{"max_tokens": 70000, "messages": [], "max_completion_tokens": "x"}'
    pieces: list[Buffer] = [memoryview(body)[:9], body[9:]]
    assert number_in(pieces, "max_tokens") == 70_000
    assert number_in(pieces, "max_completion_tokens") is None
    assert number_in(pieces, "max_output_tokens") is None
    assert number_in([], "max_tokens") is None

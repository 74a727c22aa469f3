"""The parse and the offsets: against the standard library's parser, and against texts whose offsets are known."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core import jsonscan
from tests.support.json_texts import DAMAGED, OBJECTS, accepts, pairs


def parses(text: bytes) -> bool:
    try:
        jsonscan.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


@settings(deadline=None)
@given(OBJECTS)
def test_valid_text_is_taken(text: str) -> None:
    jsonscan.loads(text.encode())


@settings(deadline=None)
@given(DAMAGED)
def test_takes_what_a_strict_parser_takes(text: bytes) -> None:
    assert parses(text) == accepts(text)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["\\", "\\\\", r"\u005c", r"\ud83d", r"\uDE00", r"\uD800", "u", "d800", '\\"', r"\n", "x"])
    )
)
def test_lone_surrogates_are_told_from_pairs_and_from_escaped_backslashes(parts: list[str]) -> None:
    text = f'{{"a":"{"".join(parts)}"}}'.encode()
    assert parses(text) == accepts(text)


@pytest.mark.parametrize(
    ("literal", "decoded"),
    [
        (rb'"\ud800"', "\ufffd"),
        (rb'"\udfff!"', "\ufffd!"),
        (rb'"\ud800\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\ud83d\ude00\ude00"', "\U0001f600\ufffd"),
        (rb'"\\ud800\uD800"', "\\ud800\ufffd"),
        (rb'"\\\ud800"', "\\\ufffd"),
        (rb'"\uD83D\uDE00"', "\U0001f600"),
    ],
)
def test_a_lone_surrogate_reads_as_the_replacement_character(literal: bytes, decoded: str) -> None:
    assert jsonscan.loads(literal) == decoded


@pytest.mark.parametrize("start", [b"[\n  ", b"[  ", b" \n[\r\n\t"])
def test_dense_text_behind_an_indented_start_is_taken(start: bytes) -> None:
    """Some versions of orjson run out of the memory that they reserved."""
    text = start + b"0," * 2_000_000 + b"0]"
    assert jsonscan.loads(text) == [0] * 2_000_001


def test_errors_keep_their_place_behind_a_lone_surrogate_and_an_indented_start() -> None:
    with pytest.raises(orjson.JSONDecodeError) as caught:
        jsonscan.loads(b'{\n  "a": "\\ud800",\n  "b": x}')
    assert (caught.value.lineno, caught.value.colno) == (3, 8)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (b"", 0),
        (b"1", 0),
        (b"[[]]", 2),
        (b'["[[["]', 1),
        (b'{"a":[{}],"b":1}', 3),
        (b"[[[", 3),
        (b'["[\\"[[', 1),
        (b"]]", 0),
    ],
)
def test_depth(text: bytes, levels: int) -> None:
    assert jsonscan.depth(text) == levels


@settings(deadline=None)
@given(OBJECTS)
def test_members_are_those_of_a_parse(text: str) -> None:
    body = text.encode()
    found = list(jsonscan.members(body, body.index(b"{")))
    walked = tuple((member.key, pairs(b'{"":%b}' % body[member.start : member.stop])[0][1]) for member in found)
    assert walked == tuple((key.replace("\ud800", "\ufffd"), value) for key, value in pairs(text))


@settings(deadline=None)
@given(OBJECTS, st.sampled_from(["model", "stream", "messages"]), st.integers(0, 200))
def test_what_a_tail_shows_is_the_last_member(text: str, key: str, start: int) -> None:
    body = text.encode()
    start = min(start, len(body))
    same = [member for member in jsonscan.members(body) if member.key == key]
    shown = jsonscan.last_in_tail(body[start:], key)
    assert shown is None or (start + shown.start, start + shown.stop) == same[-1][1:]


@settings(deadline=None)
@given(OBJECTS, st.sampled_from(["model", "stream", "messages"]), st.integers(0, 200))
def test_what_a_head_shows_is_the_first_member(text: str, key: str, stop: int) -> None:
    body = text.encode()
    same = [member for member in jsonscan.members(body) if member.key == key]
    shown = jsonscan.first_in_head(body[:stop], key)
    assert shown is None or shown == same[0]


@settings(deadline=None)
@given(OBJECTS, st.sampled_from(["model", "stream", "messages"]))
def test_sole_and_last_members_of_a_whole_text(text: str, key: str) -> None:
    body = text.encode()
    same = [member for member in jsonscan.members(body) if member.key == key]
    assert jsonscan.last_member(body, key) == (same[-1] if same else None)
    assert same == [] or jsonscan.may_have_key(body, key)
    if same:
        assert jsonscan.sole_members(body, [key]) == ({key: same[0]} if len(same) == 1 else {})


@pytest.mark.parametrize(
    "tail",
    [
        b'"model":"x"}',  # the byte before it is unknown: it may be a backslash
        b'\\"model":"x"}',
        b',"model":"x"}]}',
        b',"model"}',
        b'"a":"model"}',
        b',"model":"x","b":1',
        b',"model":"x","\\u006dodel":"y"}',
    ],
)
def test_a_tail_that_shows_nothing(tail: bytes) -> None:
    assert jsonscan.last_in_tail(tail, "model") is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b'{"model"',
        b'{"model":',
        b'{"model":"qw',
        b'{"model":12',  # more digits may follow
        b'{"model":{"a":[',
        b'{"a":{"model":"x"',
        b'{"say \\"model":"x"',
        b'{"a":["model","x"',
        b'{"\\u006dodel":"x","model":"y"',
        b'["model":"x"',
        b'"model":"x"',
    ],
)
def test_a_head_that_shows_nothing(head: bytes) -> None:
    assert jsonscan.first_in_head(head, "model") is None


def test_look_alikes_before_and_behind_are_passed_over() -> None:
    body = b'{"a":{"model":1},"b":"say \\"model","model" : "x" ,"tools":[{"model":2},{"model":3}]}'
    first, last = jsonscan.first_in_head(body, "model"), jsonscan.last_in_tail(body, "model")
    assert first is not None
    assert first == last
    assert body[first.start : first.stop] == b'"x"'


def test_many_look_alikes_are_left_to_the_walk() -> None:
    body = b'{"a":[' + b'{"model":1},' * 50 + b'0],"model":"x","b":[' + b'{"model":1},' * 50 + b"0]}"
    assert jsonscan.first_in_head(body, "model") is None
    assert jsonscan.last_in_tail(body, "model") is None
    member = jsonscan.sole_members(body, ["model"])["model"]
    assert body[member.start : member.stop] == b'"x"'

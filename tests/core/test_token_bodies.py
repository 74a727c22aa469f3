"""Whatever the bytes are, there is a count or a reason; and long ones are read in steps."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qproxy.core.tokens import NotCountable, Shape
from qproxy.core.tokens.body import count_body
from qproxy.core.tokens.memo import Memo
from qproxy.core.tokens.scan import WINDOW_BYTES, Span, fields, items, raw_text, strings, value_stop
from tests.support.vocabulary import ByWords, counted, qwen

SHAPES = st.sampled_from(list(Shape))
FIELD = st.sampled_from(
    ["messages", "role", "content", "tools", "tool_calls", "function", "name", "arguments", "prompt", "model", "type",
     "text", "system", "input", "reasoning_content", "enable_thinking", "chat_template_kwargs", "add_generation_prompt",
     "user", "assistant", "tool", "tool_use", "tool_result", "return_tokens"]
)  # fmt: skip
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), FIELD, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(FIELD, inner, max_size=5)),
    max_leaves=30,
)
TEMPLATE = (
    b'{"messages":[{"role":"user","content":[{"type":"text","text":"a\\"\\ud83d\\u00e9"}]},{"role":"assistant",'
    b'"tool_calls":[{"function":{"name":"f","arguments":"{\\"a\\":1}"}}]}],"tools":[{"name":"x"}],"prompt":[1,2]}'
)


def count_or_reason(body: bytes, shape: Shape) -> None:
    try:
        tokens = count_body(body, shape, qwen(), memo=Memo(), may_want_ids=True).tokens
    except NotCountable as exc:
        tokens = len(str(exc))
    assert tokens >= 0


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=60), VALUE.map(lambda value: json.dumps(value).encode())), SHAPES)
@example(b"", Shape.OPENAI)
@example(b'{"prompt":[', Shape.OPENAI)
@example(b'{"messages":[{"role":"user","content":"\\ud83d"}]}', Shape.OPENAI)
@example(b'{"messages":[{"role":"user","content":"\xff"}]}', Shape.OPENAI)
@example(b'{"prompt":' + b"[" * 5000, Shape.OPENAI)
@example(b'{"prompt":' + b"[" * 900 + b"]" * 900 + b"}", Shape.OPENAI)
@example(b'{"messages":[],"messages":[]}', Shape.OPENAI)
def test_anything_gives_a_count_or_a_reason(body: bytes, shape: Shape) -> None:
    count_or_reason(body, shape)


@settings(deadline=None, max_examples=300)
@given(st.data(), SHAPES)
def test_a_damaged_request_gives_a_count_or_a_reason(data: st.DataObject, shape: Shape) -> None:
    at = data.draw(st.integers(0, len(TEMPLATE)))
    end = data.draw(st.integers(at, min(len(TEMPLATE), at + 10)))
    count_or_reason(TEMPLATE[:at] + data.draw(st.binary(max_size=4)) + TEMPLATE[end:], shape)


@settings(deadline=None, max_examples=200)
@given(VALUE, st.booleans())
def test_values_are_found_where_they_are(value: Any, indented: bool) -> None:
    text = json.dumps(value, indent=1 if indented else None).encode()
    assert value_stop(text + b"  ", 0) == len(text)
    if isinstance(value, list):
        assert [json.loads(text[span.start : span.stop]) for span in items(text, 0)] == json.loads(text)
    if isinstance(value, dict):
        found = fields(text, Span(0, len(text)))
        assert {name: json.loads(text[span.start : span.stop]) for name, span in found.items()} == json.loads(text)


UNITS = ["a", '"', "\\", "\n", "é", "中", "🙂", "\u2028", "x" * 50, "\\u0041"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(UNITS), min_size=1, max_size=12), st.integers(0, 40), st.booleans())
def test_long_strings_come_out_in_whole_characters(units: list[str], shift: int, as_ascii: bool) -> None:
    """Escapes, pairs of them and bytes of one character lie across the ends of the windows."""
    value = "-" * shift + "".join(units) * (3 * WINDOW_BYTES // len("".join(units)))
    text = json.dumps(value, ensure_ascii=as_ascii).encode()
    parts = list(strings(text, Span(0, len(text))))
    assert "".join(parts) == value
    assert max(map(len, parts)) <= WINDOW_BYTES
    assert len(parts) > 2


def test_lone_halves_at_the_end_of_a_window_are_kept() -> None:
    for shift in range(14):
        text = b'"' + b"-" * (WINDOW_BYTES - shift) + rb"\ud83d-\ude00\ud83d\ude42" + b"-" * WINDOW_BYTES + b'"'
        whole = "".join(strings(text, Span(0, len(text))))
        assert whole.strip("-") == "\ufffd-\ufffd🙂"


def test_a_long_value_that_is_no_json_is_found_out() -> None:
    for odd in (b"\xff", b"\\", b"\\x", b"\x00"):
        text = b'{"prompt":"' + b"-" * (2 * WINDOW_BYTES) + odd + b"-" * 10 + b'"}'
        with pytest.raises(NotCountable):
            counted(text)


def test_white_space_of_any_length_between_values() -> None:
    for gap in (b" ", b"\n" * 3 * WINDOW_BYTES):
        text = gap.join([b"", b"{", b'"messages"', b":", b"[", b"{", b'"role"', b":", b'"user"', b"}", b"]", b"}", b""])
        assert counted(text) == counted(b'{"messages":[{"role":"user"}]}')


def test_raw_text_is_whole() -> None:
    text = b'["' + b"ab" * WINDOW_BYTES + b'"]'
    assert "".join(raw_text(text, Span(0, len(text)))).encode() == text


def test_the_model_may_stand_anywhere() -> None:
    long = "x " * 100_000
    for body in (
        {"model": "qwen3-8b", "prompt": long},
        {"prompt": long, "model": "qwen3-8b"},
        {"prompt": long, "model": "qwen3-8b", "user": long},
        {"prompt": [long], "mod\u00e8le": "x", "model": "qwen3-8b", "stop": [long]},
    ):
        assert counted(orjson.dumps(body), None).model == "qwen3-8b"
    assert counted(b'{"prompt": "x"}', None).model == ""
    assert counted(b'{"prompt": "x", "model": 3}', None).model == ""


def test_too_many_messages_are_not_counted() -> None:
    message = b'{"role":"user"}'
    with pytest.raises(NotCountable, match="longer"):
        counted(b'{"messages":[' + b",".join([message] * 100_001) + b"]}")


def conversation(turns: int, *, tail: dict[str, Any] | None = None, content: str = "word ") -> bytes:
    messages = [{"role": "system", "content": "You count words. "}]
    for number in range(turns):
        role = "assistant" if number % 2 else "user"
        messages.append({"role": role, "content": f"{number} {content * 20}"})
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    return orjson.dumps({"model": "qwen3-8b", "messages": messages, "tools": tools, **(tail or {})})


class TestMemo:
    def test_what_was_counted_is_not_counted_again(self) -> None:
        memo = Memo()
        for number, turns in enumerate((9, 11, 11, 14, 9)):
            vocabulary = ByWords()
            body = conversation(turns)
            fresh = count_body(body, Shape.OPENAI, ByWords())
            assert count_body(body, Shape.OPENAI, vocabulary, memo=memo) == fresh
            seen = "".join(vocabulary.seen)
            assert ("\n0 word" in seen) == (number == 0)
            assert ("# Tools" in seen) == (number == 0)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(VALUE, max_size=6), st.data())
    def test_it_changes_no_count(self, messages: list[Any], data: st.DataObject) -> None:
        """Also where what follows is odd, or nothing."""
        roles = st.sampled_from(["user", "assistant", "tool", "system"])
        memo, grown = Memo(), []
        for message in messages:
            thoughts = {"reasoning_content": data.draw(st.text(max_size=3))} if data.draw(st.booleans()) else {}
            grown.append({"role": data.draw(roles), "content": f"{data.draw(st.text(max_size=9))}", **thoughts})
            body = orjson.dumps({"messages": grown, "x": str(message)})
            assert count_body(body, Shape.OPENAI, qwen(), memo=memo) == count_body(body, Shape.OPENAI, qwen())

    def test_another_model_or_beginning_is_another_conversation(self) -> None:
        memo = Memo()
        counted(conversation(9), "qwen3-8b", memo=memo)
        assert counted(conversation(9), "qwen2.5-7b", memo=memo) == counted(conversation(9), "qwen2.5-7b")
        other = conversation(9, content="another ")
        assert counted(other, memo=memo) == counted(other)

    def test_other_tools_are_counted(self) -> None:
        memo = Memo()
        counted(conversation(9), memo=memo)
        for tools in ([], None, [{"name": "another"}]):
            body = conversation(9, tail={"tools": tools})
            assert counted(body, memo=memo) == counted(body)

    def test_it_is_bounded(self) -> None:
        memo = Memo(most_places=4, most_characters=100)
        for turns in range(1, 20):
            counted(conversation(turns), memo=memo)
            assert len(memo) <= 4
        counted(orjson.dumps({"messages": [{"role": "tool", "content": "x" * 1000}]}), memo=memo)
        assert memo.characters <= 100
        assert counted(conversation(20), memo=memo) == counted(conversation(20))

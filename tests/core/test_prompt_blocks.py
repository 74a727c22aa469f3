"""Prompts as digests: which part changed, and nothing of what it said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core import prompt_blocks
from qproxy.core.prompt_blocks import MOST_BYTES, Blocks, blocks_of

KEY = b"k" * 32
SYSTEM = {"role": "system", "content": "It is 12:00."}
USER = {"role": "user", "content": "secret words"}
ANSWER = {"role": "assistant", "content": "Hello"}


def written(messages: object, **more: object) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **more}).encode()


def blocks(messages: object, **more: object) -> Blocks:
    found = blocks_of(written(messages, **more), KEY)
    assert found is not None
    return found


def test_a_conversation_that_grows_has_not_changed() -> None:
    first = blocks([SYSTEM, USER], tools=[1])
    later = blocks([SYSTEM, USER, ANSWER, USER], tools=[1], temperature=1)
    assert first.first_change(later) == ""
    assert first.conversation == later.conversation


@pytest.mark.parametrize(
    ("messages", "more", "change"),
    [
        ([{**SYSTEM, "content": "It is 12:01."}, USER, ANSWER, USER], {}, "message 0 (system)"),
        ([SYSTEM, USER, {**ANSWER, "content": "x"}, USER], {}, "message 2 (assistant)"),
        ([SYSTEM, USER], {}, "message 2 (assistant)"),
        ([SYSTEM, USER, ANSWER], {"tools": [2, 1]}, "the tools"),
    ],
)
def test_what_changed_is_named(messages: object, more: dict[str, object], change: str) -> None:
    before = blocks([SYSTEM, USER, ANSWER], tools=[1, 2])
    later = blocks(messages, **{"tools": [1, 2], **more})
    assert before.first_change(later) == change
    assert before.conversation == later.conversation


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_list", [False, True])
def test_a_marker_that_moves_on_changes_nothing(indent: int | None, is_list: bool) -> None:
    control = {"cache_control": {"type": "ephemeral"}}
    text = {"type": "text", "text": 'say \\ "Hi"\n'}
    later = [SYSTEM, {"role": "user", "content": [text] if is_list else text["text"]}, ANSWER]
    marked = [SYSTEM, {"role": "user", "content": [{**text, **control}]}]
    bodies = {"messages": marked, "tools": [{"a": 1, **control}]}, {"messages": later, "tools": [{"a": 1}]}
    before, after = (blocks_of(json.dumps(body, indent=indent).encode(), KEY) for body in bodies)
    assert before is not None
    assert after is not None
    assert (before.first_change(after), before.conversation) == ("", after.conversation)


def test_two_texts_are_not_one() -> None:
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    first, later = (blocks([USER, {"role": "user", "content": each}]) for each in (texts, texts[:1]))
    assert first.first_change(later) == "message 1 (user)"


def test_another_first_question_is_another_conversation() -> None:
    assert blocks([SYSTEM, USER]).conversation != blocks([SYSTEM, {**USER, "content": "x"}]).conversation


def test_no_words_are_kept_and_no_guess_can_be_checked() -> None:
    messages = [{"role": "x" * 100, "content": "secret words"}, USER]
    found = blocks(messages)
    assert "secret" not in repr(found)
    assert found.roles == ("?", "user")
    assert found != blocks_of(written(messages), b"another key")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"messages": 1}', b'{"messages": []}', b'{"messages": [1, {"role": 2}]}', b'{"input": "x"}'],
)
def test_what_is_no_conversation(body: bytes) -> None:
    assert blocks_of(body, KEY) is None


def test_what_is_too_long_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"messages": [USER], "x": "x" * MOST_BYTES}).encode()
    assert blocks_of(body, KEY) is None
    monkeypatch.setattr(prompt_blocks, "MOST_MESSAGES", 2)
    assert blocks([SYSTEM, USER, ANSWER]).roles == ("system", "user")


@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)))
def test_any_bytes_will_do(body: bytes) -> None:
    blocks_of(body, KEY)
    blocks_of(b'{"messages":%b}' % body, KEY)


@pytest.mark.parametrize("depth", [*range(900, 1025, 4), 1_020])
def test_however_deep_a_message_nests(depth: int) -> None:
    nested = b"[" * (depth - 3) + b"]" * (depth - 3)
    found = blocks_of(b'{"messages":[{"role":"user","content":"Hi","y":%b}]}' % nested, KEY)
    assert found is None or found.roles == ("user",)

"""Cache markers: at most four, where they help, and every other byte as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core.cache_markers import LEAST_BYTES, MARKER, cache_markers
from qproxy.core.splice import IncludeUsage, Patches, Rename, apply, examine
from qproxy.errors import DownstreamError
from tests.support.json_texts import OBJECTS, accepts, cut, pairs

WHOLE = 1024 * 1024
PADDING = "x" * LEAST_BYTES
CONTROL = {"type": "ephemeral"}
JSON = dict[str, object]


def marked(body: bytes, pieces: list[bytes] | None = None) -> bytes:
    pieces = [body] if pieces is None else pieces
    facts = examine(pieces, inspect_bytes=WHOLE)
    return b"".join(apply(pieces, facts, [Patches(cache_markers(pieces, facts))]))


def part(text: str) -> JSON:
    return {"type": "text", "text": text}


def sent(messages: list[JSON], **more: object) -> JSON:
    document: JSON = json.loads(
        marked(json.dumps({"model": "qwen3-max", "user": PADDING, "messages": messages, **more}).encode())
    )
    return document


def places(document: JSON) -> list[str]:
    """Where markers stand: `tools` or the number of a message."""
    found = []
    messages, tools = document["messages"], document.get("tools", [])
    assert isinstance(messages, list)
    assert isinstance(tools, list)
    for index, tool in enumerate(tools):
        if "cache_control" in tool:
            assert (index, tool["cache_control"]) == (len(tools) - 1, CONTROL)
            found.append("tools")
    for index, message in enumerate(messages):
        parts = message.get("content")
        holders = [each for each in parts if "cache_control" in each] if isinstance(parts, list) else []
        if holders:
            assert holders == [parts[-1]]
            assert holders[0]["cache_control"] == CONTROL
            found.append(str(index))
    return found


SYSTEM: JSON = {"role": "system", "content": "You are a coder."}
USER: JSON = {"role": "user", "content": "Hi"}
ANSWER: JSON = {"role": "assistant", "content": "Hello"}
CALL: JSON = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
RESULT: JSON = {"role": "tool", "tool_call_id": "1", "content": [part("a"), part("b")]}
TOOL: JSON = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("messages", "tools", "expected"),
    [
        ([USER], [], ["0"]),
        ([SYSTEM, USER], [TOOL, TOOL], ["tools", "0", "1"]),
        ([SYSTEM, SYSTEM, USER, ANSWER, USER], [TOOL], ["tools", "1", "2", "4"]),
        ([SYSTEM, USER, CALL, RESULT, CALL, RESULT], [], ["0", "3", "5"]),
        ([SYSTEM, USER, ANSWER], [], ["0", "1"]),
        ([SYSTEM], [], ["0"]),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], [], []),
        ([{"role": "user", "content": ""}, {"role": "user", "content": []}], [], []),
        ([{"role": "user"}, {"role": "other", "content": "x"}], [{}], []),
        ([], [], []),
    ],
)
def test_where_they_stand(messages: list[JSON], tools: list[JSON], expected: list[str]) -> None:
    assert places(sent(messages, tools=tools)) == expected


def test_a_text_becomes_the_only_part() -> None:
    document = sent([SYSTEM, USER])
    messages = document["messages"]
    assert isinstance(messages, list)
    assert messages[0]["content"] == [{**part("You are a coder."), "cache_control": CONTROL}]


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"role": "user", "content": [{**part("x"), "cache_control": CONTROL}]}, USER], "x": PADDING},
        {"messages": [USER]},
        {"messages": [USER], "x": PADDING, "model": "glm-4.5"},
        {"messages": "x", "x": PADDING},
        {"messages": [USER, 1], "x": PADDING},
        {"messages": [{"role": 1, "content": "x"}], "x": PADDING},
        {"input": "x", "x": PADDING},
    ],
    ids=["own markers", "short", "glm", "no list", "no object", "odd role", "no messages"],
)
def test_what_is_left_alone(document: JSON) -> None:
    body = json.dumps(document).encode()
    assert marked(body) == body


def test_bodies_that_were_not_checked_are_left_alone() -> None:
    pieces = [json.dumps({"model": "m", "messages": [USER], "x": PADDING}).encode()]
    assert cache_markers(pieces, examine(pieces, inspect_bytes=0)) == ()


ROLES = st.sampled_from(["system", "user", "assistant", "tool", "developer", "x"])
TEXTS = st.one_of(st.sampled_from(['"messages"', '"tools":[', "\\", '"}],', "", "é\ud7ff😀"]), st.text(max_size=10))
PARTS = st.lists(st.one_of(TEXTS.map(part), st.just({"type": "image_url", "image_url": {"url": "x"}})), max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES},
        optional={"content": st.one_of(TEXTS, PARTS, st.none()), "name": TEXTS, "tool_calls": st.just([{"id": "1"}])},
    ),
    max_size=8,
)
INDENTS = st.sampled_from([None, 0, 3])


def without_markers(value: object) -> object:
    """The document with markers taken off, and single parts of text as the text."""
    if isinstance(value, dict):
        return {key: without_markers(each) for key, each in value.items() if key != "cache_control"}
    if isinstance(value, list):
        is_text = len(value) == 1 and isinstance(value[0], dict) and value[0].get("type") == "text"
        return without_markers(value[0]["text"]) if is_text else [without_markers(each) for each in value]
    return value


@settings(deadline=None)
@given(MESSAGES, st.lists(st.just(TOOL), max_size=2), INDENTS, st.booleans(), st.booleans(), st.data())
def test_random_requests(
    messages: list[JSON],
    tools: list[JSON],
    indent: int | None,
    ascii_only: bool,
    tools_first: bool,
    data: st.DataObject,
) -> None:
    ends: JSON = {"messages": messages, "tools": tools}
    members = dict(reversed(ends.items())) if tools_first else ends
    text = json.dumps({"model": "m", **members, "stream": True, "x": PADDING}, indent=indent, ensure_ascii=ascii_only)
    body = text.encode()
    pieces = cut(data, body)
    facts = examine(pieces, inspect_bytes=WHOLE)
    patches = cache_markers(pieces, facts)
    after = b"".join(apply(pieces, facts, [Rename("m2"), IncludeUsage(), Patches(patches)]))
    document = json.loads(after)
    assert after.count(MARKER) <= 4
    assert without_markers(document) == without_markers(
        {"stream_options": {"include_usage": True}, **json.loads(body), "model": "m2"}
    )
    at = 0
    for patch in sorted(patches, key=lambda each: each.start):
        assert patch.start == patch.stop >= at  # nothing is taken away
        at = patch.stop
    last = messages[-1] if messages else {}
    if last.get("role") in ("user", "tool") and isinstance(last.get("content"), str) and last["content"]:
        assert str(len(messages) - 1) in places(document)


@pytest.mark.parametrize("depth", [*range(900, 1025, 4), 1_020])
def test_however_deep_a_message_nests(depth: int) -> None:
    nested = "[" * (depth - 3) + "]" * (depth - 3)
    body = f'{{"model":"m","x":"{PADDING}","messages":[{{"role":"user","content":"Hi","y":{nested}}}]}}'.encode()
    after = marked(body)
    assert after in (body, body.replace(b'"Hi"', b'[{"type":"text","text":"Hi",%b}]' % MARKER))


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_any_body_stays_valid(message: str, tool: str) -> None:
    body = f'{{"x":"{PADDING}","messages":[{message}],"tools":[{tool}]}}'.encode()
    try:
        pairs(marked(body))
    except DownstreamError:
        assert not accepts(body)

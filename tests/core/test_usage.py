"""Token counts out of the end of an answer."""

from __future__ import annotations

import urllib.request

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.sse import TAIL_BYTES, TailWatch
from qproxy.core.usage import MAX_OBJECTS, MAX_TOKENS, Usage, usage_in
from tests.support.shell import simulated

DASHSCOPE = {
    "prompt_tokens": 3019,
    "completion_tokens": 104,
    "total_tokens": 3123,
    "prompt_tokens_details": {
        "cached_tokens": 2048,
        "text_tokens": 3019,
        "cache_creation": {"ephemeral_5m_input_tokens": 0},
        "cache_type": "ephemeral",
    },
    "completion_tokens_details": {"reasoning_tokens": 90, "text_tokens": 14},
}
COUNTED = Usage(3019, 104, 3123, 2048, 90)
CONTENT = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":null}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"


def body(usage: object, **others: object) -> bytes:
    return orjson.dumps({"choices": [{"message": {"content": "hello"}}], "usage": usage, **others})


def event(usage: object) -> bytes:
    return b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n"


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def watched(payload: bytes, cuts: list[int], *, in_chunks: bool) -> bytes:
    """What a watch has of a payload that came in pieces of these sizes, over and over."""
    watch = TailWatch(in_chunks=in_chunks)
    at = 0
    while at < len(payload):
        for size in cuts:
            piece = payload[at : at + size]
            at += size
            if piece:
                watch.see(chunk(piece) if in_chunks else piece)
    return watch.payload()


ANSWERS: dict[str, bytes] = {
    "a plain body": body(DASHSCOPE),
    "a plain body with more behind it": body(DASHSCOPE, created=1, system_fingerprint=None, id="chatcmpl-1"),
    "the usage first": b'{"usage":' + orjson.dumps(DASHSCOPE) + b',"choices":[]}',
    "an indented body": orjson.dumps({"usage": DASHSCOPE}, option=orjson.OPT_INDENT_2),
    "spaces around the colon": b'{"usage" :\r\n\t' + orjson.dumps(DASHSCOPE) + b"}",
    "a stream": CONTENT + FINISH + event(DASHSCOPE) + DONE,
    "a stream without [DONE] (U29)": CONTENT + FINISH + event(DASHSCOPE),
    "on the finish chunk": CONTENT + FINISH.replace(b"null}\n", orjson.dumps(DASHSCOPE) + b"}\n") + DONE,
    "nulls behind it": CONTENT + event(DASHSCOPE) + FINISH * 20 + DONE,
    "in every chunk, growing": event({"prompt_tokens": 3019, "completion_tokens": 1}) + event(DASHSCOPE) + DONE,
    "another string with braces in it": body({**DASHSCOPE, "note": "{}"}),
    "a broken one behind it": event(DASHSCOPE) + b'data: {"usage":{"prompt_tokens":1,}}\n\n',
    "half of one behind it": event(DASHSCOPE) + b'data: {"usage":{"prompt_tokens":1',
    "one without counts behind it": body(DASHSCOPE, tools=[{"parameters": {"usage": {"type": "object"}}}]),
    "a model that writes about usage": body(DASHSCOPE, text='{"usage":{"total_tokens":1}}'),
    "a text that ends in the word": body(DASHSCOPE) + rb' {"the \"usage":{"total_tokens":1}}',
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_the_usage_of_an_answer(answer: bytes) -> None:
    assert usage_in(answer) == COUNTED


NO_USAGE: dict[str, bytes] = {
    "nothing": b"",
    "no usage": b'{"choices":[]}',
    "null": body(None),
    "a list": body([1]),
    "a number": body(3),
    "an empty object": body({}),
    "only nulls": CONTENT * 3 + FINISH + DONE,
    "the key cut off": b'sage":{"total_tokens":1}}',
    "the value cut off": b'{"usage":{"total_tokens":1',
    "a string cut off": b'{"usage":{"total_tokens":1,"cache_type":"ephem',
    "a brace in one of its strings": body({"total_tokens": 1, "note": "}"}) + body({"note": "{", "total_tokens": 1}),
    "not UTF-8": b'{"usage":{"total_tokens":1,"cache_type":"\xff"}}',
    "a member of a text": rb'{"text":"{\"usage\":{\"total_tokens\":1}}"}',
    "a value": b'{"text":"usage","total_tokens":1}',
    "another key": b'{"usages":{"total_tokens":1},"_usage":{"total_tokens":1}}',
    "nested too deep": b'{"usage":' + b'{"a":' * 1200 + b'{"total_tokens":1}' + b"}" * 1201,
}


@pytest.mark.parametrize("answer", NO_USAGE.values(), ids=NO_USAGE)
def test_answers_without_usage(answer: bytes) -> None:
    assert usage_in(answer) is None


SHAPES: dict[str, tuple[dict[str, object], Usage]] = {
    "embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0, 8)),
    "rerank": ({"total_tokens": 79}, Usage(0, 0, 79)),
    "no total": ({"prompt_tokens": 8, "completion_tokens": 2}, Usage(8, 2, 10)),
    "a total of its own": ({"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 11}, Usage(8, 2, 11)),
    "nothing used": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage()),
    "Responses": (
        {
            "input_tokens": 36,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 87,
            "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": 123,
            "x_tools": {"web_search": {"count": 1}},
        },
        Usage(36, 87, 123, 4, 5),
    ),
    "the end of a message stream": ({"output_tokens": 15}, Usage(0, 15, 15)),
    "cached at the top": ({"prompt_tokens": 8, "completion_tokens": 1, "cached_tokens": 6}, Usage(8, 1, 9, 6)),
    "null details": (
        {"prompt_tokens": 8, "prompt_tokens_details": None, "completion_tokens_details": None, "cached_tokens": 6},
        Usage(8, 0, 8, 6),
    ),
    "both spellings": ({"prompt_tokens": 8, "input_tokens": 7, "output_tokens": 1}, Usage(8, 1, 9)),
    "cached in the details and at the top": (
        {"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 6},
        Usage(8, 0, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("usage", "counted"), SHAPES.values(), ids=SHAPES)
def test_the_shapes_of_usage(usage: dict[str, object], counted: Usage) -> None:
    assert usage_in(body(usage)) == counted
    assert usage_in(event(usage) + DONE) == counted


@pytest.mark.parametrize("value", [-1, MAX_TOKENS + 1, 2**63, 1.0, 1e30, True, "12", None, [1], {"a": 1}])
def test_what_is_no_count_is_ignored(value: object) -> None:
    usage = {"prompt_tokens": value, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": value}}
    assert usage_in(orjson.dumps({"usage": usage})) == Usage(0, 4, 4)
    assert usage_in(orjson.dumps({"usage": {"prompt_tokens": value}})) is None


def test_a_number_beyond_every_integer_is_ignored() -> None:
    assert usage_in(b'{"usage":{"prompt_tokens":%b,"completion_tokens":4}}' % (b"9" * 300)) == Usage(0, 4, 4)


def test_the_largest_count() -> None:
    assert usage_in(body({"total_tokens": MAX_TOKENS})) == Usage(total_tokens=MAX_TOKENS)


def test_only_a_few_objects_are_tried() -> None:
    assert usage_in(body(DASHSCOPE) + b'{"usage":{}}' * (MAX_OBJECTS - 1)) == COUNTED
    assert usage_in(body(DASHSCOPE) + b'{"usage":{}}' * MAX_OBJECTS) is None


@pytest.mark.parametrize("framed", [False, True], ids=["bare", "chunks"])
@pytest.mark.parametrize("size", [1, 7, 100, TAIL_BYTES])
def test_it_is_found_behind_a_long_answer(size: int, *, framed: bool) -> None:
    stream = CONTENT * 1000 + FINISH + event(DASHSCOPE) + DONE
    assert usage_in(watched(stream[-3 * TAIL_BYTES :], [size], in_chunks=framed)) == COUNTED


counts = st.integers(0, MAX_TOKENS)
usages = st.builds(Usage, counts, counts, counts, counts, counts)
cuts = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def stated(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


@given(usages, st.text(max_size=40), cuts, st.booleans(), st.booleans())
def test_it_is_found_wherever_the_answer_was_cut(
    usage: Usage, text: str, sizes: list[int], is_stream: bool, in_chunks: bool
) -> None:
    said = orjson.dumps({"choices": [{"delta": {"content": text + '"usage":{"total_tokens":1}'}}], "usage": None})
    whole = b"data: " + said + b"\n\n" + event(stated(usage)) + DONE if is_stream else body(stated(usage), said=text)
    assert usage_in(watched(whole, sizes, in_chunks=in_chunks)) == usage


@given(usages, st.integers(0, 400))
def test_half_a_usage_is_none(usage: Usage, length: int) -> None:
    """A number that was cut must not pass for a smaller one."""
    whole = body(stated(usage))
    start = whole.index(b'"usage"')
    cut = whole[: start + length]
    assert usage_in(cut) == (usage if len(cut) >= len(whole) - 1 else None)


pieces_of_usage = st.sampled_from([
    b'"usage"', b":", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b" ", b"\r\n", b"1f\r\n", b'"total_tokens":', b"12",
    b'"usage":{', b"null", b"-1", b"data: ", b"\xff", b'"prompt_tokens_details":{', b'"cached_tokens":', b"1e999",
])  # fmt: skip


@given(st.one_of(st.binary(max_size=300), st.lists(pieces_of_usage, max_size=60).map(b"".join)))
def test_it_never_raises(tail: bytes) -> None:
    usage = usage_in(tail)
    assert usage is None or 0 <= usage.total_tokens <= 2 * MAX_TOKENS


MESSAGES = [{"role": "user", "content": "How long is a day?"}]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        ("/chat/completions", {"messages": MESSAGES}),
        ("/chat/completions", {"messages": MESSAGES, **STREAM}),
        ("/completions", {"prompt": "How long", **STREAM}),
        ("/responses", {"input": "How long is a day?", "stream": True}),
        ("/embeddings", {"input": "How long is a day?"}),
    ],
)
def test_what_the_simulator_answers(path: str, request_body: dict[str, object]) -> None:
    with simulated() as url:
        data = orjson.dumps({"model": "qwen-plus", **request_body})
        headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-any"}
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=30) as response:
            usage = usage_in(response.read()[-TAIL_BYTES:])
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (usage.completion_tokens > 0) == (path != "/embeddings")

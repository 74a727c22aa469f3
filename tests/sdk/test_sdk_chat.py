"""The official Python SDK, blocking: chat in all its forms, as if the proxy were not there."""

from __future__ import annotations

import json
from typing import Any

import openai
import orjson
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from qproxy.simulator.text import arguments_for, reasoning, tokens
from tests.support.sdk_stage import CLIENT_KEY, UPSTREAM_KEY, Stage, canned, canned_stream

ANSWER = "".join(tokens(16))
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "get_weather", "description": "天气", "parameters": SCHEMA}}
]


class Weather(BaseModel):
    city: str
    days: int


def test_a_plain_answer(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="qwen3-max", messages=HI)
    assert completion.choices[0].message.content == ANSWER
    assert (completion.model, completion.choices[0].finish_reason) == ("qwen3-max", "stop")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 16


def test_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="qwen3-max", messages=HI, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [delta for delta in deltas if delta] == tokens(16)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_a_stream_that_its_reader_leaves_early(client: openai.OpenAI, stage: Stage) -> None:
    before = stage.simulator.counters.aborted
    model = "sim-stall"
    with client.chat.completions.create(model=model, messages=HI, stream=True) as stream:
        assert next(iter(stream)).model == model
    stage.until(lambda counters: counters.aborted == before + 1)
    test_a_plain_answer(client)


def test_what_the_sdk_sends_is_what_the_upstream_gets(client: openai.OpenAI, stage: Stage) -> None:
    """The same call straight and through the proxy: the bodies are equal, the keys are each side's own."""
    call: dict[str, Any] = {
        "model": "qwen3-max",
        "messages": [{"role": "user", "content": "é 通义 🙂 \u2028 \x7f"}],
        "temperature": 0,
        "stop": [],
        "tools": TOOLS,
        "extra_body": {"enable_thinking": False, "top_k": 20, "unknown": {"b": None, "a": 1e-7}},
    }
    client.chat.completions.create(**call)
    through = stage.last_request
    with openai.OpenAI(base_url=stage.simulator.base_url, api_key=UPSTREAM_KEY) as direct:
        direct.chat.completions.create(**call)
    straight = stage.last_request
    assert through.body == straight.body
    assert through.head.bearer == straight.head.bearer == UPSTREAM_KEY
    assert CLIENT_KEY.encode() not in through.head.raw
    assert through.header("x-stainless-lang") == "python"


def test_a_tool_call_and_its_result(client: openai.OpenAI) -> None:
    called = client.chat.completions.create(model="qwen3-max", messages=HI, tools=TOOLS).choices[0]
    assert called.finish_reason == "tool_calls"
    assert called.message.tool_calls is not None
    call = called.message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", arguments_for(SCHEMA))
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    assistant: Any = called.message.model_dump(exclude_none=True)
    answered = client.chat.completions.create(model="qwen3-max", messages=[*HI, assistant, result], tools=TOOLS)
    assert answered.choices[0].message.content == ANSWER


def test_a_streamed_tool_call(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="qwen3-max", messages=HI, tools=TOOLS) as stream:
        kinds = {each.type for each in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == arguments_for(SCHEMA)


def test_parallel_tool_calls_whose_deltas_alternate(backend: str) -> None:
    """As DashScope streams them: id and name once, empty strings afterwards, two indices in turn."""

    def delta(index: int, call_id: str, name: str, arguments: str) -> bytes:
        function = {"name": name, "arguments": arguments}
        call = {"index": index, "id": call_id, "type": "function", "function": function}
        return part({"content": None, "tool_calls": [call]}, None)

    def part(content: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": content, "finish_reason": finish}
        common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return orjson.dumps({**common, "choices": [choice]})

    events = [part({"role": "assistant", "content": ""}, None)]
    events += [delta(0, "call_a", "one", ""), delta(1, "call_b", "two", "")]
    events += [delta(0, "", "", '{"x'), delta(1, "", "", '{"通'), delta(0, "", "", '":1}'), delta(1, "", "", '义":2}')]
    events.append(part({}, "tool_calls"))
    got: dict[int, list[str]] = {0: [], 1: []}
    with (
        canned(backend, canned_stream(events)) as base_url,
        openai.OpenAI(base_url=base_url, api_key=CLIENT_KEY) as sdk,
    ):
        for each in sdk.chat.completions.create(model="m", messages=HI, tools=TOOLS, stream=True):
            for call in each.choices[0].delta.tool_calls or []:
                assert call.function is not None
                got[call.index] += [call.id or "", call.function.name or "", call.function.arguments or ""]
    assert ["".join(parts) for parts in got.values()] == ['call_aone{"x":1}', 'call_btwo{"通义":2}']


def test_reasoning_is_streamed_before_the_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="qwen3-max", messages=HI, stream=True, extra_body={"enable_thinking": True}
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    thoughts = [str((delta.model_extra or {}).get("reasoning_content") or "") for delta in deltas]
    assert [thought for thought in thoughts if thought] == reasoning(4)
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert max(n for n, thought in enumerate(thoughts) if thought) < min(n for n, d in enumerate(deltas) if d.content)


def test_an_image_in_the_content(client: openai.OpenAI, stage: Stage) -> None:
    url = "data:image/png;base64," + "iVBORw0KGgo=" * 40_000
    picture: ChatCompletionMessageParam = {
        "role": "user",
        "content": [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}],
    }
    completion = client.chat.completions.create(model="qwen3-vl-plus", messages=[picture])
    assert completion.usage is not None
    details: Any = completion.usage.to_dict()["prompt_tokens_details"]
    assert details["image_tokens"] == 256
    assert stage.last_request.json()["messages"] == [picture]


def test_structured_output_is_parsed(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(model="qwen3-max", messages=HI, response_format=Weather)
    assert completion.choices[0].message.parsed == Weather(**json.loads(arguments_for(SCHEMA)))


def test_several_choices(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="qwen3-max", messages=HI, n=2, stream=True)
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [ANSWER, ANSWER]


def test_a_raw_response_shows_the_upstreams_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="qwen3-max", messages=HI)
    assert (raw.status_code, raw.headers["content-type"]) == (200, "application/json")
    assert raw.headers["x-dashscope-call-gateway"] == "true"
    assert raw.headers.get_list("x-request-id") == [raw.request_id]
    assert "set-cookie" not in raw.headers
    assert raw.parse().choices[0].message.content == ANSWER


def test_a_raw_stream_shows_that_nobody_may_hold_it(client: openai.OpenAI) -> None:
    create = client.chat.completions.with_streaming_response.create
    with create(model="qwen3-max", messages=HI, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-accel-buffering"] == "no"
        assert raw.headers.get_list("cache-control") == ["no-cache, no-transform"]
        lines = list(raw.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("scenario", ["no-done", "repeat"])
def test_odd_but_complete_streams_pass(client: openai.OpenAI, scenario: str) -> None:
    stream = client.chat.completions.create(model=f"sim-{scenario}", messages=HI, stream=True)
    deltas = [chunk.choices[0].delta.content for chunk in stream]
    times = 2 if scenario == "repeat" else 1
    assert [delta for delta in deltas if delta] == [token for token in tokens(16) for _ in range(times)]

"""Chat completions of the simulator: Qwen's shapes, whole and streamed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from qproxy.simulator import Options, running
from tests.support.http_client import http_client

pytestmark = pytest.mark.anyio
CHAT = "/chat/completions"
HI: dict[str, Any] = {"model": "qwen3-coder-plus", "messages": [{"role": "user", "content": "hi"}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
        },
    },
}


def deltas(events: list[Any]) -> list[Any]:
    return [choice["delta"] for event in events for choice in event["choices"]]


async def test_a_whole_answer_has_the_shape_and_the_headers_of_dashscope() -> None:
    async with running(Options(tokens=3)) as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, HI)
    body = answer.json()
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.header("set-cookie").startswith("acw_tc=")
    assert answer.header("req-cost-time")
    assert body["id"] == f"chatcmpl-{answer.header('x-request-id')}"
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello from the"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 3


async def test_a_stream_says_the_same_as_the_whole_answer() -> None:
    async with running(Options(tokens=16)) as simulator, http_client(simulator.base_url) as client:
        whole = await client.post(CHAT, HI)
        stream = await client.post(CHAT, {**HI, "stream": True})
    text = "".join(delta.get("content") or "" for delta in deltas(stream.events()))
    assert text == whole.json()["choices"][0]["message"]["content"]
    assert stream.header("content-type") == "text/event-stream;charset=UTF-8"
    assert stream.content.endswith(b"data: [DONE]\n\n")
    assert [event["choices"][0]["finish_reason"] for event in stream.events()] == [None] * 17 + ["stop"]
    assert all(event["usage"] is None for event in stream.events())
    assert len({event["id"] for event in stream.events()}) == 1
    assert "千问".encode() in stream.content


async def test_usage_comes_only_where_it_was_asked_for() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        stream = await client.post(CHAT, {**HI, "stream": True, "stream_options": {"include_usage": True}})
    last = stream.events()[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 16


async def test_tool_calls_are_split_id_and_name_first() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        stream = await client.post(CHAT, {**HI, "stream": True, "tools": [WEATHER]})
    calls = [delta["tool_calls"][0] for delta in deltas(stream.events()) if "tool_calls" in delta]
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "get_weather", "arguments": ""}
    assert len(calls) > 2
    assert {call["id"] for call in calls[1:]} == {""}
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert orjson.loads(arguments) == {"city": "通义 sample", "days": 7, "unit": "C"}
    assert stream.events()[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "change",
    [
        {"tool_choice": "none"},
        {"messages": [*HI["messages"], {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]},
        {"tools": []},
    ],
)
async def test_no_tool_is_called(change: dict[str, Any]) -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, {**HI, "tools": [WEATHER], **change})
    choice = answer.json()["choices"][0]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


async def test_a_named_tool_is_the_one_that_is_called() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    choice = {"type": "function", "function": {"name": "other"}}
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, {**HI, "tools": [WEATHER, other], "tool_choice": choice})
    call = answer.json()["choices"][0]["message"]["tool_calls"][0]
    assert call["function"] == {"name": "other", "arguments": "{}"}


@pytest.mark.parametrize(
    "change",
    [
        {"enable_thinking": True},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"model": "qwen3-max-thinking"},
    ],
)
async def test_reasoning_precedes_the_content(change: dict[str, Any]) -> None:
    async with running(Options(tokens=2, reasoning_tokens=2)) as simulator, http_client(simulator.base_url) as client:
        stream = await client.post(CHAT, {**HI, **change, "stream": True})
        whole = await client.post(CHAT, {**HI, **change})
    assert deltas(stream.events()) == [
        {"role": "assistant", "content": None, "reasoning_content": ""},
        {"content": None, "reasoning_content": "Let"},
        {"content": None, "reasoning_content": " me"},
        {"content": "Hello", "reasoning_content": None},
        {"content": " from", "reasoning_content": None},
        {},
    ]
    assert whole.json()["choices"][0]["message"]["reasoning_content"] == "Let me"
    assert whole.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


async def test_max_tokens_cuts_and_says_length() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, {**HI, "max_tokens": 2})
    choice = answer.json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello from", "length")


async def test_images_are_counted() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "what?"}, image]}]
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, {"model": "qwen3-vl-plus", "messages": messages})
    assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] == 512


async def test_several_choices_and_json_formats() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "list": {"type": "array"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, {**HI, "n": 2, "response_format": wanted})
        plain = await client.post(CHAT, {**HI, "response_format": {"type": "json_object"}})
    contents = [choice["message"]["content"] for choice in answer.json()["choices"]]
    assert [orjson.loads(content) for content in contents] == [{"ok": True, "list": ["通义 sample"]}] * 2
    assert orjson.loads(plain.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"model": None}, "model parameter"),
        ({"messages": []}, "messages"),
        ({"temperature": 2}, "Temperature should be in [0.0, 2.0)"),
        ({"top_logprobs": 6}, "top_logprobs"),
        ({"n": 5}, "Range of n"),
        ({"tools": [{"type": "function", "function": {"name": "search"}}]}, "[search]"),
        ({"reasoning_effort": "low", "thinking_budget": 5}, "reasoning_effort"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a'}}]}]},
            "must be in JSON format",
        ),
    ],
)
async def test_what_qwen_refuses_is_refused(change: dict[str, Any], fragment: str) -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, {**HI, **change})
    assert answer.status == 400
    assert set(answer.json()) == {"error", "id", "request_id"}
    assert set(answer.json()["error"]) == {"code", "param", "message", "type"}
    assert fragment in answer.json()["error"]["message"]


async def test_headers_change_one_request_only() -> None:
    async with running(Options(tokens=5)) as simulator, http_client(simulator.base_url) as client:
        changed = await client.post(CHAT, HI, x_sim_tokens="2", x_sim_prefill="0.001")
        usual = await client.post(CHAT, HI)
        wrong = await client.post(CHAT, HI, x_sim_tokens="two")
    assert changed.json()["usage"]["completion_tokens"] == 2
    assert usual.json()["usage"]["completion_tokens"] == 5
    assert wrong.status == 400


async def test_a_paced_stream_says_what_a_fast_one_says() -> None:
    async with running(Options(tokens=8)) as simulator, http_client(simulator.base_url) as client:
        fast = await client.post(CHAT, {**HI, "stream": True})
        paced = await client.post(CHAT, {**HI, "stream": True}, x_sim_pace="5000", x_sim_prefill="1")
    assert deltas(paced.events()) == deltas(fast.events())
    assert paced.content.endswith(b"data: [DONE]\n\n")

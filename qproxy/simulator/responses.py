"""`POST /responses`: the Responses API as far as text and one function call go, with its order of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from qproxy.simulator import text
from qproxy.simulator.answers import Answer, EventStream, invalid, json_reply
from qproxy.simulator.fields import as_list
from qproxy.simulator.turn import ToolCall, Turn, take_turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qproxy.simulator.call import Call
    from qproxy.simulator.request import JsonObject


def responses(call: Call) -> Answer:
    """`input` is text or a list of items. Raises Refused."""
    common: JsonObject = {
        "id": f"resp_{call.request_id}",
        "object": "response",
        "created_at": call.created,
        "model": call.model,
    }
    given = call.body.get("input")
    if not given:
        raise invalid("'input' must be text or a non-empty array")
    turn = take_turn(call, as_list(given))
    item = _function_call(turn.tool) if turn.tool else _message(call, "".join(turn.content))
    end = "incomplete" if turn.finish == "length" else "completed"
    reason = {"reason": "max_output_tokens"} if end == "incomplete" else None
    whole: JsonObject = {**common, "status": end, "output": [item], "usage": _usage(turn), "incomplete_details": reason}
    if not call.streams:
        return json_reply(whole)
    opened: JsonObject = {**common, "status": "in_progress", "output": [], "usage": None}
    middle = _call_events(item, turn.tool) if turn.tool else _text_events(item, turn.content)
    return EventStream(_events(opened, middle, end, whole))


def _events(opened: JsonObject, middle: Iterable[JsonObject], end: str, whole: JsonObject) -> Iterator[bytes]:
    sequence: list[JsonObject] = [
        {"type": "response.created", "response": opened},
        {"type": "response.in_progress", "response": opened},
        *middle,
        {"type": f"response.{end}", "response": whole},
    ]
    for number, event in enumerate(sequence):
        data = orjson.dumps({**event, "sequence_number": number})
        yield f"event: {event['type']}\ndata: ".encode() + data + b"\n\n"


def _text_events(item: JsonObject, content: list[str]) -> Iterator[JsonObject]:
    place: JsonObject = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    whole = _part("".join(content))
    opened = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": opened}
    yield {"type": "response.content_part.added", **place, "part": _part("")}
    for token in content:
        yield {"type": "response.output_text.delta", **place, "delta": token, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": whole["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": whole}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _call_events(item: JsonObject, tool: ToolCall) -> Iterator[JsonObject]:
    place: JsonObject = {"item_id": item["id"], "output_index": 0}
    opened = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "response.output_item.added", "output_index": 0, "item": opened}
    for fragment in text.fragments(tool.arguments):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": fragment}
    yield {"type": "response.function_call_arguments.done", **place, "arguments": tool.arguments}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _message(call: Call, content: str) -> JsonObject:
    return {
        "id": f"msg_{call.request_id}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [_part(content)],
    }


def _part(content: str) -> JsonObject:
    return {"type": "output_text", "text": content, "annotations": [], "logprobs": []}


def _function_call(tool: ToolCall) -> JsonObject:
    return {
        "id": f"fc_{tool.id}",
        "type": "function_call",
        "status": "completed",
        "call_id": tool.id,
        "name": tool.name,
        "arguments": tool.arguments,
    }


def _usage(turn: Turn) -> JsonObject:
    prompt = turn.prompt_tokens + turn.image_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": turn.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": len(turn.reasoning)},
        "total_tokens": prompt + turn.completion_tokens,
    }

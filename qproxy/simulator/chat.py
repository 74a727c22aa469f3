"""`POST /chat/completions`: one turn as JSON or as a stream of chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from qproxy.simulator import text
from qproxy.simulator.answers import DONE, Answer, EventStream, invalid, json_reply
from qproxy.simulator.fields import as_count, as_list, as_object
from qproxy.simulator.turn import ToolCall, Turn, take_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qproxy.simulator.call import Call
    from qproxy.simulator.request import JsonObject

_MAX_CHOICES = 4


def chat(call: Call) -> Answer:
    """Raises Refused."""
    model = call.model
    messages = as_list(call.body.get("messages"))
    if not messages:
        raise invalid("'messages' must be a non-empty array")
    _check_history(messages)
    choices = as_count(call.body.get("n"), 1)
    if not 1 <= choices <= _MAX_CHOICES:
        raise invalid("Range of n should be [1, 4]")
    turn = take_turn(call, messages)
    if not call.streams:
        return _whole(call, model, turn, choices)
    return EventStream(_events(call, model, turn, choices))


def _check_history(messages: list[object]) -> None:
    for message in messages:
        for called in as_list(as_object(message).get("tool_calls")):
            arguments = as_object(as_object(called).get("function")).get("arguments")
            if isinstance(arguments, str) and not _is_json(arguments):
                raise invalid('The "function.arguments" parameter of the code model must be in JSON format.')


def _is_json(arguments: str) -> bool:
    try:
        orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return False
    return True


def _whole(call: Call, model: str, turn: Turn, choices: int) -> Answer:
    message: JsonObject = {"role": "assistant", "content": "".join(turn.content)}
    if turn.reasoning:
        message["reasoning_content"] = "".join(turn.reasoning)
    if turn.tool:
        function = {"name": turn.tool.name, "arguments": turn.tool.arguments}
        message["tool_calls"] = [{"function": function, "id": turn.tool.id, "index": 0, "type": "function"}]
    return json_reply(
        {
            "choices": [
                {"message": message, "finish_reason": turn.finish, "index": index, "logprobs": None}
                for index in range(choices)
            ],
            "object": "chat.completion",
            "usage": turn.usage(),
            "created": call.created,
            "system_fingerprint": None,
            "model": model,
            "id": f"chatcmpl-{call.request_id}",
        }
    )


def _events(call: Call, model: str, turn: Turn, choices: int) -> Iterator[bytes]:
    tail = orjson.dumps(
        {
            "created": call.created,
            "system_fingerprint": None,
            "model": model,
            "id": f"chatcmpl-{call.request_id}",
        }
    )[1:]
    for index in range(choices):
        after = b',"finish_reason":null,"index":%d,"logprobs":null}],' % index
        suffix = after + b'"object":"chat.completion.chunk","usage":null,' + tail + b"\n\n"
        for delta in _deltas(turn):
            yield b'data: {"choices":[{"delta":' + orjson.dumps(delta) + suffix
        finish = b'"finish_reason":"%b","index":%d,"logprobs":null}],' % (turn.finish.encode(), index)
        after = b'"object":"chat.completion.chunk","usage":null,' + tail + b"\n\n"
        yield b'data: {"choices":[{"delta":{},' + finish + after
    if as_object(call.body.get("stream_options")).get("include_usage") is True:
        usage = orjson.dumps(turn.usage())
        yield b'data: {"choices":[],"object":"chat.completion.chunk","usage":' + usage + b"," + tail + b"\n\n"
    yield DONE


def _deltas(turn: Turn) -> Iterator[JsonObject]:
    if turn.reasoning:
        yield {"role": "assistant", "content": None, "reasoning_content": ""}
        for token in turn.reasoning:
            yield {"content": None, "reasoning_content": token}
    else:
        yield {"role": "assistant", "content": ""}
    for token in turn.content:
        yield {"content": token, "reasoning_content": None} if turn.reasoning else {"content": token}
    if turn.tool:
        yield from _tool_deltas(turn.tool)


def _tool_deltas(tool: ToolCall) -> Iterator[JsonObject]:
    """Id and name first, then fragments whose id and name are empty strings, as DashScope's are."""
    first = {"name": tool.name, "arguments": ""}
    yield {"content": None, "tool_calls": [{"index": 0, "id": tool.id, "type": "function", "function": first}]}
    for fragment in text.fragments(tool.arguments):
        function = {"name": "", "arguments": fragment}
        yield {"content": None, "tool_calls": [{"index": 0, "id": "", "type": "function", "function": function}]}

"""`POST /completions`: plain text, whole or streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from qproxy.simulator.answers import DONE, Answer, EventStream, invalid, json_reply
from qproxy.simulator.fields import as_object
from qproxy.simulator.turn import Turn, take_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qproxy.simulator.call import Call
    from qproxy.simulator.request import JsonObject


def completions(call: Call) -> Answer:
    """Raises Refused."""
    common: JsonObject = {
        "id": f"cmpl-{call.request_id}",
        "object": "text_completion",
        "created": call.created,
        "model": call.model,
    }
    if "prompt" not in call.body:
        raise invalid("'prompt' is required")
    turn = take_turn(call, [])
    if call.streams:
        return EventStream(_events(call, common, turn))
    choice = _choice("".join(turn.content), turn.finish)
    return json_reply({**common, "choices": [choice], "usage": turn.usage()})


def _events(call: Call, common: JsonObject, turn: Turn) -> Iterator[bytes]:
    for token in turn.content:
        yield _event({**common, "choices": [_choice(token, None)]})
    yield _event({**common, "choices": [_choice("", turn.finish)]})
    if as_object(call.body.get("stream_options")).get("include_usage") is True:
        yield _event({**common, "choices": [], "usage": turn.usage()})
    yield DONE


def _choice(content: str, finish: str | None) -> JsonObject:
    return {"text": content, "index": 0, "logprobs": None, "finish_reason": finish}


def _event(content: JsonObject) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"

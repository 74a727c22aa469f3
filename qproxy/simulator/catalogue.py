"""`GET /models` and `GET /models/{id}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.simulator.answers import Answer, Refused, json_reply, refused

if TYPE_CHECKING:
    from qproxy.simulator.call import Call
    from qproxy.simulator.request import JsonObject

_CREATED = 1754686206


def list_models(call: Call) -> Answer:
    """All models of the options, in their order."""
    return json_reply({"object": "list", "data": [_row(model) for model in call.options.models]})


def one_model(call: Call) -> Answer:
    """Raises Refused where the list does not have it. An id may hold slashes."""
    model = call.request.path.partition("/models/")[2]
    if model not in call.options.models:
        raise unknown_model(model)
    return json_reply(_row(model))


def unknown_model(model: str) -> Refused:
    """404 as DashScope words it."""
    return refused(404, "model_not_found", f"The model `{model}` does not exist or you do not have access to it.")


def _row(model: str) -> JsonObject:
    return {"id": model, "object": "model", "created": _CREATED, "owned_by": "qwen"}

"""`POST /v1/tokenize`, as vLLM has it, and `POST /v1/messages/count_tokens`, as Anthropic has it: what a prompt costs,
without asking an upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from qproxy.core.local import CONTENT_TYPE_JSON, LocalAnswer, json_answer
from qproxy.core.route import LocalEndpoint
from qproxy.core.tokens import Shape

if TYPE_CHECKING:
    from qproxy.core.local import LocalRequest
    from qproxy.core.tokens import Counted


async def _tokenize(request: LocalRequest) -> LocalAnswer:
    """`{model, prompt | messages, return_tokens?}` -> `{count, max_model_len, exact, tokens?}`."""
    services = request.services
    counted = await services.tokens.count(request.body, Shape.OPENAI, may_want_ids=True)
    return LocalAnswer(200, (CONTENT_TYPE_JSON,), _answer(counted, services.window_of(counted.model)))


def _answer(counted: Counted, window_tokens: int | None) -> bytes:
    head = orjson.dumps({"count": counted.tokens, "max_model_len": window_tokens, "exact": counted.is_exact})
    if counted.ids_json is None:
        return head
    return b'%b,"tokens":%b}' % (head[:-1], counted.ids_json)


async def _count_tokens(request: LocalRequest) -> LocalAnswer:
    """`{model, system?, messages, tools?}` -> `{input_tokens}`."""
    counted = await request.services.tokens.count(request.body, Shape.ANTHROPIC)
    return json_answer({"input_tokens": counted.tokens})


TOKENIZE = LocalEndpoint("tokenize", b"/v1/tokenize", (b"POST",), needs_key=True, answer=_tokenize, body_bytes=None)
COUNT_TOKENS = LocalEndpoint(
    "count_tokens", b"/v1/messages/count_tokens", (b"POST",), needs_key=True, answer=_count_tokens, body_bytes=None
)

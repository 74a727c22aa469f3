"""What upstreams say when a request goes over a model's limits, and the clear words that their clients get.

The patterns begin where a message begins: what a client wrote may come back inside an error, and must teach nothing.
Sources: `qwen-wire.md` 4.5, 7.2, 7.5 for DashScope and vLLM; SGLang's and llama.cpp's own words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import orjson

from qproxy.core.error_body import said_in
from qproxy.core.jsonscan import can_be_written
from qproxy.core.local import CONTENT_TYPE_JSON, LocalAnswer, first_document
from qproxy.core.windows import ModelLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_WORDS = 500  # characters of an upstream's message that are passed on

_NUMBER = r"(?P<{}>[\d,]{{1,13}})"
_LIMIT, _ASKED = _NUMBER.format("limit"), _NUMBER.format("asked")
_FIELD = r"(?P<field>max(?:_completion|_output)?_tokens)"
_OUTPUT = re.compile(rf"^range of {_FIELD} should be \[1, ?{_LIMIT}\]", re.MULTILINE)
_OUTPUT_TOO_LARGE = r"'max_tokens' or 'max_completion_tokens' is too large: \d+\. "
_BUT_ASKED = rf".{{0,60}}?\b(?:requested|request has|resulted in) (?:about )?{_ASKED} (?:input )?tokens"
_BUT_TOTAL = rf"\. you requested a total of {_ASKED} tokens"
_WINDOWS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"^range of input length should be \[1, ?{_LIMIT}\]",
        rf"^(?:{_OUTPUT_TOO_LARGE})?this model's maximum context length is {_LIMIT} tokens(?:{_BUT_ASKED})?",
        rf"^you passed {_ASKED} input tokens and requested .{{0,80}}context length is only {_LIMIT} tokens",
        rf"^requested token count exceeds the model's maximum context length of {_LIMIT} tokens(?:{_BUT_TOTAL})?",
        rf"^the input \({_ASKED} tokens\) is longer than the model's context length \({_LIMIT} tokens\)",
        rf"^(?:the )?request \({_ASKED} tokens\) exceeds the available context size \({_LIMIT} tokens\)",
    )
)


class LimitSaid(NamedTuple):
    """A limit in an upstream's words. `field` is the one that was above it, "" for the prompt itself. `asked_tokens` is
    None where the upstream did not say how many there were."""

    field: str
    limit_tokens: int
    asked_tokens: int | None

    @property
    def limits(self) -> ModelLimits:
        """What a table of models learns from it."""
        tokens = self.limit_tokens
        return ModelLimits(output_tokens=tokens) if self.field else ModelLimits(window_tokens=tokens)


class Asked(NamedTuple):
    """How much a request asked for, in tokens; None where nobody knows."""

    tokens: int | None
    is_estimate: bool = False


def limit_said(body: bytes) -> LimitSaid | None:
    """The limit that an error names; None where it names none. Any bytes will do."""
    text = said_in(body).text
    output = _OUTPUT.search(text)
    if output is not None:
        return LimitSaid(output["field"], _tokens(output["limit"]), None)
    for pattern in _WINDOWS:
        found = pattern.search(text)
        if found is not None:
            asked = found.groupdict().get("asked")
            return LimitSaid("", _tokens(found["limit"]), None if asked is None else _tokens(asked))
    return None


def limit_answer(status: int, body: bytes, said: LimitSaid, asked: Asked, request_id: bytes) -> LocalAnswer:
    """The upstream's error with both numbers in its words, and a code that says what it is. The status and the ids by
    which the upstream's own support finds it stay."""
    document = first_document(body)
    message = f"{_explained(said, asked)}{_quoted(document)}"
    code = "invalid_request" if said.field else "context_length_exceeded"
    error = {"message": message, "type": "invalid_request_error", "param": said.field or "messages", "code": code}
    ids = {key: document[key] for key in ("id", "request_id") if isinstance(document.get(key), str)}
    headers = (CONTENT_TYPE_JSON, (b"x-request-id", request_id))
    return LocalAnswer(status, headers, orjson.dumps({"error": error, **ids}))


def window_exceeded(window_tokens: int, asked: Asked) -> str:
    """In the words that clients search for (`qwen-wire.md` 7.5)."""
    if asked.tokens is None:
        return f"This model's maximum context length is {window_tokens} tokens, and the request has more."
    about = "about " if asked.is_estimate else ""
    return (
        f"This model's maximum context length is {window_tokens} tokens. However, your request has "
        f"{about}{asked.tokens} tokens."
    )


def _explained(said: LimitSaid, asked: Asked) -> str:
    if not said.field:
        over = window_exceeded(said.limit_tokens, asked)
        return f"{over} Send less of the conversation, or choose a model with a larger window."
    value = "outside its range" if asked.tokens is None else str(asked.tokens)
    return (
        f"{said.field} is {value}; this model takes 1 to {said.limit_tokens}. Send such a number or none, or have "
        "qproxy lower it (clamp_max_tokens)."
    )


def _quoted(document: Mapping[str, object]) -> str:
    error = document.get("error")
    words = error.get("message") if isinstance(error, dict) else document.get("message")
    if not isinstance(words, str) or not words:
        return ""
    return f" The upstream said: {words[:LONGEST_WORDS]}" if can_be_written(words) else ""


def _tokens(digits: str) -> int:
    return int(digits.replace(",", "") or 0)

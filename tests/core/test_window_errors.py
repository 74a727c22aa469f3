"""What upstreams say about limits, and what their clients read."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.window_errors import Asked, LimitSaid, limit_answer, limit_said
from qproxy.core.windows import ModelLimits

BACKEND = "<400> InternalError.Algo.InvalidParameter: "


def body(message: str, **more: object) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "code": None}, **more})


SAID = {
    f"{BACKEND}Range of input length should be [1, 258048]": LimitSaid("", 258_048, None),
    "Range of input length should be [1,30720]": LimitSaid("", 30_720, None),
    "Range of max_tokens should be [1, 65536]": LimitSaid("max_tokens", 65_536, None),
    f"{BACKEND}Range of max_completion_tokens should be [1, 131072]": LimitSaid("max_completion_tokens", 131_072, None),
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, "
    "1000 in the completion). Please reduce the length.": LimitSaid("", 8_192, 9_000),
    "This model's maximum context length is 8192 tokens. However, your request has 9000 input tokens. Please reduce "
    "the length of the input messages.": LimitSaid("", 8_192, 9_000),
    "This model's maximum context length is 4,097 tokens. However, your messages resulted in 4,100 tokens.": LimitSaid(
        "", 4_097, 4_100
    ),
    "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 8192 tokens "
    "and your request has 100 input tokens (9000 > 8192 - 100). None": LimitSaid("", 8_192, 100),
    "You passed 9000 input tokens and requested 1 output tokens. However, the model's context length is only 8192 "
    "tokens, resulting in a maximum input length of 8191 tokens.": LimitSaid("", 8_192, 9_000),
    "Requested token count exceeds the model's maximum context length of 32768 tokens. You requested a total of 40000 "
    "tokens: 39000 tokens from the input": LimitSaid("", 32_768, 40_000),
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).": LimitSaid("", 4_096, 5_000),
    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it": LimitSaid(
        "", 4_096, 5_000
    ),
}


@pytest.mark.parametrize(("message", "said"), SAID.items(), ids=lambda part: str(part)[:40])
def test_what_is_understood(message: str, said: LimitSaid) -> None:
    flat = orjson.dumps({"code": "InvalidParameter", "message": message, "request_id": "r"})
    event = b"data: " + body(message) + b"\n\n"
    assert limit_said(body(message)) == limit_said(flat) == limit_said(event) == said


@pytest.mark.parametrize(
    "message",
    [
        "Range of n should be [1, 4]",
        "Range of max_tokens should be [2, 4]",
        "Range of max_tokens should be",
        "The model `Range of max_tokens should be [1, 16]` does not exist.",
        "messages[0].content: this model's maximum context length is 100 tokens",
        "",
    ],
)
def test_what_is_not(message: str) -> None:
    """What a client wrote stands inside a message, and never at its beginning."""
    assert limit_said(body(message)) is None


@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(body)))
def test_any_bytes_will_do(payload: bytes) -> None:
    said = limit_said(payload)
    assert said is None or said.limit_tokens >= 0


def answered(message: str, asked: Asked, **more: object) -> dict[str, dict[str, str]]:
    payload = body(message, **more)
    said = limit_said(payload)
    assert said is not None
    answer = limit_answer(400, payload, said, asked, b"qp-1")
    assert answer.status == 400
    assert (b"x-request-id", b"qp-1") in answer.headers
    document: dict[str, dict[str, str]] = orjson.loads(answer.body)
    return document


def test_a_window_in_clear_words() -> None:
    message = "Range of input length should be [1, 258048]"
    document = answered(message, Asked(300_000, is_estimate=True), request_id="r-1", id="chatcmpl-1", other=1)
    error = document["error"]
    assert (error["code"], error["param"], error["type"]) == (
        "context_length_exceeded", "messages", "invalid_request_error",
    )  # fmt: skip
    assert "maximum context length is 258048 tokens" in error["message"]
    assert "about 300000 tokens" in error["message"]
    assert message in error["message"]
    assert document == {"error": error, "id": "chatcmpl-1", "request_id": "r-1"}


def test_a_count_of_the_upstreams_own_is_no_estimate() -> None:
    (message, said) = next((message, said) for message, said in SAID.items() if said.asked_tokens == 9_000)
    error = answered(message, Asked(said.asked_tokens))["error"]
    assert "has 9000 tokens" in error["message"]


def test_an_output_cap_in_clear_words() -> None:
    error = answered("Range of max_tokens should be [1, 8192]", Asked(100_000))["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "max_tokens")
    assert error["message"].startswith("max_tokens is 100000; this model takes 1 to 8192.")


def test_without_the_other_number() -> None:
    error = answered("Range of max_tokens should be [1, 8192]", Asked(None))["error"]
    assert error["message"].startswith("max_tokens is outside its range; this model takes 1 to 8192.")


def test_what_a_table_learns() -> None:
    assert LimitSaid("", 5_000, None).limits == ModelLimits(window_tokens=5_000)
    assert LimitSaid("max_tokens", 5_000, None).limits == ModelLimits(output_tokens=5_000)


def test_words_that_cannot_be_written_are_left_out() -> None:
    payload = b'{"error": {"message": "Range of max_tokens should be [1, 64] \\ud800"}}'
    said = limit_said(payload)
    assert said is not None
    assert orjson.loads(limit_answer(400, payload, said, Asked(65), b"q").body)["error"]["param"] == "max_tokens"

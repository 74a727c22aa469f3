"""What an error of ours looks like, for every row of the error table."""

from __future__ import annotations

import orjson
import pytest

from qproxy.core.local import (
    error_answer,
    error_in_stream,
    hidden_error_answer,
    json_answer,
    options_answer,
    sse_error_event,
)
from qproxy.errors import CATALOGUE, AccountError, DownstreamError, Fault, InternalError, QProxyError, UpstreamError

CLASSES: dict[Fault, type[QProxyError]] = {
    Fault.DOWNSTREAM: DownstreamError,
    Fault.UPSTREAM: UpstreamError,
    Fault.ACCOUNT: AccountError,
    Fault.INTERNAL: InternalError,
}


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_code_has_the_envelope_and_the_headers_of_the_contract(code: str) -> None:
    kind = CATALOGUE[code]
    answer = error_answer(CLASSES[kind.fault](code, "Do ö this."), b"req-1")
    headers = dict(answer.headers)
    assert answer.status == kind.status
    assert orjson.loads(answer.body) == {
        "error": {"message": "Do ö this.", "type": kind.type, "param": None, "code": code}
    }
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-request-id"] == b"req-1"
    assert headers.get(b"x-should-retry") == {True: b"true", False: b"false", None: None}[kind.should_retry]
    assert headers.get(b"www-authenticate") == (b"Bearer" if kind.status == 401 else None)
    assert b"retry-after" not in headers


@pytest.mark.parametrize(("given_s", "sent"), [(30, b"30"), (1, b"1"), (0, b"1"), (-5, b"1")])
def test_retry_after_is_at_least_one_second(given_s: int, sent: bytes) -> None:
    answer = error_answer(InternalError("overloaded", "Wait.", retry_after_s=given_s), b"r")
    assert dict(answer.headers)[b"retry-after"] == sent


def test_param_and_extra_headers_are_carried() -> None:
    error = DownstreamError("method_not_allowed", "No.", param="model", headers=((b"allow", b"GET"),))
    answer = error_answer(error, b"r")
    assert (b"allow", b"GET") in answer.headers
    assert orjson.loads(answer.body)["error"]["param"] == "model"


def test_the_event_of_a_broken_stream_is_one_line_and_ends_nothing_else() -> None:
    event = sse_error_event(UpstreamError("stream_truncated", "line one\nline two"))
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert orjson.loads(event.removeprefix(b"data: "))["error"]["code"] == "stream_truncated"
    assert b"[DONE]" not in event


def test_plain_answers() -> None:
    assert json_answer({"a": 1}, 503).status == 503
    assert json_answer({"a": 1}).body == b'{"a":1}'
    assert options_answer(b"GET").headers == ((b"allow", b"GET"),)


@pytest.mark.parametrize("depth", [200, 248, 252, 300, 1000])
def test_an_upstreams_error_that_nests_too_deep_to_be_written_again(depth: int) -> None:
    """What is read nests up to 1,024 levels, what is written 254."""
    payload = b'{"error":{"message":"m","x":' + b"[" * depth + b"]" * depth + b"}}"
    hidden, in_stream = hidden_error_answer(502, payload, "c", b"r"), error_in_stream(502, payload, b"r")
    assert [answer.status for answer in (hidden, in_stream)] == [502, 502]
    assert all(orjson.loads(answer.body)["error"]["message"] for answer in (hidden, in_stream))

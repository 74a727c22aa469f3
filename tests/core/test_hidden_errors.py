"""Errors that a 200 brings as its first event or as its JSON body, and what only looks like one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.causes import STATUS_OF
from qproxy.core.classify import Cause, hidden_error, late_error
from qproxy.core.error_body import BODY_BYTES
from tests.support.error_bodies import (
    BACKEND,
    BODIES,
    QUOTA_TEXT,
    Known,
    envelope,
    flat,
    framed,
    gateway_event,
)

STATUS_MATTERS = {"403 quota", "403 quota, code alone", "403 free quota", "gateway", "gateway that speaks of tokens"}


@pytest.mark.parametrize("known", [BODIES[name] for name in BODIES if name not in STATUS_MATTERS])
def test_every_known_body_as_the_first_event_of_a_200(known: Known) -> None:
    """Its code and words mean the same without a status."""
    for code in filter(None, (known.native, known.openai)):
        for payload in (envelope(code, code, known.message), flat(code, "", known.message)):
            found = hidden_error(payload)
            assert found is not None
            assert (found.cause, found.scope, found.window) == (known.cause, known.scope, known.window)
            assert found.code == code
            assert found.status == STATUS_OF[found.cause]


def chunk(**choice: object) -> bytes:
    choices = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None} | choice]
    return json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices}).encode()


NATIVE_LIMIT = (
    b'id:1\nevent:error\n:HTTP_STATUS/429\ndata:{"request_id":"1","code":"Throttling.AllocationQuota",'
    b'"message":"Allocated quota exceeded, please increase your quota limit."}'
)
HIDDEN: dict[str, tuple[bytes, Cause, int]] = {
    "envelope": (envelope("data_inspection_failed", "x", "Output data may"), Cause.CONTENT_FILTER, 400),
    "flat": (flat("DataInspectionFailed", "", "Output data may"), Cause.CONTENT_FILTER, 400),
    "flat with its event": (gateway_event("limit_requests", "limit_requests", "m"), Cause.RATE, 429),
    "event with the status in a comment": (NATIVE_LIMIT, Cause.RATE, 429),
    "event without JSON": (b"event: error\ndata: stream timeout", Cause.TIMEOUT, 504),
    "with its data line": (framed("insufficient_quota", "", QUOTA_TEXT), Cause.QUOTA, 429),
    "an event of its own first": (b": hello\n\ndata:" + envelope("invalid_api_key", "", "m"), Cause.AUTH, 401),
    "status as a number": (b'{"error":{"code":503,"message":"m"}}', Cause.OVERLOADED, 503),
    "flat, status as a number": (b'{"code":500,"message":"m"}', Cause.SERVER_ERROR, 500),
    "error as a word": (b'{"error":"Model not exist."}', Cause.NOT_FOUND, 404),
    "no known sign": (b'{"error":{"message":"m"}}', Cause.UNKNOWN, 502),
    "bad parameter": (envelope("InternalError.Algo.InvalidParameter", "", "m"), Cause.BAD_REQUEST, 400),
    "internal": (flat("InternalError.Algo", "", "m"), Cause.SERVER_ERROR, 500),
    "mid-stream form with choices": (
        json.dumps({"choices": [{"finish_reason": "error"}], "error": {"code": 429, "message": "m"}}).encode(),
        Cause.RATE,
        429,
    ),
}
FAILURES: dict[str, tuple[str, Cause, int]] = {
    "native event": (NATIVE_LIMIT.decode(), Cause.RATE, 429),
    "JSON": ('{"error":{"code":"1302","message":"m"}}', Cause.RATE, 429),
    "JSON, flat": ('{"code":"1305","message":"m"}', Cause.OVERLOADED, 503),
    "data line": ('data: {"code":429,"message":"m"}', Cause.RATE, 429),
    "status": ("failed with HTTP_STATUS/503", Cause.OVERLOADED, 503),
    "words": ("Requests rate limit exceeded", Cause.RATE, 429),
    "backend's prefix": (f"{BACKEND}Range of input length should be [1, 2]", Cause.CONTEXT_OVERFLOW, 400),
    "unknown words": ("something broke", Cause.UNKNOWN, 502),
    "nothing": ("", Cause.UNKNOWN, 502),
}
NORMAL: dict[str, bytes] = {
    "first chunk": chunk(),
    "content about errors": chunk(delta={"content": '{"error":{"code":"insufficient_quota"}} error_finish'}),
    "content like an event": chunk(delta={"content": "event: error\ndata: {}"}),
    "tool call about errors": chunk(delta={"tool_calls": [{"function": {"arguments": '{"error":1,"code":"x"}'}}]}),
    "usage": b'{"choices":[],"usage":{"total_tokens":3}}',
    "done": b"[DONE]",
    "nothing": b"",
    "comment": b": error keep-alive",
    "framed": b"data: " + chunk(delta={"content": "error"}) + b"\n\ndata: [DONE]\n\n",
    "named event": b"event: message\ndata: " + chunk(delta={"content": "an error"}),
    "error that is null": b'{"object":"response","error":null,"message":"m"}',
    "native success": b'{"code":"","message":"","output":{},"request_id":"1"}',
    "success in numbers": b'{"code":200,"message":"no error","data":{}}',
    "success in words": b'{"code":"Success","message":"no error"}',
    "code without a message": b'{"code":"x","error":false}',
    "a list": b'["error"]',
    "model list": b'{"object":"list","data":[{"id":"error-code","code":"x"}]}',
    "not JSON": b'{"error":{"code":"insufficient_quota","message":"cut',
    "not UTF-8": b'\xff{"error":1}',
    "text": b"some error",
}


class TestHiddenErrors:
    @pytest.mark.parametrize(("payload", "cause", "status"), HIDDEN.values(), ids=HIDDEN)
    def test_errors(self, payload: bytes, cause: Cause, status: int) -> None:
        found = hidden_error(payload)
        assert found is not None
        assert (found.cause, found.status, found.retry_after_s) == (cause, status, None)

    @pytest.mark.parametrize("place", ["delta", "message"])
    @pytest.mark.parametrize(("words", "cause", "status"), FAILURES.values(), ids=FAILURES)
    def test_a_failure_in_place_of_content(self, words: str, cause: Cause, status: int, place: str) -> None:
        found = hidden_error(chunk(**{"finish_reason": "error_finish", "delta": None, place: {"content": words}}))
        assert found is not None
        assert (found.cause, found.status) == (cause, status)

    @pytest.mark.parametrize("payload", NORMAL.values(), ids=NORMAL)
    def test_what_is_none(self, payload: bytes) -> None:
        assert hidden_error(payload) is None

    @pytest.mark.parametrize("choice", [{}, {"delta": None}, {"delta": "error"}, {"message": {"content": 7}}])
    def test_a_failure_without_words(self, choice: dict[str, object]) -> None:
        body = json.dumps({"choices": [None, "x", {"finish_reason": "error_finish"} | choice]}).encode()
        found = hidden_error(body)
        assert found is not None
        assert found.cause is Cause.UNKNOWN

    def test_a_long_answer_is_none(self) -> None:
        body = envelope("insufficient_quota", "", QUOTA_TEXT)
        assert hidden_error(body) is not None
        assert hidden_error(body + b" " * BODY_BYTES) is None


CONTENT = b'data: {"choices":[{"delta":{"content":"an error, of code 7"}}]}\n\n'
SAID = b"data: " + envelope("insufficient_quota", "", QUOTA_TEXT) + b"\n\n"
USAGE = b'data: {"choices":[],"usage":{"total_tokens":7}}\n\n'
DONE = b"data: [DONE]\n\n"


class TestLateErrors:
    @pytest.mark.parametrize("behind", [b"", SAID, DONE, USAGE + DONE, SAID + USAGE + DONE])
    @pytest.mark.parametrize("before", [b"", CONTENT * 9, CONTENT[9:], b"error"])
    def test_an_error_at_the_end(self, before: bytes, behind: bytes) -> None:
        found = late_error((before + b"\n\n" if before == b"error" else before) + SAID + behind)
        assert found is not None
        assert found.cause is Cause.QUOTA

    @pytest.mark.parametrize("tail", [b"", DONE, CONTENT * 9, CONTENT * 3 + USAGE + DONE, SAID[:-20], SAID[9:]])
    def test_none(self, tail: bytes) -> None:
        assert late_error(tail) is None

    @given(st.lists(st.sampled_from([SAID, DONE, CONTENT, b"error", b"\r\n", b"\n\n", b"data:", b"{", b"\xff"])))
    def test_any_bytes_will_do(self, parts: list[bytes]) -> None:
        late_error(b"".join(parts))

    def test_one_that_was_not_the_end(self) -> None:
        assert late_error(SAID + CONTENT * 9) is None

"""The table of things that go wrong: a model named `sim-<name>` or the header `x-sim-scenario: <name>` chooses a row.

Error bodies have the status, code and text of Qwen's gateways. The rows `oauth-...` are for the login paths, which
have no model: `Simulator.fail_next(name, path="/oauth2/token")`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias

import orjson

from qproxy.simulator.answers import DONE, HTML, Refusal, Reply, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Edit: TypeAlias = Callable[[Iterable[bytes], "Place"], Iterator[bytes]]

_FINISH_MARKS = (b'"finish_reason":"', b"event: response.completed", b"event: response.incomplete")


class Ending(enum.Enum):
    """How an answer ends. All but COMPLETE end the connection too; a whole reply is cut in the middle of its body."""

    COMPLETE = enum.auto()
    FIN = enum.auto()
    FIN_INSIDE_EVENT = enum.auto()
    RESET = enum.auto()
    FIN_BEFORE_HEAD = enum.auto()
    FIN_INSIDE_HEAD = enum.auto()
    RESET_BEFORE_HEAD = enum.auto()


class Hold(enum.Enum):
    """Where an exchange waits for `Simulator.release()`: before its body is read, before the head of the answer, or
    after `Options.fault_after` events of a stream (in the middle of any other body)."""

    NOWHERE = enum.auto()
    BODY = enum.auto()
    HEAD = enum.auto()
    EVENTS = enum.auto()


@dataclass(frozen=True, slots=True)
class Place:
    """What an edit is told: which request it is, and after how many events the fault comes."""

    request_id: str
    after: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row. `answer` replaces the model's own; `edit` changes the events of a stream.

    `early`: the answer comes before the request's body is read, and the connection ends with it. `head_first`: the
    head of a stream does not wait for the prefill.
    """

    answer: Refusal | Reply | None = None
    edit: Edit | None = None
    ending: Ending = Ending.COMPLETE
    hold: Hold = Hold.NOWHERE
    early: bool = False
    head_first: bool = False


def _beginning(events: Iterable[bytes], place: Place) -> Iterator[bytes]:
    return islice(events, place.after)


def _nothing(_: Iterable[bytes], __: Place) -> Iterator[bytes]:
    return iter(())


def _only(refusal: Refusal) -> Edit:
    return lambda _, place: iter([refusal.event(place.request_id)])


def _then(refusal: Refusal, *, times: int = 1) -> Edit:
    """The beginning, then the error, then a clean end of the body."""
    return lambda events, place: chain(islice(events, place.after), [refusal.event(place.request_id)] * times)


def _without_done(events: Iterable[bytes], _: Place) -> Iterator[bytes]:
    return (event for event in events if event != DONE)


def _without_finish(events: Iterable[bytes], _: Place) -> Iterator[bytes]:
    return (event for event in events if event != DONE and not any(mark in event for mark in _FINISH_MARKS))


def _error_finish(events: Iterable[bytes], place: Place) -> Iterator[bytes]:
    """The failure's text as content of a chunk whose finish_reason is `error_finish`."""
    text = rb"{\"code\":429,\"message\":\"Requests rate limit exceeded\",\"status\":\"HTTP_STATUS/429\"}"
    tail = b""
    for event in islice(events, place.after):
        yield event
        tail = event.partition(b',"index"')[2]
    yield b'data: {"choices":[{"delta":{"content":"' + text + b'"},"finish_reason":"error_finish","index"' + tail
    yield DONE


def _loose(events: Iterable[bytes], _: Place) -> Iterator[bytes]:
    """Comments, CRLF, no space after the colon, surplus empty lines: all legal, all seen."""
    yield b": keep-alive\n\n"
    for number, event in enumerate(events):
        if number % 3 == 0:
            yield event.replace(b"\n", b"\r\n")
        elif number % 3 == 1:
            yield event.replace(b"data: ", b"id: %d\nretry: 1000\ndata:" % number)
        else:
            yield event + b"\n"


def _repeated(events: Iterable[bytes], _: Place) -> Iterator[bytes]:
    for event in events:
        yield event
        if event != DONE:
            yield event


def _refuse(
    status: int, code: str, message: str, kind: str = "invalid_request_error", shape: Shape = Shape.OPENAI
) -> Scenario:
    return Scenario(Refusal(status, code, message, kind, shape))


def _retry_after(status: int, code: str, message: str, name: bytes, value: bytes) -> Scenario:
    return Scenario(Refusal(status, code, message, code, headers=((name, value),)))


_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_FREE = "Free allocated quota exceeded."
_BUSY = "Too many requests. Batch requests are being throttled due to system capacity limits."
_LENGTH = "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 258048]"
_INSPECTED = "Input data may contain inappropriate content."
_WAF = (
    '<!doctype html><html><head><meta name="aliyun_waf_aa" content="0"></head>'
    "<body><div id='captcha-element'>Please complete the captcha.</div></body></html>"
)
_GATEWAY = "<html><head><title>504 Gateway Time-out</title></head><body><h1>stream timeout</h1></body></html>"
_IN_STREAM = Refusal(500, "internal_error", "Internal server error.", "server_error")
_FLAT = Refusal(400, "DataInspectionFailed", "Output data may contain inappropriate content.", shape=Shape.FLAT)
_FIRST = Refusal(429, "limit_requests", "You exceeded your current requests list.", "limit_requests")

_REFUSALS: dict[str, Scenario] = {
    "400": _refuse(400, "invalid_parameter_error", "<400> InternalError.Algo.InvalidParameter: Wrong parameter."),
    "400-context": _refuse(400, "invalid_parameter_error", _LENGTH),
    "400-max-tokens": _refuse(400, "invalid_parameter_error", "Range of max_tokens should be [1, 65536]"),
    "400-thinking": _refuse(
        400, "invalid_parameter_error", "parameter.enable_thinking must be set to false for non-streaming calls"
    ),
    "400-arrearage": _refuse(
        400, "Arrearage", "Access denied, please make sure your account is in good standing.", "Arrearage"
    ),
    "400-inspection": _refuse(400, "data_inspection_failed", _INSPECTED, "data_inspection_failed"),
    "400-flat": _refuse(400, "InvalidParameter", _LENGTH, "InvalidParameter", Shape.FLAT),
    "400-sse": _refuse(400, "invalid_parameter_error", _LENGTH, shape=Shape.SSE_FRAMED),
    "400-nested": _refuse(400, "invalid_parameter_error", _LENGTH, shape=Shape.NESTED),
    "401": _refuse(401, "invalid_api_key", "Incorrect API key provided. "),
    "401-missing": _refuse(401, "invalid_api_key", "No API-key provided.", "invalid_request_error"),
    "401-expired": _refuse(401, "invalid_api_key", "invalid access token or token expired", "authentication_error"),
    "403-quota": _refuse(403, "insufficient_quota", _QUOTA, "insufficient_quota"),
    "403-free-tier": _refuse(
        403, "AllocationQuota.FreeTierOnly", "The free tier of the model has been exhausted.", "AllocationQuota"
    ),
    "403-denied": _refuse(403, "Model.AccessDenied", "Model access denied.", "Model.AccessDenied"),
    "403-retired": _refuse(403, "Endpoint.AccessDenied", "Endpoint access denied.", "Endpoint.AccessDenied"),
    "403-purchase": _refuse(403, "AccessDenied.Unpurchased", "Access to model denied.", "AccessDenied.Unpurchased"),
    "403-plan-key": _refuse(403, "invalid_api_key", "invalid api-key"),
    "404": _refuse(404, "not_found", "Not Found"),
    "404-model": _refuse(
        404, "model_not_found", "The model `sim-404-model` does not exist or you do not have access to it."
    ),
    "404-unsupported": _refuse(404, "model_not_supported", "model 'sim-404-unsupported' is not supported"),
    "429-throttling": _refuse(429, "Throttling", "Requests throttling triggered.", "Throttling"),
    "429-rate": _refuse(429, "limit_requests", "You exceeded your current requests list.", "limit_requests"),
    "429-burst": _refuse(429, "limit_burst_rate", "Request rate increased too quickly.", "limit_burst_rate"),
    "429-tokens": _refuse(429, "insufficient_quota", "Allocated quota exceeded.", "insufficient_quota"),
    "429-quota": _refuse(429, "insufficient_quota", _QUOTA, "insufficient_quota"),
    "429-free": _refuse(429, "insufficient_quota", _FREE, "insufficient_quota"),
    "429-hour": _refuse(429, "Throttling.AllocationQuota", "hour allocated quota exceeded", "Throttling"),
    "429-week": _refuse(429, "Throttling.AllocationQuota", "week allocated quota exceeded", "Throttling"),
    "429-month": _refuse(429, "Throttling.AllocationQuota", "month allocated quota exceeded", "Throttling"),
    "429-concurrency": _refuse(429, "Throttling.AllocationQuota", "concurrency allocated quota exceeded", "Throttling"),
    "429-usage": _refuse(429, "Throttling.AllocationQuota", "usage allocated quota exceeded", "Throttling"),
    "429-billing": _refuse(429, "PrepaidBillOverdue", "The prepaid bill is overdue.", "PrepaidBillOverdue"),
    "429-flat": _refuse(429, "Throttling.RateQuota", "Requests rate limit exceeded", "Throttling", Shape.FLAT),
    "429-sse": _refuse(429, "insufficient_quota", _QUOTA, "insufficient_quota", Shape.SSE_FRAMED),
    "429-nested": _refuse(429, "insufficient_quota", _QUOTA, "insufficient_quota", Shape.NESTED),
    "429-retry-after": _retry_after(429, "limit_requests", "Requests rate limit exceeded", b"retry-after", b"2"),
    "429-retry-after-ms": _retry_after(429, "limit_requests", "Requests rate limit exceeded", b"retry-after-ms", b"20"),
    "429-retry-after-date": _retry_after(
        429, "limit_requests", "Requests rate limit exceeded", b"retry-after", b"Wed, 21 Oct 2099 07:28:00 GMT"
    ),
    "500": _refuse(500, "internal_error", "An internal error has occured, please try again later.", "server_error"),
    "500-timeout": _refuse(500, "RequestTimeOut", "Request timed out, please try again later.", "server_error"),
    "500-html": _refuse(500, "", "<html><body><h1>500 Internal Server Error</h1></body></html>", shape=Shape.HTML),
    "502-text": _refuse(502, "", "upstream connect error or disconnect/reset before headers", shape=Shape.TEXT),
    "503": _refuse(503, "ModelServingError", _BUSY, "server_error"),
    "503-retry-after": _retry_after(503, "ModelServingError", _BUSY, b"retry-after", b"1"),
    "504": _refuse(504, "", _GATEWAY, shape=Shape.HTML),
    "html-waf": Scenario(Reply(200, _WAF.encode(), HTML)),
    "empty-200": Scenario(Reply(200, b"", HTML)),
    "redirect": Scenario(Reply(302, b"", HTML, ((b"location", b"http://127.0.0.1:9/v1/chat/completions"),))),
    "error-200": Scenario(Reply(200, _FIRST.body("00000000-0000-4000-8000-000000000000"))),
}

_STREAMS: dict[str, Scenario] = {
    "error-in-stream": Scenario(edit=_then(_IN_STREAM)),
    "error-twice": Scenario(edit=_then(_IN_STREAM, times=2)),
    "error-flat": Scenario(edit=_then(_FLAT)),
    "error-first-event": Scenario(edit=_only(_FIRST)),
    "error-first-flat": Scenario(edit=_only(_FLAT)),
    "error-finish": Scenario(edit=_error_finish),
    "no-done": Scenario(edit=_without_done),
    "truncate": Scenario(edit=_without_finish),
    "empty-stream": Scenario(edit=_nothing),
    "loose": Scenario(edit=_loose),
    "repeat": Scenario(edit=_repeated),
    "early-head": Scenario(head_first=True),
}

_CONNECTIONS: dict[str, Scenario] = {
    "cut": Scenario(edit=_beginning, ending=Ending.FIN),
    "cut-in-event": Scenario(edit=_beginning, ending=Ending.FIN_INSIDE_EVENT),
    "cut-after-head": Scenario(edit=_nothing, ending=Ending.FIN),
    "cut-before-head": Scenario(ending=Ending.FIN_BEFORE_HEAD),
    "cut-in-head": Scenario(ending=Ending.FIN_INSIDE_HEAD),
    "reset": Scenario(edit=_beginning, ending=Ending.RESET),
    "reset-before-head": Scenario(ending=Ending.RESET_BEFORE_HEAD),
    "slow-head": Scenario(hold=Hold.HEAD),
    "stall": Scenario(hold=Hold.EVENTS),
    "slow-read": Scenario(hold=Hold.BODY),
    "early-401": Scenario(Refusal(401, "invalid_api_key", "Incorrect API key provided. "), early=True),
    "early-413": Scenario(Refusal(413, "invalid_parameter_error", "Exceeded limit on max bytes."), early=True),
    "early-429": Scenario(Refusal(429, "insufficient_quota", _QUOTA, "insufficient_quota"), early=True),
}


def _login_error(status: int, code: str) -> Scenario:
    return Scenario(Reply(status, orjson.dumps({"error": code, "error_description": f"{code} by script"})))


_LOGIN: dict[str, Scenario] = {
    "oauth-pending": _login_error(400, "authorization_pending"),
    "oauth-slow-down": _login_error(400, "slow_down"),
    "oauth-slow-down-429": _login_error(429, "slow_down"),
    "oauth-expired": _login_error(400, "expired_token"),
    "oauth-denied": _login_error(400, "access_denied"),
    "oauth-invalid-grant": _login_error(400, "invalid_grant"),
    "oauth-401": _login_error(401, "invalid_token"),
    "oauth-429": _login_error(429, "rate_limited"),
    "oauth-error-200": _login_error(200, "server_error"),
    "oauth-garbage": Scenario(Reply(200, b'{"access_token": "half a')),
}

SCENARIOS: dict[str, Scenario] = {**_REFUSALS, **_STREAMS, **_CONNECTIONS, **_LOGIN}
NORMAL = Scenario()

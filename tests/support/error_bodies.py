"""The error bodies of Qwen's upstreams as data (`qwen-wire.md` 7.2, 7.3, 6.5), and the shapes they come in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from qproxy.core.classify import Cause, Scope, Window

REQUEST, MODEL, ACCOUNT, UPSTREAM = Scope.REQUEST, Scope.MODEL, Scope.ACCOUNT, Scope.UPSTREAM


class Known(NamedTuple):
    """A body of `qwen-wire.md` 7.2 and 7.3. `native` and `openai` are its code's two spellings, "" for none."""

    status: int
    native: str
    openai: str
    message: str
    cause: Cause
    scope: Scope
    cooldown_s: float = 0.0
    window: Window = Window.NONE


PARAMETER = ("InvalidParameter", "invalid_parameter_error")
BAD = (Cause.BAD_REQUEST, REQUEST)
OVERFLOW = (Cause.CONTEXT_OVERFLOW, REQUEST)
FILTERED = (Cause.CONTENT_FILTER, REQUEST)
UNPAID = (Cause.BILLING, ACCOUNT, 900.0)
REFUSED = (Cause.AUTH, ACCOUNT)
NO_RIGHT = (Cause.ENTITLEMENT, MODEL, 900.0)
NO_MODEL = (Cause.NOT_FOUND, REQUEST)
PER_MINUTE = (Cause.RATE, MODEL, 60.0, Window.MINUTE)
UNSURE = (Cause.QUOTA, MODEL, 60.0, Window.UNKNOWN)
FREE_LOGIN = (Cause.QUOTA, ACCOUNT, 60.0, Window.UNKNOWN)
REFUSED_QUOTA = (Cause.QUOTA, ACCOUNT, 3600.0, Window.UNKNOWN)
FREE_TIER = (Cause.QUOTA, MODEL, 3600.0, Window.UNKNOWN)
FAILED = (Cause.SERVER_ERROR, UPSTREAM)
BROKEN_HISTORY = (Cause.SERVER_ERROR, REQUEST)
NO_CAPACITY = (Cause.OVERLOADED, UPSTREAM)
GAVE_UP = (Cause.TIMEOUT, REQUEST)

QUOTA_TEXT = "You exceeded your current quota, please check your plan and billing details."
TOKEN_LIMIT_TEXT = f"{QUOTA_TEXT} For details, see: https://help.aliyun.com/zh/model-studio/error-code#token-limit"
BUSY_TEXT = "Too many requests. Batch requests are being throttled due to system capacity limits."
BACKEND = "<400> InternalError.Algo.InvalidParameter: "

BODIES: dict[str, Known] = {
    "input length": Known(400, *PARAMETER, f"{BACKEND}Range of input length should be [1, 258048]", *OVERFLOW),
    "input length, plain": Known(400, *PARAMETER, "Range of input length should be [1, 30720]", *OVERFLOW),
    "max_tokens": Known(400, *PARAMETER, "Range of max_tokens should be [1, 65536]", *BAD),
    "temperature": Known(400, *PARAMETER, f"{BACKEND}Temperature should be in [0.0, 2.0)", *BAD),
    "top_p": Known(400, *PARAMETER, "Range of top_p should be (0.0, 1.0]", *BAD),
    "n": Known(400, *PARAMETER, "Range of n should be [1, 4]", *BAD),
    "thinking without a stream": Known(
        400, *PARAMETER, "parameter.enable_thinking must be set to false for non-streaming calls", *BAD
    ),
    "stream only": Known(400, *PARAMETER, "This model only support stream mode, please enable the stream", *BAD),
    "thinking demanded": Known(
        400, *PARAMETER, "The value of the enable_thinking parameter is restricted to True.", *BAD
    ),
    "thinking not supported": Known(
        400,
        "InvalidParameter.NotSupportEnableThinking",
        "invalid_parameter_error",
        "The model qwen-max does not support enable_thinking.",
        *BAD,
    ),
    "json mode": Known(400, *PARAMETER, "'messages' must contain the word 'json' in some form", *BAD),
    "json and thinking": Known(
        400, *PARAMETER, "Json mode response is not supported when enable_thinking is true", *BAD
    ),
    "tool_choice and thinking": Known(
        400, *PARAMETER, "The tool_choice parameter does not support being set to required in thinking mode", *BAD
    ),
    "tool_choice": Known(400, *PARAMETER, "tool_choice is one of the strings that should be [none, auto]", *BAD),
    "tool names": Known(400, *PARAMETER, "Tool names are not allowed to be [search]", *BAD),
    "tool arguments": Known(
        400, *PARAMETER, f'{BACKEND}The "function.arguments" parameter must be in JSON format.', *BAD
    ),
    "tool order": Known(
        400, *PARAMETER, 'messages with role "tool" must be a response to a preceeding message with "tool_calls".', *BAD
    ),
    "repeated tool calls": Known(400, *PARAMETER, "Repetitive tool calls detected", *BAD),
    "content shape": Known(400, *PARAMETER, "input content must be a string", *BAD),
    "role": Known(400, *PARAMETER, "Role must be in [user, assistant]", *BAD),
    "no model": Known(
        400, "BadRequest.EmptyModel", "invalid_request_error", "you must provide a model parameter", *BAD
    ),
    "model, older form": Known(400, "", "", "Model not exist.", *NO_MODEL),
    "arrearage": Known(
        400,
        "Arrearage",
        "Arrearage",
        "Access denied, please make sure your account is in good standing. For details, see: https://help.aliyun.com/",
        *UNPAID,
    ),
    "arrearage, as misspelt": Known(
        400, "", "", "Access denied, plesase make sure your account is in good standing.", *UNPAID
    ),
    "inspection of input": Known(
        400,
        "DataInspectionFailed",
        "data_inspection_failed",
        "Input data may contain inappropriate content.",
        *FILTERED,
    ),
    "inspection of output": Known(
        400,
        "DataInspectionFailed",
        "data_inspection_failed",
        "Output data may contain inappropriate content.",
        *FILTERED,
    ),
    "inspection, text alone": Known(
        400,
        "",
        "",
        "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.",
        *FILTERED,
    ),
    "key": Known(401, "InvalidApiKey", "invalid_api_key", "Incorrect API key provided. ", *REFUSED),
    "token": Known(401, "", "", "invalid access token or token expired", *REFUSED),
    "no key": Known(401, "InvalidApiKey", "invalid_api_key", "No API-key provided.", *REFUSED),
    "plan's key": Known(401, "InvalidApiKey", "invalid_api_key", "Invalid API-key provided.", *REFUSED),
    "plan's key, wrong URL": Known(403, "", "", "invalid api-key", *REFUSED),
    "access denied": Known(403, "AccessDenied", "access_denied", "Access denied.", *NO_RIGHT),
    "unpurchased": Known(403, "AccessDenied.Unpurchased", "access_denied", "Access to model denied.", *NO_RIGHT),
    "model denied": Known(403, "Model.AccessDenied", "model_access_denied", "Model access denied.", *NO_RIGHT),
    "workspace denied": Known(
        403,
        "Workspace.AccessDenied",
        "Workspace.AccessDenied",
        "Workspace access denied.",
        Cause.ENTITLEMENT,
        ACCOUNT,
        900.0,
    ),
    "endpoint denied": Known(
        403, "Endpoint.AccessDenied", "Endpoint.AccessDenied", "Endpoint access denied.", *NO_RIGHT
    ),
    "free tier only": Known(
        403,
        "AllocationQuota.FreeTierOnly",
        "AllocationQuota.FreeTierOnly",
        "The free tier of the model has been exhausted. If you wish to continue access the model on a paid basis, "
        'please disable the "use free tier only" mode in the management console.',
        *FREE_TIER,
    ),
    "free tier only, text alone": Known(403, "", "", "The free tier of the model has been exhausted.", *FREE_TIER),
    "free quota of a model": Known(
        429,
        "AllocationQuota.FreeExceeded",
        "AllocationQuota.FreeExceeded",
        "Free allocated quota exceeded.",
        *FREE_TIER,
    ),
    "403 quota": Known(403, "insufficient_quota", "insufficient_quota", QUOTA_TEXT, *REFUSED_QUOTA),
    "403 quota, code alone": Known(403, "insufficient_quota", "insufficient_quota", "", *REFUSED_QUOTA),
    "403 free quota": Known(
        403, "insufficient_quota", "insufficient_quota", "Free allocated quota exceeded.", *REFUSED_QUOTA
    ),
    "model": Known(
        404,
        "ModelNotFound",
        "model_not_found",
        "The model `qwen9` does not exist or you do not have access to it.",
        *NO_MODEL,
    ),
    "model not supported": Known(
        404, "model_not_supported", "model_not_supported", "model 'qwen9' is not supported", *NO_MODEL
    ),
    "model not supported, 400": Known(
        400, "model_not_supported", "model_not_supported", "model 'qwen9' not found or not supported", *NO_MODEL
    ),
    "model not supported, text alone": Known(400, "", "", "model 'qwen9' is not supported", *NO_MODEL),
    "throttling": Known(429, "Throttling", "throttling", "Requests throttling triggered.", *PER_MINUTE),
    "route": Known(429, "Throttling", "throttling", "Too many requests in route. Please try again later.", *PER_MINUTE),
    "requests": Known(
        429,
        "Throttling.RateQuota",
        "limit_requests",
        "Requests rate limit exceeded, please try again later.",
        *PER_MINUTE,
    ),
    "requests list": Known(
        429, "LimitRequests", "limit_requests", "You exceeded your current requests list.", *PER_MINUTE
    ),
    "burst": Known(
        429,
        "Throttling.BurstRate",
        "limit_burst_rate",
        "Request rate increased too quickly. To ensure system stability, please adjust your client logic.",
        Cause.BURST,
        MODEL,
        5.0,
    ),
    "tokens": Known(
        429,
        "Throttling.AllocationQuota",
        "insufficient_quota",
        "Allocated quota exceeded, please increase your quota limit.",
        *PER_MINUTE,
    ),
    "tokens, in a plan's words": Known(
        429, "Throttling.AllocationQuota", "insufficient_quota", TOKEN_LIMIT_TEXT, *PER_MINUTE
    ),
    "quota": Known(429, "insufficient_quota", "insufficient_quota", QUOTA_TEXT, *UNSURE),
    "quota, code alone": Known(429, "insufficient_quota", "insufficient_quota", "", *UNSURE),
    "quota, text alone": Known(429, "", "", QUOTA_TEXT, *UNSURE),
    "free login": Known(429, "insufficient_quota", "insufficient_quota", "Free allocated quota exceeded.", *FREE_LOGIN),
    "free login, native": Known(
        429, "Throttling.AllocationQuota", "insufficient_quota", "Free allocated quota exceeded.", *FREE_LOGIN
    ),
    "daily": Known(
        429, "", "insufficient_quota", "Daily request quota exceeded.", Cause.QUOTA, ACCOUNT, 3600.0, Window.DAY
    ),
    "5 hours": Known(
        429,
        "Throttling.AllocationQuota",
        "throttling",
        "hour allocated quota exceeded.",
        Cause.QUOTA,
        ACCOUNT,
        3600.0,
        Window.HOUR,
    ),
    "week": Known(
        429,
        "Throttling.AllocationQuota",
        "insufficient_quota",
        "week allocated quota exceeded.",
        Cause.QUOTA,
        ACCOUNT,
        6 * 3600.0,
        Window.WEEK,
    ),
    "month": Known(429, "", "", "month allocated quota exceeded.", Cause.QUOTA, ACCOUNT, 24 * 3600.0, Window.MONTH),
    "concurrency": Known(
        429,
        "Throttling.AllocationQuota",
        "throttling",
        "concurrency allocated quota exceeded.",
        Cause.CONCURRENCY,
        ACCOUNT,
        5.0,
    ),
    "usage": Known(
        429,
        "Throttling.AllocationQuota",
        "throttling",
        "usage allocated quota exceeded.",
        Cause.QUOTA,
        ACCOUNT,
        3600.0,
        Window.HOUR,
    ),
    "not purchased": Known(
        429, "CommodityNotPurchased", "CommodityNotPurchased", "Commodity has not purchased yet.", *UNPAID
    ),
    "prepaid bill": Known(429, "PrepaidBillOverdue", "PrepaidBillOverdue", "The prepaid bill is overdue.", *UNPAID),
    "postpaid bill": Known(429, "PostpaidBillOverdue", "PostpaidBillOverdue", "The postpaid bill is overdue.", *UNPAID),
    "internal": Known(
        500, "InternalError", "internal_error", "An internal error has occured, please try again later.", *FAILED
    ),
    "inference": Known(500, "InternalError.Algo", "internal_error", "inference internal error", *FAILED),
    "index": Known(500, "InternalError.Algo", "internal_error", "list index out of range", *BROKEN_HISTORY),
    "delimiter": Known(
        500,
        "InternalError.Algo",
        "internal_error",
        "<500> InternalError.Algo: Expecting ',' delimiter: line 1 column 12 (char 11)",
        *BROKEN_HISTORY,
    ),
    "system": Known(500, "SystemError", "", "An system error has occured.", *FAILED),
    "model service": Known(500, "ModelServiceFailed", "", "Failed to request model service.", *FAILED),
    "300 s without a stream": Known(500, "RequestTimeOut", "", "Request timed out, please try again later.", *GAVE_UP),
    "capacity": Known(503, "ModelServingError", "", BUSY_TEXT, *NO_CAPACITY),
    "capacity, 500": Known(500, "ModelServingError", "", BUSY_TEXT, *NO_CAPACITY),
    "model unavailable": Known(
        503, "ModelUnavailable", "", "Model is unavailable, please try again later.", *NO_CAPACITY
    ),
    "capacity, text alone": Known(500, "", "", "Too many requests. Please try again later.", *NO_CAPACITY),
    "gateway": Known(504, "", "", "stream timeout", *GAVE_UP),
    "gateway that speaks of tokens": Known(504, "InvalidApiKey", "invalid_api_key", "token expired", *GAVE_UP),
}

Shape: TypeAlias = Callable[[str, str, str], bytes]


def envelope(code: str, kind: str, message: str) -> bytes:
    error = {"code": code or None, "param": None, "message": message, "type": kind}
    return json.dumps({"error": error, "id": "chatcmpl-1", "request_id": "1"}).encode()


def flat(code: str, kind: str, message: str) -> bytes:
    body = {"code": code, "message": message, "request_id": "1"} | ({"type": kind} if kind else {})
    return json.dumps(body).encode()


def swapped(code: str, kind: str, message: str) -> bytes:
    return envelope(kind, code, message)


def traced(code: str, kind: str, message: str) -> bytes:
    return json.dumps({"traceId": "1", "type": code, "code": kind, "message": message}, ensure_ascii=False).encode()


def framed(code: str, kind: str, message: str) -> bytes:
    return b"data: " + envelope(code, kind, message) + b"\n\n"


def gateway_event(code: str, kind: str, message: str) -> bytes:
    return b"event: error\r\ndata:" + flat(code, kind, message) + b"\r\n\r\n"


def native_event(code: str, kind: str, message: str) -> bytes:
    return b"id:1\nevent:error\n:HTTP_STATUS/418\ndata:" + flat(code, kind, message) + b"\n\n"


def nested(code: str, kind: str, message: str) -> bytes:
    raw = framed(code, kind, message).decode()
    return json.dumps({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}}).encode()


def in_message(code: str, kind: str, message: str) -> bytes:
    return json.dumps({"error": {"message": flat(code, kind, message).decode(), "type": "upstream_error"}}).encode()


def twice(code: str, kind: str, message: str) -> bytes:
    return framed(code, kind, message) * 2


def cut_short(code: str, kind: str, message: str) -> bytes:
    return envelope(code, kind, message).partition(b'"id"')[0]


def cut_flat(code: str, kind: str, message: str) -> bytes:
    return flat(code, kind, message)[:-1]


SHAPES: list[Shape] = [
    *(envelope, flat, swapped, traced, framed, gateway_event, native_event),
    *(nested, in_message, twice, cut_short, cut_flat),
]
KINDS = {403: "permission", 404: "invalid_request_error", 429: "requests", 500: "server_error"}

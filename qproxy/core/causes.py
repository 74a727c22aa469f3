"""The words in which an upstream's answer is judged: about what, for whom, over which time."""

from __future__ import annotations

from enum import Enum


class Cause(Enum):
    """What an answer is about."""

    OK = "ok"
    QUOTA = "the allowance of a day, a plan's window or a free tier is used up"
    RATE = "too many requests or tokens a minute"
    BURST = "the rate grew too quickly"
    CONCURRENCY = "too many requests at once"
    BILLING = "somebody has to pay"
    ENTITLEMENT = "the account may not use this model"
    CONTENT_FILTER = "the content filter stopped it"
    CONTEXT_OVERFLOW = "the prompt is too long for the model"
    BAD_REQUEST = "the request itself is wrong"
    AUTH = "the key or token was refused"
    TIMEOUT = "the upstream gave up waiting for the model; never a token problem"
    OVERLOADED = "the upstream has no capacity left"
    SERVER_ERROR = "the upstream failed"
    NOT_FOUND = "no such model or path"
    UNKNOWN = "an error without any known sign"


class Scope(Enum):
    """For what the answer holds, so what has to change before a second try can end differently."""

    REQUEST = "this request alone; every account would answer the same"
    MODEL = "this model on this account; limits are counted per model (`qwen-wire.md` 7.3)"
    ACCOUNT = "every model on this account"
    UPSTREAM = "every account of this upstream; it says nothing about the account"


class Window(Enum):
    """Over which time a used-up limit is counted.

    DAY ends at the day's reset, which only the caller knows; the row's cool-down is for one who does not. UNKNOWN is a
    quota error that is a minute's limit as often as a day's: one is cooled for its `cooldown_s` and no longer.
    """

    NONE = "no limit was hit"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    UNKNOWN = "unknown"


STATUS_OF: dict[Cause, int] = {
    Cause.OK: 200,
    Cause.QUOTA: 429,
    Cause.RATE: 429,
    Cause.BURST: 429,
    Cause.CONCURRENCY: 429,
    Cause.BILLING: 403,
    Cause.ENTITLEMENT: 403,
    Cause.CONTENT_FILTER: 400,
    Cause.CONTEXT_OVERFLOW: 400,
    Cause.BAD_REQUEST: 400,
    Cause.AUTH: 401,
    Cause.TIMEOUT: 504,
    Cause.OVERLOADED: 503,
    Cause.SERVER_ERROR: 500,
    Cause.NOT_FOUND: 404,
    Cause.UNKNOWN: 502,
}
"""The status that an error inside a 200 stands for where it names none."""

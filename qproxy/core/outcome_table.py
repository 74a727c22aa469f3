"""What the known error bodies mean: one ordered table of codes, texts and statuses; the first row that fits is taken.

Sources: `qwen-wire.md` 7.2 to 7.5 for the bodies, `faults.md` U21 to U26 for what an account suffers by them. Words
that a client can put into an answer (a model's name comes back in 404s) must never cost an account anything: rows with
a cool-down match codes, the beginnings of texts, or texts at the statuses of limits alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qproxy.core.causes import Cause, Scope, Window

if TYPE_CHECKING:
    from collections.abc import Iterable

IN_BAND = 0
"""In place of a status: an error inside a 200 that names none. It fits every row, whatever its statuses."""

MINUTE_S = 60.0  # RPM and TPM recover within a minute (qwen-wire.md 7.3)
SOON_S = 5.0  # ramp up slowly; nothing more exact is documented
HOUR_S = 3600.0  # U24's default where no reset is stated; Coding Plan's 5 h roll, so an hour may free some
WEEK_PROBE_S = 6 * HOUR_S  # the reset is not in the answer: a refused probe costs less than a lost day
MONTH_PROBE_S = 24 * HOUR_S
PERSON_S = 900.0  # a person has to pay or to change a setting; they want to see soon that it helped


@dataclass(frozen=True, slots=True)
class Row:
    """One known kind of answer.

    It fits where the status is one of `statuses` (empty: any) and one of `codes` or `text` is found; a row with neither
    fits by status alone. `codes` are lower-case; `throttling` covers `throttling.ratequota` too. `text` is searched in
    the messages, in lower case, one a line; where `unless` is found as well, it does not count.
    """

    cause: Cause
    scope: Scope
    cooldown_s: float
    window: Window
    statuses: frozenset[int]
    codes: frozenset[str]
    text: re.Pattern[str] | None
    unless: re.Pattern[str] | None

    def fits(self, status: int, codes: frozenset[str], text: str) -> bool:
        """Whether this row describes an answer; `codes` are whole families."""
        if self.statuses and status != IN_BAND and status not in self.statuses:
            return False
        if not self.codes and self.text is None:
            return status != IN_BAND or not self.statuses
        return not self.codes.isdisjoint(codes) or self._text_fits(text)

    def _text_fits(self, text: str) -> bool:
        if self.text is None or self.text.search(text) is None:
            return False
        return self.unless is None or self.unless.search(text) is None


def _row(
    cause: Cause,
    scope: Scope,
    cooldown_s: float = 0.0,
    window: Window = Window.NONE,
    *,
    statuses: frozenset[int] = frozenset(),
    codes: str = "",
    text: str = "",
    unless: str = "",
) -> Row:
    """`codes` are separated by spaces; `text` and `unless` are regular expressions, empty for none."""
    return Row(cause, scope, cooldown_s, window, statuses, frozenset(codes.split()), _pattern(text), _pattern(unless))


def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(text, re.MULTILINE) if text else None


_REQUEST, _MODEL, _ACCOUNT, _UPSTREAM = Scope.REQUEST, Scope.MODEL, Scope.ACCOUNT, Scope.UPSTREAM

_SERVER = frozenset(range(500, 600))
_LIMITS = frozenset({403, 429})
_REFUSED = frozenset({400, 401, 403})
_NOT_THERE = frozenset({400, 404})
_TOO_LONG = frozenset({400, 413, 422, 500})
_WAITED = _SERVER | {400, 408}
_BUSY = _SERVER | {429}
_INTERNAL = frozenset({500})
_ALWAYS_TIMEOUT = frozenset({408, 504, 524})
_IN_BAND_ONLY = frozenset({IN_BAND})

_TIMED_OUT = r"context deadline exceeded|\btimed?[ -]?out\b"

_TOO_MANY_TOKENS = (
    r"context[ _-]?length[ _-]?exceeded|maximum context length|longer than the model's context length"
    r"|exceeds? the available context size|prompt (?:is )?too long|range of input length should be|too many tokens"
    r"|input (?:token |tokens |count |length ){0,3}(?:is |are )?too long"
    r"|[\d,]{1,20} tokens? > [\d,]{1,20} (?:maximum|limit)"
    r"|\b(?:input|prompt|messages?|context)\b.{0,80}\btokens?\b.{0,80}\bexceed"
)
"""`qwen-wire.md` 7.5, and what SGLang and llama.cpp say."""

_USED_UP = r"\bexceeded your current quota|\bquota (?:has been )?(?:exceeded|exhausted)"
_DAILY = (
    r"\b(?:daily|per[ -]day)\b.{0,40}\b(?:quota|limit|allowance)\b"
    r"|\b(?:quota|limit|allowance|requests)\b.{0,40}\b(?:daily|per[ -]day|for today)\b"
)

ROWS: tuple[Row, ...] = (
    # A gateway's 504 is a timeout whatever its body says: taking it for a token problem was a real defect (7.4).
    _row(Cause.TIMEOUT, _REQUEST, statuses=_ALWAYS_TIMEOUT),
    _row(Cause.TIMEOUT, _REQUEST, codes="requesttimeout request_timeout"),  # RequestTimeOut: 300 s without a stream
    _row(Cause.TIMEOUT, _REQUEST, statuses=_WAITED, text=_TIMED_OUT),
    _row(
        Cause.CONTENT_FILTER,
        _REQUEST,
        codes="datainspectionfailed data_inspection_failed content_filter content_policy_violation",
        text=r"^(?:input|output)(?: or output)?(?: \w{1,10})? data may contain (?:inappropriate|sensitive) content",
    ),
    # Billing before entitlement: Arrearage, a 400, begins with "Access denied".
    _row(
        Cause.BILLING,
        _ACCOUNT,
        PERSON_S,
        codes="arrearage commoditynotpurchased prepaidbilloverdue postpaidbilloverdue insufficient_balance"
        " coding_plan_subscription_expired",
        text=r"^access denied, .{0,20}make sure your account is in good standing"
        r"|^the (?:pre|post)paid bill is overdue|^commodity has not (?:been )?purchased",
    ),
    # Free quota of one model, with the switch "free tier only" on: no reset, another key or model may have some left.
    _row(
        Cause.QUOTA,
        _MODEL,
        HOUR_S,
        Window.UNKNOWN,
        statuses=_LIMITS,
        codes="allocationquota.freetieronly allocationquota.freeexceeded",
        text=r"\bfree tier of the model has been exhausted",
    ),
    # The windows of Coding Plan, all under one code: the text alone tells them apart.
    _row(Cause.QUOTA, _ACCOUNT, HOUR_S, Window.HOUR, statuses=_LIMITS, text=r"\bhour(?:ly)? allocated quota exceeded"),
    _row(
        Cause.QUOTA,
        _ACCOUNT,
        WEEK_PROBE_S,
        Window.WEEK,
        statuses=_LIMITS,
        text=r"\bweek(?:ly)? allocated quota exceeded",
    ),
    _row(
        Cause.QUOTA,
        _ACCOUNT,
        MONTH_PROBE_S,
        Window.MONTH,
        statuses=_LIMITS,
        text=r"\bmonth(?:ly)? allocated quota exceeded",
    ),
    _row(Cause.QUOTA, _ACCOUNT, HOUR_S, Window.HOUR, statuses=_LIMITS, text=r"\busage allocated quota exceeded"),
    _row(
        Cause.CONCURRENCY,
        _ACCOUNT,
        SOON_S,
        statuses=_LIMITS,
        codes="throttling.concurrency",
        text=r"\bconcurrency (?:allocated )?(?:quota|limit)|\btoo many concurrent requests",
    ),
    _row(
        Cause.BURST,
        _MODEL,
        SOON_S,
        codes="throttling.burstrate limit_burst_rate limitburstrate",
        text=r"^request rate increased too quickly",
    ),
    # "Too many requests" of a model without capacity, whoever asks. 1302 and 1305 come from GLM models on plan hosts.
    _row(
        Cause.OVERLOADED,
        _UPSTREAM,
        statuses=_BUSY,
        codes="modelservingerror modelunavailable overloaded_error engine_overloaded_error 1305",
        text=r"\bdue to system capacity limits",
    ),
    _row(Cause.QUOTA, _ACCOUNT, HOUR_S, Window.DAY, statuses=_LIMITS, text=_DAILY),
    # The daily allowance of the free login, but as often a minute's limit: never until tomorrow by one answer (7.3).
    _row(
        Cause.QUOTA,
        _ACCOUNT,
        MINUTE_S,
        Window.UNKNOWN,
        statuses=frozenset({429}),
        text=r"\bfree allocated quota exceeded",
    ),
    # Tokens a minute hide behind the words of a used-up plan; the link in the text gives them away.
    _row(
        Cause.RATE,
        _MODEL,
        MINUTE_S,
        Window.MINUTE,
        statuses=_LIMITS,
        codes="throttling.ratequota throttling.allocationquota limitrequests limit_requests 1302",
        text=r"^allocated quota exceeded|error-code#token-limit|^requests? rate limit exceeded"
        r"|exceeded your current requests? (?:list|limit)|\b(?:tokens|requests) per min",
    ),
    _row(
        Cause.QUOTA,
        _MODEL,
        MINUTE_S,
        Window.UNKNOWN,
        statuses=frozenset({429}),
        codes="insufficient_quota quota_exceeded",
        text=_USED_UP,
    ),
    _row(
        Cause.QUOTA,
        _ACCOUNT,
        HOUR_S,
        Window.UNKNOWN,
        statuses=frozenset({403}),
        codes="insufficient_quota quota_exceeded",
        text=_USED_UP,
    ),
    _row(
        Cause.RATE,
        _MODEL,
        MINUTE_S,
        Window.MINUTE,
        statuses=frozenset({429}),
        codes="throttling rate_limit_exceeded rate_limit_error toomanyrequests too_many_requests resourceexhausted",
        text=r"^(?:requests )?throttling|^too many requests|\brate limit (?:exceeded|reached)",
    ),
    _row(Cause.OVERLOADED, _UPSTREAM, statuses=_SERVER, text=r"^too many requests"),
    _row(
        Cause.CONTEXT_OVERFLOW,
        _REQUEST,
        statuses=_TOO_LONG,
        codes="context_length_exceeded exceed_context_size_error",
        text=_TOO_MANY_TOKENS,
        unless=_TIMED_OUT,
    ),
    _row(
        Cause.AUTH,
        _ACCOUNT,
        statuses=_REFUSED,
        codes="invalidapikey invalid_api_key invalid_token authentication_error",
        text=r"^(?:incorrect|invalid|no) api[- ]key|^invalid access token",
    ),
    _row(Cause.ENTITLEMENT, _ACCOUNT, PERSON_S, statuses=_REFUSED, codes="workspace.accessdenied"),
    _row(
        Cause.ENTITLEMENT,
        _MODEL,
        PERSON_S,
        statuses=_REFUSED,
        codes="accessdenied access_denied model.accessdenied model_access_denied endpoint.accessdenied"
        " permission_error permission_denied",
    ),
    _row(
        Cause.NOT_FOUND,
        _REQUEST,
        statuses=_NOT_THERE,
        codes="modelnotfound model_not_found model_not_supported",
        text=r"^model not exist|^(?:the )?model .{1,200} (?:does not exist|is not supported|not found)",
    ),
    # A half tool call in the history breaks the model's own parser: the request's fault, whatever the status says.
    _row(
        Cause.SERVER_ERROR,
        _REQUEST,
        statuses=_INTERNAL,
        text=r"\blist index out of range|\bexpecting ',' delimiter",
    ),
    # Inside a 200 there is no status to fall back on.
    _row(
        Cause.BAD_REQUEST,
        _REQUEST,
        statuses=_IN_BAND_ONLY,
        codes="invalidparameter invalid_parameter_error invalid_request_error badrequest badrequesterror"
        " internalerror.algo.invalidparameter unsupportedoperation",
    ),
    _row(
        Cause.SERVER_ERROR,
        _UPSTREAM,
        statuses=_IN_BAND_ONLY,
        codes="internalerror internal_error internal_server_error systemerror modelservicefailed server_error",
    ),
    # A firewall's page says nothing about the account.
    _row(Cause.UNKNOWN, _REQUEST, statuses=frozenset({403, 405}), text=r"^<(?:!doctype|html)"),
    # By status alone.
    _row(Cause.AUTH, _ACCOUNT, statuses=frozenset({401})),
    _row(Cause.BILLING, _ACCOUNT, PERSON_S, statuses=frozenset({402})),
    _row(Cause.ENTITLEMENT, _MODEL, MINUTE_S, statuses=frozenset({403})),
    _row(Cause.NOT_FOUND, _REQUEST, statuses=frozenset({404})),
    _row(Cause.RATE, _MODEL, MINUTE_S, Window.MINUTE, statuses=frozenset({429})),
    _row(Cause.BAD_REQUEST, _REQUEST, statuses=frozenset(range(400, 500))),
    _row(Cause.OVERLOADED, _UPSTREAM, statuses=frozenset({503, 529})),
    _row(Cause.SERVER_ERROR, _UPSTREAM, statuses=_SERVER),
    _row(Cause.UNKNOWN, _REQUEST),
)
"""In order of precedence; the last row fits everything."""


def find_row(status: int, codes: Iterable[str], text: str) -> Row:
    """The row for an answer; `codes` as they were written, `text` as in `Row`."""
    known = frozenset(name for code in codes for name in family(code))
    return next(row for row in ROWS if row.fits(status, known, text))


def family(code: str) -> frozenset[str]:
    """`a.b.c`, `a.b` and `a`, in lower case."""
    parts = code.lower().split(".")
    return frozenset(".".join(parts[:length]) for length in range(1, len(parts) + 1))

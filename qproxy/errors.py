"""Every failure that qproxy itself reports: whose fault it is, which status, whether a second try is safe.

One root, four children by fault. What a client sees of an error is a row of `CATALOGUE`, keyed by its code, so that
two places that raise the same code cannot disagree about its status. Messages say what to do; they never carry header
values, credentials, account names or file paths.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fault(enum.Enum):
    """Whose side has to change something before a second try can succeed."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    ACCOUNT = "account"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the error contract.

    `should_retry` becomes `x-should-retry` (None: the header is left out, the SDK's own rule holds).
    `closes` is True where the connection's framing can no longer be trusted.
    """

    status: int
    type: str
    fault: Fault
    should_retry: bool | None
    closes: bool = False


_DOWN, _UP, _ACCOUNT, _INTERNAL = Fault.DOWNSTREAM, Fault.UPSTREAM, Fault.ACCOUNT, Fault.INTERNAL
_INVALID = "invalid_request_error"

CATALOGUE: dict[str, ErrorKind] = {
    # Framing: after one of these nobody knows where the next request starts.
    "bad_request_line": ErrorKind(400, _INVALID, _DOWN, False, closes=True),
    "bad_header": ErrorKind(400, _INVALID, _DOWN, False, closes=True),
    "ambiguous_length": ErrorKind(400, _INVALID, _DOWN, False, closes=True),
    "bad_chunk": ErrorKind(400, _INVALID, _DOWN, False, closes=True),
    "bad_request": ErrorKind(400, _INVALID, _DOWN, False, closes=True),
    "invalid_host": ErrorKind(400, _INVALID, _DOWN, False, closes=True),
    "http_version": ErrorKind(505, _INVALID, _DOWN, False, closes=True),
    "unsupported_transfer_coding": ErrorKind(501, _INVALID, _DOWN, False, closes=True),
    "target_too_long": ErrorKind(414, _INVALID, _DOWN, False, closes=True),
    "headers_too_large": ErrorKind(431, _INVALID, _DOWN, False, closes=True),
    "body_too_large": ErrorKind(413, _INVALID, _DOWN, False, closes=True),
    "expectation_failed": ErrorKind(417, _INVALID, _DOWN, False, closes=True),
    "head_timeout": ErrorKind(408, "timeout_error", _DOWN, None, closes=True),
    "body_timeout": ErrorKind(408, "timeout_error", _DOWN, None, closes=True),
    # Content: the connection lives on.
    "invalid_json": ErrorKind(400, _INVALID, _DOWN, False),
    "invalid_utf8": ErrorKind(400, _INVALID, _DOWN, False),
    "duplicate_key": ErrorKind(400, _INVALID, _DOWN, False),
    "too_deep": ErrorKind(400, _INVALID, _DOWN, False),
    "context_length_exceeded": ErrorKind(400, _INVALID, _DOWN, False),
    "unknown_upstream": ErrorKind(400, _INVALID, _DOWN, False),
    "unknown_account": ErrorKind(400, _INVALID, _DOWN, False),
    "invalid_api_key": ErrorKind(401, "authentication_error", _DOWN, False),
    "host_not_allowed": ErrorKind(403, "permission_error", _DOWN, False, closes=True),
    "origin_not_allowed": ErrorKind(403, "permission_error", _DOWN, False, closes=True),
    "admin_not_allowed": ErrorKind(403, "permission_error", _DOWN, False),
    "unknown_route": ErrorKind(404, _INVALID, _DOWN, False),
    "model_not_found": ErrorKind(404, _INVALID, _DOWN, False),
    "method_not_allowed": ErrorKind(405, _INVALID, _DOWN, False),
    "unsupported_media_type": ErrorKind(415, _INVALID, _DOWN, False),
    "rate_limited": ErrorKind(429, "rate_limit_error", _DOWN, True),
    # The other side.
    "upstream_connect_failed": ErrorKind(502, "upstream_error", _UP, True),
    "upstream_dns_failed": ErrorKind(502, "upstream_error", _UP, False),
    "upstream_tls_failed": ErrorKind(502, "upstream_error", _UP, False),
    "upstream_closed": ErrorKind(502, "upstream_error", _UP, True),
    "upstream_protocol_error": ErrorKind(502, "upstream_error", _UP, True),
    "stream_truncated": ErrorKind(502, "upstream_error", _UP, None),
    "stream_idle_timeout": ErrorKind(504, "timeout_error", _UP, False),
    "upload_timeout": ErrorKind(504, "timeout_error", _UP, False),
    "first_byte_timeout": ErrorKind(504, "timeout_error", _UP, False),
    "total_timeout": ErrorKind(504, "timeout_error", _UP, False),
    # Accounts and configuration.
    "credentials_unavailable": ErrorKind(503, "overloaded_error", _ACCOUNT, True),
    "no_healthy_account": ErrorKind(503, "overloaded_error", _ACCOUNT, False),
    "all_accounts_limited": ErrorKind(429, "rate_limit_error", _ACCOUNT, True),
    # Ourselves.
    "no_upstream": ErrorKind(503, "overloaded_error", _INTERNAL, False),
    "overloaded": ErrorKind(503, "overloaded_error", _INTERNAL, True),
    "draining": ErrorKind(503, "overloaded_error", _INTERNAL, True, closes=True),
    "internal_error": ErrorKind(500, "server_error", _INTERNAL, None, closes=True),
}


class QProxyError(Exception):
    """Root of all. Raise one of the children: the class says whose fault, `code` names a row of `CATALOGUE`.

    `param` names the body field at fault, else None. `retry_after_s` is in whole seconds, at least 1.
    `headers` are extra answer headers such as `Allow`.
    """

    fault: Fault

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.kind = CATALOGUE[code]
        assert self.kind.fault is self.fault, f"{code} is not a {self.fault.value} error"
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers


class DownstreamError(QProxyError):
    """The client must change its request."""

    fault = Fault.DOWNSTREAM


class UpstreamError(QProxyError):
    """The upstream refused, broke off or stayed silent."""

    fault = Fault.UPSTREAM


class AccountError(QProxyError):
    """No credential of ours is good enough right now."""

    fault = Fault.ACCOUNT


class InternalError(QProxyError):
    """Configuration, load or a defect of qproxy itself."""

    fault = Fault.INTERNAL

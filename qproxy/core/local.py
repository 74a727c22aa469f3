"""Requests that this server answers itself, and what every error of its own looks like on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import orjson

from qproxy.core.jsonscan import can_be_written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qproxy.core.catalogue import ModelEntry
    from qproxy.core.tokens import Counted, Shape
    from qproxy.errors import QProxyError

CONTENT_TYPE_JSON = (b"content-type", b"application/json")


class Catalogue(Protocol):
    """The models of all upstreams."""

    async def listing(self) -> Sequence[ModelEntry]:
        """The merged list. Raises QProxyError where no upstream has ever named one."""
        ...


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """One upstream as `/health` shows it; `state` is that of its credential (`CredentialSource.state`)."""

    name: str
    kind: str
    state: str


class HealthSource(Protocol):
    """How this server is."""

    def uptime_s(self) -> float:
        """Seconds since it began to listen."""
        ...

    def upstreams(self) -> Sequence[UpstreamHealth]:
        """The configured upstreams, the default one first."""
        ...

    def failing(self) -> Sequence[str]:
        """The upstreams that failed too often, until a request has got through again."""
        ...

    def obstacle(self) -> QProxyError | None:
        """Why new work should go elsewhere, such as `draining` or `no_upstream`; None: it is welcome."""
        ...


@dataclass(frozen=True, slots=True)
class OpenLogin:
    """A login that waits for its user, as `POST /auth/initiate` shows it. Times are in seconds."""

    handle: str
    verification_uri: str
    verification_uri_complete: str
    user_code: str
    expires_in: float
    interval: float


@dataclass(frozen=True, slots=True)
class LoginStanding:
    """How it stands. `state` is a value of `device_flow.LoginState`; `interval` is 0 at an end."""

    state: str
    interval: float


class DeviceLogins(Protocol):
    """Logins that are made through this server."""

    async def begin(self, account: str) -> OpenLogin:
        """Raises DownstreamError where too many are open, UpstreamError where the login's server begins none."""
        ...

    def standing(self, handle: str) -> LoginStanding: ...


@dataclass(frozen=True, slots=True)
class TokenReport:
    """One login without its secrets. `id` is masked; `source` is a kind of place and no path; times are UTC in
    ISO 8601, None where they are not known."""

    id: str
    source: str
    state: str
    expires_at: str | None
    last_refresh_at: str | None


@dataclass(frozen=True, slots=True)
class AuthTest:
    """One real call to the default upstream. `status` is None where no answer came; `hint` says what to do, if
    anything."""

    ok: bool
    status: int | None
    ms: float
    hint: str


class Diagnosis(Protocol):
    """How the credentials are."""

    def tokens(self) -> Sequence[TokenReport]: ...

    async def test(self) -> AuthTest: ...


@dataclass(frozen=True, slots=True)
class RatioReport:
    """What was learned of one model's tokens; 0.0 is not known. `tokens_per_count`: the upstream's for one of ours."""

    model: str
    bytes_per_token: float
    requests: int
    tokens_per_count: float
    counts: int


@dataclass(frozen=True, slots=True)
class LimitReport:
    """What an upstream said that a model takes, in tokens; None where it did not say."""

    upstream: str
    model: str
    window: int | None
    output: int | None


@dataclass(frozen=True, slots=True)
class CacheReport:
    """How much of the prompts an upstream's cache had, since the start. `account` is masked."""

    upstream: str
    account: str
    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    cached_share: float


class PromptReports(Protocol):
    """What is known of prompts."""

    def ratios(self) -> Sequence[RatioReport]: ...

    def limits(self) -> Sequence[LimitReport]: ...

    def cache(self) -> Sequence[CacheReport]: ...


class TokenCounting(Protocol):
    """What prompts cost."""

    async def count(
        self, body: bytes, shape: Shape, model: str | None = None, *, may_want_ids: bool = False
    ) -> Counted:
        """The tokens of a request's body; `model` None: the one that the body names. `may_want_ids`: with their ids
        where its `return_tokens` is true. Raises DownstreamError where it is not countable, InternalError where too
        many wait."""
        ...


@dataclass(frozen=True, slots=True)
class LocalServices:
    """What local endpoints may ask for. `window_of` gives a model's context window in tokens, None: unknown."""

    catalogue: Catalogue
    health: HealthSource
    device_logins: DeviceLogins
    diagnosis: Diagnosis
    prompts: PromptReports
    tokens: TokenCounting
    window_of: Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A routed and admitted request. `path`, `tail` and `query` are raw; `tail` belongs to prefix rows."""

    method: bytes
    path: bytes
    tail: bytes
    query: bytes
    services: LocalServices
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """A whole response.

    The connection adds the length and its own fields, and leaves the body out for HEAD.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def json_answer(payload: object, status: int = 200) -> LocalAnswer:
    """An answer with `payload` as JSON."""
    return LocalAnswer(status, (CONTENT_TYPE_JSON,), orjson.dumps(payload))


def options_answer(allow: bytes) -> LocalAnswer:
    """The answer to an OPTIONS request that is no CORS preflight (RFC 9110 9.3.7)."""
    return LocalAnswer(204, ((b"allow", allow),), b"")


def error_answer(error: QProxyError, request_id: bytes) -> LocalAnswer:
    """The answer to a request that failed before any byte of a response went down.

    Whether the connection closes after it is `error.kind.closes`.
    """
    return LocalAnswer(error.kind.status, _error_headers(error, request_id), _envelope(error))


def foreign_error_answer(status: int, request_id: bytes) -> LocalAnswer:
    """In place of an upstream's error that is not JSON, such as a gateway's web page; the status stays."""
    shape = {
        "message": f"The upstream answered {status} without a JSON body.",
        "type": "upstream_error",
        "param": None,
        "code": "upstream_error",
    }
    return LocalAnswer(status, (CONTENT_TYPE_JSON, (b"x-request-id", request_id)), orjson.dumps({"error": shape}))


def hidden_error_answer(status: int, payload: bytes, code: str, request_id: bytes) -> LocalAnswer:
    """In place of a 200 that is an error: what it says, as the error that it is. `payload` is the event or the body."""
    headers = (CONTENT_TYPE_JSON, (b"x-request-id", request_id))
    return LocalAnswer(status, headers, orjson.dumps({"error": _said_error(payload, code)}))


def error_in_stream(status: int, payload: bytes, request_id: bytes) -> LocalAnswer:
    """An upstream's error as one line of JSON, for the event that takes its place in a stream that has begun."""
    document = first_document(payload)
    if not document:
        return foreign_error_answer(status, request_id)
    code = document.get("code")
    said = {"error": _said_error(payload, code if isinstance(code, str) else "")}
    return LocalAnswer(status, (CONTENT_TYPE_JSON,), orjson.dumps(said))


def _said_error(payload: bytes, code: str) -> dict[str, object]:
    """OpenAI's error object; where the upstream sent one it is that, else one with its words."""
    document = first_document(payload)
    error = document.get("error")
    if isinstance(error, dict):
        return error
    words = document.get("message") or error or _finished_text(document)
    message = words if isinstance(words, str) and words else "The upstream answered with an error that has no words."
    return {"message": message, "type": "upstream_error", "param": None, "code": code or "upstream_error"}


def first_document(payload: bytes) -> dict[str, object]:
    """A body's, or that of the first event which has one."""
    for line in [payload, *payload.splitlines()]:
        text = line.removeprefix(b"data:").strip()
        if text.startswith(b"{"):
            try:
                document = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue
            return document if isinstance(document, dict) and can_be_written(document) else {}
    return {}


def _finished_text(document: dict[str, object]) -> object:
    """Of a chunk that ends with `error_finish`, the words of the error stand in the place of the model's."""
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") or choice.get("message") if isinstance(choice, dict) else None
    return delta.get("content") if isinstance(delta, dict) else None


def sse_error_event(error: QProxyError) -> bytes:
    """The last event of a stream that broke at an event boundary; no `[DONE]` may follow it."""
    return b"data: " + _envelope(error) + b"\n\n"


def _envelope(error: QProxyError) -> bytes:
    shape = {"message": error.message, "type": error.kind.type, "param": error.param, "code": error.code}
    return orjson.dumps({"error": shape})


def _error_headers(error: QProxyError, request_id: bytes) -> tuple[tuple[bytes, bytes], ...]:
    headers = [CONTENT_TYPE_JSON, (b"x-request-id", request_id)]
    if error.kind.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.kind.should_retry else b"false"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, error.retry_after_s)))
    if error.kind.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return (*headers, *error.headers)

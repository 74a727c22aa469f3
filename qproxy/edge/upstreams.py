"""All upstreams: their pools, their credentials, and the translation of what goes wrong there into our errors."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio.abc
import httpcore

from qproxy.core.account import Wish
from qproxy.core.exchange import Attempt
from qproxy.core.http1 import RequestHead
from qproxy.core.limits import Limits, Timeouts
from qproxy.core.models import Choice
from qproxy.core.outgoing import CHUNKED, IDENTITY, UpstreamFace, content_length
from qproxy.core.patience import Patience
from qproxy.core.token_ratio import TokenRatios
from qproxy.core.upstream import BaseUrl, Credential, Upstream
from qproxy.edge.connect import NameNotFound, NetworkBackend, NoDescriptors, TlsFailed, is_shortage
from qproxy.edge.http11 import KnownBody, LiveBody, UpstreamResponse
from qproxy.edge.pool import Pool
from qproxy.edge.runtime import Runtime
from qproxy.edge.streams import StreamTimeout
from qproxy.errors import AccountError, InternalError, QProxyError, UpstreamError

MODEL_LIST_BYTES = 4 * 1024 * 1024
MODEL_LIST_READ_S = 10.0
MAX_LINES = 1024  # tokens are replaced every few hours; what is in use comes back

OriginKey = tuple[str, str, int, str | None]


@dataclass(slots=True)
class Outgoing:
    """One request on its way up. `wants_identity`: a compressed answer would hide its events.
    `is_plain`: the answer is not known to be streamed, so that its first byte may be its last."""

    upstream: str
    model: str | None  # its name there; None: not known, or none
    path: bytes
    client: RequestHead
    body: KnownBody | LiveBody | None
    wants_identity: bool
    is_plain: bool
    body_bytes: int  # known or announced size; 0 where it is not known
    wish: Wish
    whole: Callable[[], Awaitable[KnownBody]] | None = None  # a live body as one that can be sent again
    kept: Sequence[bytes] = ()  # as much of a live body as has come
    again: Callable[[Choice], Awaitable[Outgoing]] | None = None  # the same request for another place
    is_pinned: bool = False  # the client named its upstream or its account

    @property
    def is_repeatable(self) -> bool:
        return self.whole is not None or not isinstance(self.body, LiveBody)

    def framing(self) -> bytes:
        """The finished lines of length and encoding."""
        lines = self._length()
        if self.wants_identity:
            return lines + IDENTITY
        accepted = self.client.accept_encoding
        return lines + (IDENTITY if accepted is None else b"Accept-Encoding: %b\r\n" % accepted)

    def _length(self) -> bytes:
        if self.body is None:
            return b"" if self.client.method in (b"GET", b"HEAD") else content_length(0)
        if isinstance(self.body, LiveBody):
            return CHUNKED if self.body.chunked else content_length(self.body_bytes)
        return content_length(self.body.size)


class Upstreams:
    """The configured upstreams of one server."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        runtime: Runtime,
        *,
        limits: Limits,
        timeouts: Timeouts,
        make_ssl_context: Callable[[], ssl.SSLContext],
        user_agent: str,
        ratios: TokenRatios,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._upstreams = upstreams
        self._runtime = runtime
        self._tasks = tasks
        self._limits = limits
        self._clocks = {
            "pool": timeouts.pool_wait_s,
            "connect": timeouts.connect_s,
            "tls": timeouts.tls_s,
            "write": timeouts.upload_s,
        }
        self._make_ssl_context = make_ssl_context
        self._ssl_context: ssl.SSLContext | None = None
        self._user_agent = user_agent.encode()
        self._network = NetworkBackend(runtime)
        self._patience = Patience(timeouts)
        self._ratios = ratios
        self._pools: dict[OriginKey, Pool] = {}
        self._lines: dict[tuple[str, Credential], tuple[UpstreamFace, Pool]] = {}

    async def send(self, outgoing: Outgoing, credential: Credential, attempt: Attempt) -> UpstreamResponse:
        """The response, its body still to be read; it must be closed. Raises QProxyError."""
        face, pool = self._line(outgoing.upstream, credential)
        client = outgoing.client
        first_byte_s = self._patience.first_byte_s(outgoing, outgoing.body_bytes)
        request = _request(client.method, pool.url, outgoing.body)
        request.extensions = {
            "head": face.head(client.method, outgoing.path, client.query, client, outgoing.framing()),
            "attempt": attempt,
            "timeout": {**self._clocks, "read": first_byte_s},
        }
        try:
            response = await pool.handle_async_request(request)
        except StreamTimeout as exc:
            tokens = self._ratios.tokens_in(outgoing.model, outgoing.body_bytes)
            raise _no_first_byte(outgoing, tokens, first_byte_s) from exc
        except _FAILURES as exc:
            raise _translated(exc) from exc
        if response.status == 200 and attempt.uploaded:
            self._patience.learn(outgoing, outgoing.body_bytes, self._runtime.now() - attempt.uploaded)
        return response

    async def list_models(self, upstream_name: str, credential: Credential) -> bytes:
        """The body of the upstream's `GET /models`. Raises QProxyError."""
        outgoing = Outgoing(
            upstream_name,
            None,
            b"/models",
            RequestHead(b"GET", b"/v1/models", b"", http_10=False),
            None,
            wants_identity=True,
            is_plain=True,
            body_bytes=0,
            wish=Wish(),
        )
        response = await self.send(outgoing, credential, Attempt(upstream_name))
        try:
            body = await self._read_bounded(response)
        except _FAILURES as exc:
            raise _translated(exc) from exc
        finally:
            response.close()
        if response.status != 200:
            raise UpstreamError("upstream_protocol_error", f"The upstream's model list answered {response.status}.")
        return body

    def warm_up(self) -> None:
        """Begin to open what is to be open ahead of the requests, where no credential has to say first where to."""
        for upstream in self._upstreams.values():
            if upstream.warm and upstream.base is not None:
                self._pool(upstream, upstream.base)

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def _read_bounded(self, response: UpstreamResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        response.allow_silence(MODEL_LIST_READ_S)
        async for part in response:
            size += len(part)
            if size > MODEL_LIST_BYTES:
                raise UpstreamError("upstream_protocol_error", "The upstream's model list is too long.")
            parts.append(part)
        return b"".join(parts)

    def _line(self, upstream_name: str, credential: Credential) -> tuple[UpstreamFace, Pool]:
        """How to address the upstream with this credential, and the connections to where that is valid."""
        line = self._lines.get((upstream_name, credential))
        if line is None:
            upstream = self._upstreams[upstream_name]
            base = _base_of(upstream, credential)
            line = UpstreamFace(upstream, credential, base, self._user_agent), self._pool(upstream, base)
            if len(self._lines) >= MAX_LINES:
                self._lines.clear()
            self._lines[upstream_name, credential] = line
        return line

    def _pool(self, upstream: Upstream, base: BaseUrl) -> Pool:
        key = (upstream.name, base.host, base.port, base.socket_path)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(
                base,
                self._runtime,
                self._network,
                ssl_context=self._tls() if base.scheme == "https" else None,
                max_connections=upstream.max_connections,
                keepalive_s=upstream.keepalive_s,
                limits=self._limits,
            )
            if upstream.warm:
                pool.keep_warm(upstream.warm, self._tasks, self._clocks)
        return pool

    def _tls(self) -> ssl.SSLContext:
        """Made when it is first needed: loading the certificates takes 30 ms and some megabytes."""
        if self._ssl_context is None:
            try:
                self._ssl_context = self._make_ssl_context()
            except OSError as exc:
                if is_shortage(exc):
                    raise _translated(NoDescriptors(str(exc))) from exc
                raise
        return self._ssl_context


def _base_of(upstream: Upstream, credential: Credential) -> BaseUrl:
    base = upstream.base or credential.base
    if base is None:
        raise AccountError("credentials_unavailable", "The login does not say where it is valid. Log in again.")
    return base


def _request(method: bytes, url: httpcore.URL, body: KnownBody | LiveBody | None) -> httpcore.Request:
    """A request without the conversions and copies of httpcore's own constructor."""
    request = httpcore.Request.__new__(httpcore.Request)
    request.method = method
    request.url = url
    request.headers = []
    request.stream = body if body is not None else KnownBody([b""])
    return request


def _no_first_byte(outgoing: Outgoing, prompt_tokens: int, waited_s: float) -> UpstreamError:
    """What happened, and what helps."""
    setting = "first_byte_plain_s" if outgoing.is_plain else "first_byte_stream_s"
    tokens = int(float(f"{prompt_tokens:.2g}"))
    length = f", of about {tokens:,} tokens," if tokens else ""
    advice = f"raise timeouts.{setting} or timeouts.first_byte_per_100k_tokens_s, or send less context"
    if outgoing.is_plain:
        advice += ', or ask for a stream ("stream": true), which begins sooner'
    return UpstreamError(
        "first_byte_timeout",
        f"The upstream took the request{length} and did not begin to answer within {waited_s:.3g} s. If it needs that "
        f"long, {advice}.",
    )


_FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


def _translated(exc: Exception) -> QProxyError:
    """httpcore's vocabulary in ours; the order goes from the special to the general."""
    for kind, make in _TRANSLATIONS:
        if isinstance(exc, kind):
            return make()
    return UpstreamError("upstream_closed", "The upstream closed the connection before it answered.")


_TRANSLATIONS = (
    (NameNotFound, lambda: UpstreamError(
        "upstream_dns_failed", "The upstream's host name cannot be resolved. Check its base URL and the DNS."
    )),
    (NoDescriptors, lambda: InternalError(
        "overloaded", "This server has no descriptor left for another connection. Try again shortly.", retry_after_s=1
    )),
    (TlsFailed, lambda: UpstreamError(
        "upstream_tls_failed", "No trusted TLS connection to the upstream. `qproxy check` says why."
    )),
    ((httpcore.ConnectError, httpcore.ConnectTimeout), lambda: UpstreamError(
        "upstream_connect_failed", "The upstream cannot be reached. Check its base URL, and that it runs."
    )),
    (httpcore.PoolTimeout, lambda: InternalError(
        "overloaded", "Every connection to the upstream is busy. Try again shortly.", retry_after_s=1
    )),
    (httpcore.WriteTimeout, lambda: UpstreamError(
        "upload_timeout", "The upstream stopped taking the request. Try again, or raise timeouts.upload_s."
    )),
    (StreamTimeout, lambda: UpstreamError(
        "first_byte_timeout", "The upstream fell silent before its answer was complete."
    )),
)  # fmt: skip

"""HTTP to the login's server: one form up, one short answer down.

Every POST has a connection of its own. A refresh token works once, so a request that a dying connection may have
carried half way cannot be repeated; and there are too few of them for reuse to matter.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode

import anyio
import httpcore

from qproxy.core.framing import FramingError, bare_walker
from qproxy.core.limits import Limits, Timeouts
from qproxy.core.oauth import is_loopback_host
from qproxy.core.splice import Buffer
from qproxy.core.token_answer import TokenReply
from qproxy.core.upstream import BaseUrl
from qproxy.edge.connect import NameNotFound, NetworkBackend, TlsFailed
from qproxy.edge.http11 import UpstreamResponse
from qproxy.edge.pool import Pool
from qproxy.edge.runtime import Runtime
from qproxy.errors import QProxyError, UpstreamError

ANSWER_S = 30.0  # a lost answer loses the login, so it is awaited longer than any caller waits (`decisions.md`)
MAX_ANSWER_BYTES = 64 * 1024
MAX_CONNECTIONS = 16
FORM = (
    (b"Content-Type", b"application/x-www-form-urlencoded"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)


class TokenEndpoint:
    """One URL of the login's server that takes forms: where tokens come from, or where a login begins.

    Raises ValueError for a URL that is neither https nor http to this machine. Redirects are not followed.
    """

    def __init__(
        self,
        url: str,
        runtime: Runtime,
        *,
        limits: Limits,
        timeouts: Timeouts,
        make_ssl_context: Callable[[], ssl.SSLContext],
        user_agent: str,
        answer_s: float = ANSWER_S,
    ) -> None:
        base = BaseUrl.parse(url)
        if base.socket_path is not None or (base.scheme != "https" and not is_loopback_host(base.host)):
            raise ValueError("the login's server must be reached by https, or by http on this machine")
        self._base = base
        self._runtime = runtime
        self._limits = limits
        self._timeouts = timeouts
        self._make_ssl_context = make_ssl_context
        self._user_agent = user_agent.encode()
        self._answer_s = answer_s
        self._pool: Pool | None = None

    async def post(self, form: Mapping[str, str]) -> TokenReply:
        """One POST, never repeated. Raises UpstreamError where no whole answer came."""
        try:
            with anyio.fail_after(self._answer_s):
                return await self._post(urlencode(form).encode())
        except TimeoutError as exc:
            message = f"The login server did not answer within {self._answer_s:g} s."
            raise UpstreamError("first_byte_timeout", message) from exc
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, FramingError) as exc:
            raise _translated(exc) from exc

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _post(self, body: bytes) -> TokenReply:
        base = self._base
        pool = self._pool = self._pool or self._new_pool()
        url = httpcore.URL(scheme=base.scheme, host=base.host, port=base.port, target=base.path or "/")
        headers = [
            (b"Host", base.authority.encode()),
            (b"User-Agent", self._user_agent),
            *FORM,
            (b"Content-Length", b"%d" % len(body)),
        ]
        clocks = {"pool": self._answer_s, "connect": self._timeouts.connect_s, "tls": self._timeouts.tls_s}
        request = httpcore.Request("POST", url, headers=headers, content=body, extensions={"timeout": clocks})
        response = await pool.handle_async_request(request)
        try:
            return TokenReply(response.status, _date_s(response.headers), await self._whole(response))
        finally:
            response.close()

    async def _whole(self, response: UpstreamResponse) -> bytes:
        answer = _Answer()
        head = response.head
        answer.put(response.open(bare_walker(head.content_length, chunked=head.chunked)))
        if not response.done:
            await response.relay(answer, idle_s=self._answer_s, tap=None, ending=None)
        return bytes(answer.body)

    def _new_pool(self) -> Pool:
        """Made when it is first needed, as the certificates take 30 ms to load."""
        return Pool(
            self._base,
            self._runtime,
            NetworkBackend(self._runtime),
            ssl_context=self._make_ssl_context() if self._base.scheme == "https" else None,
            max_connections=MAX_CONNECTIONS,
            keepalive_s=0.0,
            limits=self._limits,
        )


class _Answer:
    """The sink of an answer's body. Raises UpstreamError where it is longer than any honest one."""

    congested = False

    def __init__(self) -> None:
        self.body = bytearray()

    def put_all(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            self.put(piece)

    def put(self, piece: Buffer) -> None:
        self.body += piece
        if len(self.body) > MAX_ANSWER_BYTES:
            raise UpstreamError("upstream_protocol_error", "The answer of the login server is too long.")


def _date_s(headers: list[tuple[bytes, bytes]]) -> float | None:
    """The answer's Date as Unix time."""
    date = next((value for name, value in headers if name.lower() == b"date"), b"")
    try:
        return parsedate_to_datetime(date.decode("ascii")).timestamp()
    except (ValueError, OverflowError):
        return None


def _translated(exc: Exception) -> QProxyError:
    """The order goes from the special to the general."""
    if isinstance(exc, NameNotFound):
        return UpstreamError("upstream_dns_failed", "The name of the login server cannot be resolved.")
    if isinstance(exc, TlsFailed):
        return UpstreamError("upstream_tls_failed", "There is no trusted TLS connection to the login server.")
    if isinstance(exc, httpcore.ConnectError | httpcore.ConnectTimeout):
        return UpstreamError("upstream_connect_failed", "The login server cannot be reached.")
    return UpstreamError("upstream_closed", "The login server broke off before its answer was complete.")

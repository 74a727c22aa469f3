"""The composition root: the only module that knows every other.

From Settings it builds the upstreams with their credentials, the routes, the gate and the listener, and runs them until
it is told to stop.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import anyio
import anyio.abc
import httpcore

from qproxy import __version__
from qproxy.config import Settings
from qproxy.core.admit import Gate
from qproxy.core.known_heads import KnownHeads
from qproxy.core.local import LocalServices, UpstreamHealth
from qproxy.core.models import NO_UPSTREAM, ModelRouter
from qproxy.core.ports import CredentialSource
from qproxy.core.route import RouteTable
from qproxy.core.upstream import BaseUrl, Upstream
from qproxy.edge.connect import NetworkBackend
from qproxy.edge.connection import Connection
from qproxy.edge.credentials import OAuthFile, StaticKey
from qproxy.edge.listener import Listener, address_of, bind, closing_all
from qproxy.edge.log import AccessLog
from qproxy.edge.pool import Pool
from qproxy.edge.process import connections_carried, tune_process
from qproxy.edge.runtime import Runtime, current_runtime, run
from qproxy.edge.services import Services
from qproxy.edge.streams import ANSWER_HIGH_BYTES, open_stream
from qproxy.edge.upstreams import Upstreams
from qproxy.endpoints import ENDPOINTS
from qproxy.endpoints.catalogue import ModelCatalogue
from qproxy.errors import InternalError, QProxyError

__all__ = ["App", "Running", "direct_client", "run", "running", "serve"]

USER_AGENT = f"qproxy/{__version__}"


class Health:
    """How the server is, from what is configured and how the credentials are."""

    def __init__(
        self, upstreams: Sequence[Upstream], credentials: Mapping[str, CredentialSource], runtime: Runtime
    ) -> None:
        self._upstreams = upstreams
        self._credentials = credentials
        self._now = runtime.now
        self._started = runtime.now()

    def uptime_s(self) -> float:
        return self._now() - self._started

    def upstreams(self) -> Sequence[UpstreamHealth]:
        return [UpstreamHealth(each.name, each.kind, self._credentials[each.name].state()) for each in self._upstreams]

    def obstacle(self) -> QProxyError | None:
        return None if self._upstreams else InternalError("no_upstream", NO_UPSTREAM)


class App:
    """One proxy, put together but not yet listening."""

    def __init__(self, settings: Settings, runtime: Runtime) -> None:
        self.settings = settings
        self._runtime = runtime
        upstreams = {name: each.upstream for name, each in settings.upstreams.items()}
        self.credentials = credentials_of(settings)
        self.upstreams = Upstreams(
            upstreams,
            self.credentials,
            runtime,
            limits=settings.limits,
            timeouts=settings.timeouts,
            make_ssl_context=httpcore.default_ssl_context,
            user_agent=USER_AGENT,
        )
        ordered = _default_first(upstreams, settings.default_upstream)
        self.catalogue = ModelCatalogue(ordered, self.upstreams, clock=runtime.now)
        self.access_log = AccessLog(settings.access_log)
        self.services = Services(
            runtime=runtime,
            limits=settings.limits,
            timeouts=settings.timeouts,
            heads=KnownHeads(settings.limits),
            routes=RouteTable(ENDPOINTS),
            gate=Gate(
                [key.reveal().encode() for key in settings.api_keys], settings.allowed_hosts, settings.cors_origins
            ),
            models=ModelRouter(
                settings.models,
                tuple(upstreams),
                settings.default_upstream,
                settings.default_model,
                {name: upstream.default_model for name, upstream in upstreams.items()},
            ),
            upstreams=self.upstreams,
            local=LocalServices(self.catalogue, Health(ordered, self.credentials, runtime)),
            record=_ignore if settings.access_log == "off" else self.access_log.record,
            new_request_id=_request_ids(),
            include_usage=settings.include_usage,
        )

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one client to the end of its connection."""
        stream = await open_stream(self._runtime, sock, ANSWER_HIGH_BYTES)
        await Connection(stream, peer, self.services).serve()


class Running:
    """A proxy that listens. `url` has no path; `port` is 0 on a unix socket."""

    def __init__(self, app: App, sockets: Sequence[socket.socket]) -> None:
        self.app = app
        self.url = address_of(sockets[0])
        self.port = 0 if sockets[0].family == socket.AF_UNIX else int(sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A proxy on the loop that runs, until the block is left; then every connection is cut. Raises OSError where the
    address cannot be bound."""
    sockets = await bind(settings.host, settings.port)
    with closing_all(sockets):
        async with _background() as tasks:
            app = App(settings, current_runtime(tasks))
            listener = Listener(sockets, app.handle, max_connections(settings))
            tasks.start_soon(listener.serve)
            tasks.start_soon(app.access_log.run)
            try:
                yield Running(app, sockets)
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await app.upstreams.aclose()
                app.access_log.flush()


@contextlib.asynccontextmanager
async def _background() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Tasks that end with the block. What the block itself raises comes out bare, not wrapped in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. `announce` gets the URL once connections are accepted. Raises OSError."""
    tune_process()
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with running(settings) as proxy:
            announce(proxy.url)
            async for _ in signals:
                break


@contextlib.asynccontextmanager
async def direct_client(settings: Settings, base: BaseUrl) -> AsyncIterator[httpcore.AsyncConnectionPool]:
    """An HTTP client to one upstream, with the proxy's own connections: for checks and comparisons."""
    async with _background() as tasks:
        runtime = current_runtime(tasks)
        pool = Pool(
            base,
            runtime,
            NetworkBackend(runtime),
            ssl_context=httpcore.default_ssl_context() if base.scheme == "https" else None,
            max_connections=10,
            keepalive_s=5.0,
            limits=settings.limits,
        )
        try:
            yield pool
        finally:
            await pool.aclose()


def credentials_of(settings: Settings) -> dict[str, CredentialSource]:
    """A credential source for each upstream."""
    login = OAuthFile(settings.login_file, settings.oauth_allowed_hosts, time.time)
    sources: dict[str, CredentialSource] = {}
    for name, each in settings.upstreams.items():
        if each.upstream.base is None:
            sources[name] = login
        else:
            sources[name] = StaticKey(each.key.reveal() if each.key is not None else "")
    return sources


def max_connections(settings: Settings) -> int:
    """How many clients are let in: the setting, or what the descriptor limit carries."""
    return settings.limits.max_connections or connections_carried()


def _default_first(upstreams: Mapping[str, Upstream], default: str | None) -> tuple[Upstream, ...]:
    ordered = sorted(upstreams.values(), key=lambda upstream: upstream.name != default)
    return tuple(ordered)


def _request_ids() -> Callable[[], bytes]:
    """Ids that are unique across processes and cost an addition."""
    prefix = f"qp-{secrets.token_hex(6)}-".encode()
    counter = itertools.count(1)
    return lambda: b"%b%x" % (prefix, next(counter))


def _ignore(_: object) -> None:
    pass

"""The composition root: the only module that knows every other.

From Settings it builds the upstreams with their credentials, the routes, the gate and the listener, and runs them until
it is told to stop.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
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
from qproxy.core.account import AccountBook, AccountKind
from qproxy.core.admit import Gate
from qproxy.core.device_flow import OAuthClient
from qproxy.core.exchange import ExchangeRecord
from qproxy.core.known_heads import KnownHeads
from qproxy.core.local import LocalServices, UpstreamHealth
from qproxy.core.models import NO_UPSTREAM, ModelRouter
from qproxy.core.oauth import DEFAULT_ACCOUNT
from qproxy.core.rotation import POLICIES
from qproxy.core.route import RouteTable
from qproxy.core.upstream import BaseUrl, Upstream
from qproxy.edge.accounts import Accounts
from qproxy.edge.attempts import Attempts
from qproxy.edge.connect import NetworkBackend
from qproxy.edge.connection import Connection
from qproxy.edge.credentials import OAuthFile, StaticKey
from qproxy.edge.diagnosis import AccountDiagnosis
from qproxy.edge.ledger import Ledger
from qproxy.edge.listener import Listener, address_of, bind, closing_all
from qproxy.edge.log import AccessLog
from qproxy.edge.login import LoginServer
from qproxy.edge.login_desk import LoginDesk
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.login_store import CacheStore, FileStore, LoginStore, MemoryStore
from qproxy.edge.logins import Logins
from qproxy.edge.pool import Pool
from qproxy.edge.process import connections_carried, tune_process
from qproxy.edge.runtime import Runtime, current_runtime, run
from qproxy.edge.services import Services
from qproxy.edge.store import Store
from qproxy.edge.streams import ANSWER_HIGH_BYTES, open_stream
from qproxy.edge.token_endpoint import TokenEndpoint
from qproxy.edge.token_renewal import RenewalSettings
from qproxy.edge.tokens import KeeperSettings, TokenKeeper
from qproxy.edge.upstreams import Upstreams
from qproxy.endpoints import ENDPOINTS
from qproxy.endpoints.catalogue import ModelCatalogue
from qproxy.errors import InternalError, QProxyError
from qproxy.upstreams import PRESETS

log = logging.getLogger(__name__)

__all__ = ["App", "Running", "direct_client", "login_server", "run", "running", "serve"]

NO_KEY = "no-key"  # the account of an upstream that takes no key
USER_AGENT = f"qproxy/{__version__}"


class Health:
    """How the server is, from what is configured and how the accounts are."""

    def __init__(self, upstreams: Sequence[Upstream], accounts: Accounts, runtime: Runtime) -> None:
        self._upstreams = upstreams
        self._accounts = accounts
        self._now = runtime.now
        self._started = runtime.now()

    def uptime_s(self) -> float:
        return self._now() - self._started

    def upstreams(self) -> Sequence[UpstreamHealth]:
        return [UpstreamHealth(each.name, each.kind, self._accounts.state(each.name)) for each in self._upstreams]

    def obstacle(self) -> QProxyError | None:
        return None if self._upstreams else InternalError("no_upstream", NO_UPSTREAM)


class App:
    """One proxy, put together but not yet listening."""

    def __init__(self, settings: Settings, runtime: Runtime, tasks: anyio.abc.TaskGroup) -> None:
        self.settings = settings
        self._runtime = runtime
        self._tasks = tasks
        upstreams = {name: each.upstream for name, each in settings.upstreams.items()}
        policy = POLICIES[settings.rotation]
        book = AccountBook(
            lambda _: policy(), default_account=settings.default_account, day_starts_s=settings.day_offset_s
        )
        self.accounts = Accounts(book, time.time)
        self.login_server = login_server_of(settings, runtime)
        self.logins = self._logins(settings)
        self.upstreams = Upstreams(
            upstreams,
            runtime,
            limits=settings.limits,
            timeouts=settings.timeouts,
            make_ssl_context=httpcore.default_ssl_context,
            user_agent=USER_AGENT,
        )
        ordered = _default_first(upstreams, settings.default_upstream)
        attempts = Attempts(self.accounts, self.upstreams, time.time)
        self.catalogue = ModelCatalogue(ordered, attempts, clock=runtime.now)
        self.access_log = AccessLog(settings.access_log)
        self.store = Store(settings.state_dir) if settings.state_dir is not None else None
        self.ledger = Ledger(self.store, self.accounts, time.time, settings.day_offset_s) if self.store else None
        self.services = Services(
            runtime=runtime,
            limits=settings.limits,
            timeouts=settings.timeouts,
            heads=KnownHeads(settings.limits),
            routes=RouteTable(ENDPOINTS),
            gate=Gate(
                [key.reveal().encode() for key in settings.api_keys],
                settings.allowed_hosts,
                settings.cors_origins,
                settings.admin_key.reveal().encode() if settings.admin_key is not None else None,
            ),
            models=ModelRouter(
                settings.models,
                tuple(upstreams),
                settings.default_upstream,
                settings.default_model,
                {name: upstream.default_model for name, upstream in upstreams.items()},
            ),
            accounts=self.accounts,
            attempts=attempts,
            local=LocalServices(
                self.catalogue,
                Health(ordered, self.accounts, runtime),
                self._login_desk(settings),
                self._diagnosis(settings),
            ),
            record=self._recorder(),
            new_request_id=_request_ids(),
            include_usage=settings.include_usage,
        )

    def _recorder(self) -> Callable[[ExchangeRecord], None]:
        """Tells whoever wants to know of a settled exchange."""
        listeners = [] if self.settings.access_log == "off" else [self.access_log.record]
        if self.ledger is not None:
            listeners.append(self.ledger.record)

        def record(settled: ExchangeRecord) -> None:
            for listener in listeners:
                listener(settled)

        return record

    def _login_desk(self, settings: Settings) -> LoginDesk:
        login = settings.login
        files = LoginFiles(login.home, login.creds_file)
        return LoginDesk(self.login_server, files.save, self._tasks, allowed_hosts=login.allowed_hosts)

    def _diagnosis(self, settings: Settings) -> AccountDiagnosis:
        """Its call goes to the default upstream."""
        name = settings.default_upstream
        model, hint = settings.default_model, ""
        if name is not None:
            upstream = settings.upstreams[name].upstream
            model = model or upstream.default_model
            hint = PRESETS[name].hint if name in PRESETS else ""
        return AccountDiagnosis(
            self.logins.keepers, self.accounts, self.upstreams, upstream=name, model=model, hint=hint
        )

    def _logins(self, settings: Settings) -> Logins:
        login = settings.login
        files = LoginFiles(login.home, login.creds_file)
        keeper_settings = KeeperSettings(
            RenewalSettings(self.login_server.client, login.allowed_hosts), refresh_buffer_ms=login.refresh_buffer_ms
        )

        def make_keeper(account: str) -> TokenKeeper:
            store = login_store(settings, files, account)
            tokens = self.login_server.tokens
            return TokenKeeper(account, store, tokens, self._tasks, keeper_settings, report=log.warning)

        upstreams = [name for name, each in settings.upstreams.items() if each.upstream.base is None]
        is_given = login.creds is not None
        return Logins(upstreams, files, self.accounts, make_keeper, self._tasks, is_given=is_given)

    async def start(self) -> None:
        """Find the accounts, and begin what runs beside the requests."""
        for name, each in self.settings.upstreams.items():
            for account, key in each.key_accounts().items():
                self.accounts.add(name, account, AccountKind.API_KEY, StaticKey(key.reveal()))
            if each.upstream.base is not None and not each.keys:
                self.accounts.add(name, NO_KEY, AccountKind.API_KEY, StaticKey(""))
        if any(each.upstream.base is None for each in self.settings.upstreams.values()):
            await self.logins.look()
            self._tasks.start_soon(self.logins.run)
        if self.ledger is not None:
            self.ledger.restore()
        self._tasks.start_soon(self.access_log.run)

    @contextlib.asynccontextmanager
    async def keeping_state(self) -> AsyncIterator[None]:
        """Counts and the accounts' health outlive the process, where there is a folder for them."""
        if self.store is None or self.ledger is None:
            yield
            return
        async with self.store:
            self._tasks.start_soon(self.ledger.run)
            try:
                yield
            finally:
                self.ledger.save()

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
            app = App(settings, current_runtime(tasks), tasks)
            listener = Listener(sockets, app.handle, max_connections(settings))
            async with app.keeping_state():
                await app.start()
                tasks.start_soon(listener.serve)
                try:
                    yield Running(app, sockets)
                finally:
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await app.upstreams.aclose()
                        await app.login_server.aclose()
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


@contextlib.asynccontextmanager
async def login_server(settings: Settings) -> AsyncIterator[LoginServer]:
    """The login's server, for one login outside of a running proxy."""
    async with _background() as tasks:
        server = login_server_of(settings, current_runtime(tasks))
        try:
            yield server
        finally:
            await server.aclose()


def login_server_of(settings: Settings, runtime: Runtime) -> LoginServer:
    """Where this proxy logs in."""
    login = settings.login

    def endpoint(url: str) -> TokenEndpoint:
        return TokenEndpoint(
            url,
            runtime,
            limits=settings.limits,
            timeouts=settings.timeouts,
            make_ssl_context=httpcore.default_ssl_context,
            user_agent=USER_AGENT,
        )

    client = OAuthClient(login.client_id, login.scope, login.client_secret.reveal())
    return LoginServer(client, endpoint(login.device_code_endpoint), endpoint(login.token_endpoint), runtime.now)


def login_store(settings: Settings, files: LoginFiles, account: str) -> LoginStore:
    """Where the account's login is kept."""
    login = settings.login
    if account != DEFAULT_ACCOUNT or login.creds is None:
        return FileStore(files.path(account))
    data = login.creds.reveal().encode()
    return MemoryStore(data) if login.cache is None else CacheStore(login.cache, data)


def credentials_of(settings: Settings) -> dict[str, OAuthFile | StaticKey]:
    """The first credential of each upstream, for commands that look at them or use them once."""
    login = OAuthFile(settings.login_file, settings.login.allowed_hosts, time.time)
    return {
        name: login if each.upstream.base is None else StaticKey(each.key.reveal() if each.key is not None else "")
        for name, each in settings.upstreams.items()
    }


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

"""Puts a proxy together from its settings: upstreams and their accounts, routes, gate, local services."""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping

import anyio
import anyio.abc

from qproxy.app.clients import USER_AGENT, login_server_of, new_ssl_context
from qproxy.app.health import Health
from qproxy.app.logins import login_store
from qproxy.app.prompts import Prompts
from qproxy.config import Settings, UpstreamSettings
from qproxy.core.account import AccountBook, AccountKind
from qproxy.core.admit import Gate
from qproxy.core.breaker import Breaker, NeverOpen
from qproxy.core.exchange import ExchangeRecord
from qproxy.core.fallback import Fallbacks
from qproxy.core.known_heads import KnownHeads
from qproxy.core.local import LocalServices
from qproxy.core.models import ModelRouter
from qproxy.core.replay import ReplayBudget
from qproxy.core.rotation import POLICIES
from qproxy.core.route import RouteTable
from qproxy.core.token_ratio import TokenRatios
from qproxy.core.upstream import Upstream
from qproxy.core.windows import WindowTable
from qproxy.edge.accounts import Accounts
from qproxy.edge.activity import Activity
from qproxy.edge.admission import admission_for
from qproxy.edge.afterwards import Afterwards
from qproxy.edge.attempts import Attempts
from qproxy.edge.connection import Connection
from qproxy.edge.credentials import StaticKey
from qproxy.edge.diagnosis import AccountDiagnosis
from qproxy.edge.drain import Drain
from qproxy.edge.failover import Failover
from qproxy.edge.learned_counts import LearnedCounts
from qproxy.edge.ledger import Ledger
from qproxy.edge.log import AccessLog
from qproxy.edge.login_desk import LoginDesk
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.logins import Logins
from qproxy.edge.memory import MemoryGuard, tightest_group
from qproxy.edge.prompt_watch import PromptWatch
from qproxy.edge.runtime import Runtime
from qproxy.edge.services import Services
from qproxy.edge.store import Store
from qproxy.edge.streams import ANSWER_HIGH_BYTES, open_stream
from qproxy.edge.token_counter import TokenCounter
from qproxy.edge.token_renewal import RenewalSettings
from qproxy.edge.tokens import KeeperSettings, TokenKeeper
from qproxy.edge.upstreams import Upstreams
from qproxy.edge.windows import LimitAnswers, WindowCheck
from qproxy.endpoints import ENDPOINTS
from qproxy.endpoints.catalogue import ModelCatalogue
from qproxy.upstreams import PRESETS

log = logging.getLogger(__name__)

NO_KEY = "no-key"  # the account of an upstream that takes no key


class App:
    """One proxy, put together but not yet listening."""

    def __init__(self, settings: Settings, runtime: Runtime, tasks: anyio.abc.TaskGroup) -> None:
        self.settings = settings
        self._runtime = runtime
        self._tasks = tasks
        upstreams = {name: each.upstream for name, each in settings.upstreams.items()}
        policy = POLICIES[settings.rotation]
        book = AccountBook(
            lambda _: policy(),
            default_account=settings.default_account,
            day_starts_s=settings.day_offset_s,
            places={name: each.max_per_account for name, each in upstreams.items() if each.max_per_account},
        )
        self.accounts = Accounts(book, time.time)
        self.ratios = TokenRatios()
        self.windows = WindowTable(settings.windows)
        self.token_counter = TokenCounter(runtime)
        self.afterwards = Afterwards(
            self.ratios,
            PromptWatch() if settings.cache_watch else None,
            self.token_counter if settings.count_tokens else None,
            now=runtime.now,
        )
        self.activity = Activity()
        self.drain = Drain()
        self.login_server = login_server_of(settings, runtime)
        self.logins = self._logins(settings)
        self.upstreams = Upstreams(
            upstreams,
            runtime,
            limits=settings.limits,
            timeouts=settings.timeouts,
            make_ssl_context=new_ssl_context,
            user_agent=USER_AGENT,
            ratios=self.ratios,
            tasks=tasks,
        )
        ordered = _default_first(upstreams, settings.default_upstream)
        attempts = Attempts(
            self.accounts, self.upstreams, time.time, settings.timeouts.peek_s, retry_on_5xx=settings.retry_on_5xx
        )
        breakers = {name: Breaker() if settings.breaker else NeverOpen() for name in upstreams}
        self.failover = Failover(
            attempts, Fallbacks(settings.fallbacks), breakers, runtime, self._window_check(settings.window_check)
        )
        self.catalogue = ModelCatalogue(ordered, attempts, clock=runtime.now)
        self.access_log = AccessLog(settings.access_log)
        self.store = Store(settings.state_dir) if settings.state_dir is not None else None
        self.ledger = self._ledger(settings)
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
            admission=admission_for(
                settings.limits,
                settings.timeouts.queue_wait_s,
                {name: places for name, each in settings.upstreams.items() if (places := _places_at(each))},
                runtime,
            ),
            models=ModelRouter(
                settings.models,
                tuple(upstreams),
                settings.default_upstream,
                settings.default_model,
                {name: upstream.default_model for name, upstream in upstreams.items()},
            ),
            accounts=self.accounts,
            failover=self.failover,
            replays=ReplayBudget(settings.limits.replay_total_bytes),
            limit_answers=LimitAnswers(self.windows, self.ratios),
            output_caps=self.windows if settings.clamp_max_tokens else None,
            cache_marked=frozenset(name for name, upstream in upstreams.items() if upstream.cache_markers),
            afterwards=self.afterwards,
            local=LocalServices(
                self.catalogue,
                Health(ordered, self.accounts, self.failover, self.drain, runtime),
                self._login_desk(settings),
                self._diagnosis(settings),
                Prompts(self.ratios, self.windows, self.afterwards.shares),
                LearnedCounts(self.token_counter, self.ratios),
                self.windows.window_of,
            ),
            activity=self.activity,
            drain=self.drain,
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

    def _window_check(self, mode: str) -> WindowCheck | None:
        if mode == "off":
            return None
        return WindowCheck(self.windows, self.ratios, refuses=mode == "refuse")

    def _ledger(self, settings: Settings) -> Ledger | None:
        if self.store is None:
            return None
        return Ledger(self.store, self.accounts, self.ratios, time.time, settings.day_offset_s)

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
        self.upstreams.warm_up()
        if self.settings.count_tokens:
            self.token_counter.warm()
        self._tasks.start_soon(self.access_log.run)
        group = tightest_group()
        if group is not None:
            self._tasks.start_soon(MemoryGuard(group, self.drain).run)

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

    async def close(self) -> None:
        """To be called when no connection is left. A login that is still being renewed may be lost by this."""
        self.logins.abandon()
        self.afterwards.close()
        self.token_counter.close()
        await self.upstreams.aclose()
        await self.login_server.aclose()
        self.access_log.close()

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one client to the end of its connection."""
        stream = await open_stream(self._runtime, sock, ANSWER_HIGH_BYTES)
        connection = Connection(stream, peer, self.services)
        self.drain.add(connection)
        try:
            await connection.serve()
        finally:
            self.drain.remove(connection)


def _places_at(settings: UpstreamSettings) -> int:
    """How many requests may be under way to an upstream, of which its accounts may each have a part; 0: no limit. How
    many logins there are is not known here: where these are all busy, nobody waits."""
    upstream = settings.upstream
    accounts = 0 if upstream.base is None else max(1, len(settings.keys))
    return min(filter(None, (upstream.max_exchanges, upstream.max_per_account * accounts)), default=0)


def _default_first(upstreams: Mapping[str, Upstream], default: str | None) -> tuple[Upstream, ...]:
    ordered = sorted(upstreams.values(), key=lambda upstream: upstream.name != default)
    return tuple(ordered)


def _request_ids() -> Callable[[], bytes]:
    """Ids that are unique across processes and cost an addition."""
    prefix = f"qp-{secrets.token_hex(6)}-".encode()
    counter = itertools.count(1)
    return lambda: b"%b%x" % (prefix, next(counter))

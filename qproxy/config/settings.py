"""The settings of one proxy: read once, validated once, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from qproxy.config import options, prompt_options
from qproxy.config.fallback import places, read_fallbacks
from qproxy.config.keys import follow
from qproxy.config.login import LoginSettings, path_of, read_login
from qproxy.config.sources import Sources, read_sources, refusal, show
from qproxy.config.upstreams import read_upstreams
from qproxy.config.values import ConfigError, Secret
from qproxy.config.windows import read_windows
from qproxy.core.limits import Limits, Timeouts
from qproxy.core.oauth import is_loopback_host
from qproxy.upstreams import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.config.upstream_table import UpstreamSettings
    from qproxy.core.fallback import FallbackRule
    from qproxy.core.windows import WindowRule

DAY_S = 86_400
STREAM_NOTICE = "STREAM has no effect: each request's own `stream` decides whether its answer is streamed."


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is set. `qproxy serve --help` and the reference say what each means.

    `host` may be `unix:/path.sock`. `default_upstream` is None where nothing is configured. `models` are the rules of
    `[models]` in their order, `fallbacks` those of `[[fallback]]`. `access_log` is "off", "stderr" or an absolute path.
    `rotation` is one of `rotation.POLICIES`. Without a `state_dir` counts live in memory. `day_starts_at` is `HH:MM` or
    `HH:MM+HH:MM`. `breaker`: failing upstreams are left alone. `stall_ms` is 0 where the event loop is not watched.
    `window_check` is "off", "warn" or "refuse"; `windows` are the rules of `[windows]`.
    `notices` are lines for people at start-up.
    """

    host: str
    port: int
    default_upstream: str | None
    upstreams: Mapping[str, UpstreamSettings]
    api_keys: tuple[Secret, ...]
    allow_open: bool
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    backend: str
    default_model: str
    models: tuple[tuple[str, str], ...]
    fallbacks: tuple[FallbackRule, ...]
    include_usage: bool
    access_log: str
    admin_key: Secret | None
    rotation: str
    default_account: str
    pool_plan_keys: bool
    state_dir: Path | None
    day_starts_at: str
    retry_on_5xx: bool
    breaker: bool
    stall_ms: int
    window_check: str
    clamp_max_tokens: bool
    count_tokens: bool
    cache_watch: bool
    windows: tuple[WindowRule, ...]
    login: LoginSettings
    limits: Limits
    timeouts: Timeouts
    notices: tuple[str, ...]

    @property
    def unix_socket(self) -> str | None:
        """The path to listen on; None for TCP."""
        return self.host.removeprefix("unix:") if self.host.startswith("unix:") else None

    @property
    def login_file(self) -> Path:
        """The default account's credentials file, whether it exists or not."""
        return self.login.creds_file

    @property
    def day_offset_s(self) -> int:
        """How long after midnight UTC a day of the counts begins, in seconds, from 0 to 86,399."""
        begins = time.fromisoformat(self.day_starts_at)
        offset = begins.utcoffset()
        local_s = begins.hour * 3600 + begins.minute * 60
        return (local_s - (int(offset.total_seconds()) if offset else 0)) % DAY_S


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: Path,
    config_dir: Path,
    data_dir: Path | None = None,
) -> Settings:
    """The settings from every source: flags, environment, `.env` and file in `cwd`, file in `config_dir`, defaults.

    `flags` are by option name; None and () count as not given. `data_dir` is the default of `state_dir`. Raises
    ConfigError with one line for people.
    """
    sources = read_sources(flags, environ, cwd, config_dir)
    models = _models(sources)
    login = read_login(sources)
    upstreams, default_upstream = read_upstreams(sources, login, [*(target for _, target in models), *places(sources)])
    settings = Settings(
        host=sources.get(options.HOST),
        port=sources.get(options.PORT),
        default_upstream=default_upstream,
        upstreams=MappingProxyType(upstreams),
        api_keys=_api_keys(sources),
        allow_open=sources.get(options.ALLOW_OPEN),
        allowed_hosts=sources.get(options.ALLOWED_HOSTS),
        cors_origins=sources.get(options.CORS_ORIGINS),
        backend=sources.get(options.BACKEND),
        default_model=sources.get(options.DEFAULT_MODEL),
        models=models,
        fallbacks=read_fallbacks(sources, upstreams),
        include_usage=sources.get(options.INCLUDE_USAGE),
        access_log=_access_log(sources),
        admin_key=_admin_key(sources),
        rotation=sources.get(options.ROTATION),
        default_account=sources.get(options.DEFAULT_ACCOUNT),
        pool_plan_keys=sources.get(options.POOL_PLAN_KEYS),
        state_dir=path_of(sources, options.STATE_DIR) or data_dir,
        day_starts_at=sources.get(options.DAY_STARTS_AT),
        retry_on_5xx=sources.get(options.RETRY_ON_5XX),
        breaker=sources.get(options.BREAKER),
        stall_ms=sources.get(options.STALL_MS),
        window_check=sources.get(prompt_options.WINDOW_CHECK),
        clamp_max_tokens=sources.get(prompt_options.CLAMP_MAX_TOKENS),
        count_tokens=sources.get(prompt_options.COUNT_TOKENS),
        cache_watch=sources.get(prompt_options.CACHE_WATCH),
        windows=read_windows(sources, upstreams),
        login=login,
        limits=Limits(**{option.name: sources.get(option) for option in options.LIMITS}),
        timeouts=Timeouts(**{option.name: sources.get(option) for option in options.TIMEOUTS}),
        notices=_notices(sources, upstreams, login),
    )
    _refuse_open_bind(settings, sources)
    return settings


def _models(sources: Sources) -> tuple[tuple[str, str], ...]:
    where = f" in [models]{sources.in_file}"
    rules = []
    for pattern, target in sources.section("models").items():
        if not pattern.isprintable() or not pattern or "*" in pattern[:-1]:
            raise refusal(f"name{where}", show(pattern), "a model's name, or a prefix and one * at its end")
        if not isinstance(target, str) or not target or not target.isprintable() or "*" in target[:-1]:
            raise refusal(
                show(pattern) + where, show(target), "model, upstream:model, or one of them with one * at its end"
            )
        if target.endswith("*") and not pattern.endswith("*"):
            raise refusal(show(pattern) + where, show(target), "without *: the name on the left has none")
        rules.append((pattern, target))
    return tuple(rules)


def _api_keys(sources: Sources) -> tuple[Secret, ...]:
    given = sources.find(options.API_KEYS)
    if given is None:
        return ()
    return tuple(follow(key, given.label, given.folder, sources.variables()) for key in given.parse(options.API_KEYS))


def _admin_key(sources: Sources) -> Secret | None:
    given = sources.find(options.ADMIN_KEY)
    if given is None:
        return None
    return follow(given.parse(options.ADMIN_KEY), given.label, given.folder, sources.variables())


def _access_log(sources: Sources) -> str:
    value = sources.get(options.ACCESS_LOG)
    given = sources.find(options.ACCESS_LOG)
    return value if given is None or value in ("off", "stderr") else str(given.folder / value)


def _notices(sources: Sources, upstreams: Mapping[str, UpstreamSettings], login: LoginSettings) -> tuple[str, ...]:
    notices = [STREAM_NOTICE] if sources.variable("STREAM") else []
    notices += login.notices()
    for name, settings in upstreams.items():
        base, key = settings.upstream.base, settings.key.reveal() if settings.key else ""
        if base is not None:
            notices += [f"upstream {name}: {mistake}" for mistake in KINDS[settings.upstream.kind].mistakes(base, key)]
    return tuple(notices)


def _refuse_open_bind(settings: Settings, sources: Sources) -> None:
    if settings.api_keys or settings.allow_open or settings.unix_socket or is_loopback_host(settings.host):
        return
    given = sources.find(options.HOST)
    label = given.label if given is not None else options.HOST.name
    raise ConfigError(
        f"{label} = {settings.host!r}: must be a loopback address or a unix socket while no client key is set; "
        "set api_keys (--api-key), or allow_open (--allow-open) to serve everybody"
    )

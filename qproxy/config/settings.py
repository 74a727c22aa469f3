"""The settings of one proxy: read once, validated once, never changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from qproxy.config import options
from qproxy.config.keys import follow
from qproxy.config.sources import Sources, read_sources, refusal, show
from qproxy.config.upstreams import read_upstreams
from qproxy.config.values import ConfigError, Secret
from qproxy.core.limits import Limits, Timeouts
from qproxy.core.oauth import is_loopback_host
from qproxy.upstreams import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.config.upstream_table import UpstreamSettings

HOME_VARIABLE = "USERPROFILE" if os.name == "nt" else "HOME"
LOGIN_FILE = "oauth_creds.json"
STREAM_NOTICE = "STREAM has no effect: each request's own `stream` decides whether its answer is streamed."


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is set. `qproxy serve --help` and the reference say what each means.

    `host` may be `unix:/path.sock`. `default_upstream` is None where nothing is configured. `models` are the rules of
    `[models]` in their order. `access_log` is "off", "stderr" or an absolute path. `notices` are lines for people at
    start-up.
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
    include_usage: bool
    access_log: str
    qwen_home: Path
    oauth_base_url: str
    oauth_allowed_hosts: tuple[str, ...]
    limits: Limits
    timeouts: Timeouts
    notices: tuple[str, ...]

    @property
    def unix_socket(self) -> str | None:
        """The path to listen on; None for TCP."""
        return self.host.removeprefix("unix:") if self.host.startswith("unix:") else None

    @property
    def login_file(self) -> Path:
        """The CLI's credentials file, whether it exists or not."""
        return self.qwen_home / LOGIN_FILE


def load(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path, config_dir: Path) -> Settings:
    """The settings from every source: flags, environment, `.env` and file in `cwd`, file in `config_dir`, defaults.

    `flags` are by option name; None and () count as not given. Raises ConfigError with one line for people.
    """
    sources = read_sources(flags, environ, cwd, config_dir)
    models = _models(sources)
    qwen_home = _qwen_home(sources)
    upstreams, default_upstream = read_upstreams(sources, qwen_home / LOGIN_FILE, (target for _, target in models))
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
        include_usage=sources.get(options.INCLUDE_USAGE),
        access_log=_access_log(sources),
        qwen_home=qwen_home,
        oauth_base_url=sources.get(options.OAUTH_BASE_URL),
        oauth_allowed_hosts=sources.get(options.OAUTH_ALLOWED_HOSTS),
        limits=Limits(**{option.name: sources.get(option) for option in options.LIMITS}),
        timeouts=Timeouts(**{option.name: sources.get(option) for option in options.TIMEOUTS}),
        notices=_notices(sources, upstreams),
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


def _access_log(sources: Sources) -> str:
    value = sources.get(options.ACCESS_LOG)
    given = sources.find(options.ACCESS_LOG)
    return value if given is None or value in ("off", "stderr") else str(given.folder / value)


def _qwen_home(sources: Sources) -> Path:
    given = sources.find(options.QWEN_HOME)
    home = Path(sources.environ.get(HOME_VARIABLE) or sources.cwd)
    if given is None:
        return home / ".qwen"
    value = given.parse(options.QWEN_HOME)
    return home / value[2:] if value.startswith("~/") else given.folder / value


def _notices(sources: Sources, upstreams: Mapping[str, UpstreamSettings]) -> tuple[str, ...]:
    notices = [STREAM_NOTICE] if sources.variable("STREAM") else []
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

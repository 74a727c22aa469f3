"""One `[upstreams.NAME]` table of the file, and the draft of an upstream that it makes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qproxy.config import values
from qproxy.config.keys import follow
from qproxy.config.option import Option
from qproxy.config.options import DAY_S
from qproxy.config.sources import Given, Sources, refusal, refuse_unknown, show, table_of
from qproxy.config.values import ConfigError, Secret, T
from qproxy.core.upstream import BaseUrl, Upstream
from qproxy.upstreams import PRESETS
from qproxy.upstreams.dashscope import PLAN_KEY_PREFIX
from qproxy.upstreams.openai import GENERIC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.upstreams.preset import Preset

CACHE_HEADER = b"X-DashScope-CacheControl"
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 5.6.2
OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What the proxy itself writes: framing, hop-by-hop, and the key, which has its own setting."""


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One configured upstream. It has no keys where it takes none, or has its credentials from files (`qwen_oauth`);
    several keys are several accounts."""

    upstream: Upstream
    keys: tuple[Secret, ...]

    @property
    def key(self) -> Secret | None:
        """The first of its keys."""
        return self.keys[0] if self.keys else None

    def key_accounts(self) -> dict[str, Secret]:
        """The keys by the ids of their accounts: `key` where there is one, `key-1`, `key-2` where there are more."""
        if len(self.keys) == 1:
            return {"key": self.keys[0]}
        return {f"key-{number}": key for number, key in enumerate(self.keys, 1)}


@dataclass(frozen=True, slots=True)
class Draft:
    """An upstream before it is known whether its key comes from elsewhere. `label` says where it is configured."""

    row: Preset
    label: str
    keys: tuple[Secret, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    max_connections: int = 8192
    warm: int = 0
    max_exchanges: int = 0
    max_per_account: int = 0
    cache_markers: bool = False

    def settings(self) -> UpstreamSettings:
        """The finished upstream. Raises ConfigError where its key is missing, or is one too many."""
        if self.row.key_required and not self.keys:
            raise ConfigError(f"{self.label} must come with a key: set {self.row.key_variable} or upstream_key")
        if self.row.kind == "qwen_oauth" and (self.keys or self.row.base_url):
            raise ConfigError(f"{self.label} must have neither key nor url: the login brings both")
        upstream = replace(
            self.row.upstream(),
            headers=self._all_headers(),
            max_connections=self.max_connections,
            warm=self.warm,
            max_exchanges=self.max_exchanges,
            max_per_account=self.max_per_account,
            cache_markers=self.cache_markers,
        )
        return UpstreamSettings(upstream, self.keys)

    def _all_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Markers count only where a header says so (`qwen-wire.md` 3.3)."""
        is_set = any(name.lower() == CACHE_HEADER.lower() for name, _ in self.headers)
        return self.headers if is_set or not self.cache_markers else (*self.headers, (CACHE_HEADER, b"enable"))

    def refuse_pooled_plan(self) -> None:
        """Raises ConfigError where several keys of a plan would take turns."""
        is_plan = self.row.kind == "plan" or any(key.reveal().startswith(PLAN_KEY_PREFIX) for key in self.keys)
        if is_plan and len(self.keys) > 1:
            raise ConfigError(
                f"{self.label} has {len(self.keys)} keys of a plan: the plans' terms forbid to pool them; leave one, "
                "or set pool_plan_keys = true (--pool-plan-keys) if yours allow it"
            )


def _base_url(value: str) -> str:
    return str(BaseUrl.parse(value))


def _preset_name(value: str) -> str:
    if value in PRESETS:
        return value
    raise ValueError


URL = Option("url", values.text("an http, https or http+unix URL", _base_url), "", "Base URL.")
PRESET = Option("preset", values.text(f"one of {', '.join(PRESETS)}", _preset_name), "", "Preset to start from.")
KEY = Option("key", values.secret(), Secret(""), "Key: the key itself, env:NAME or file:PATH.")
KEYS: Option[tuple[Secret, ...]] = Option("keys", values.secrets(), (), "Further keys, each an account.")
FORWARD_USER_AGENT = Option("forward_user_agent", values.switch(), False, "Send the client's User-Agent on.")
KEEPALIVE_S = Option("keepalive_s", values.seconds(DAY_S), GENERIC.keepalive_s, "How long a connection may lie idle.")
MAX_CONNECTIONS = Option("max_connections", values.whole_number(1, 1_000_000), 8192, "Most connections.")
WARM = Option("warm", values.whole_number(0, 100), 0, "Connections that are open ahead of the requests.")
MAX_EXCHANGES = Option("max_exchanges", values.whole_number(0, 1_000_000), 0, "Most requests under way at once.")
MAX_PER_ACCOUNT = Option("max_per_account", values.whole_number(0, 1_000_000), 0, "Most of them with each account.")
CACHE_MARKERS = Option("cache_markers", values.switch(), False, "Mark what the upstream's prompt cache should keep.")
DEFAULT_MODEL = Option("default_model", values.text("a model's name", values.model_name), "", "Default model.")
HEADERS = "headers"
TABLE_OPTIONS = (
    URL, PRESET, KEY, KEYS, FORWARD_USER_AGENT, KEEPALIVE_S, MAX_CONNECTIONS, WARM, MAX_EXCHANGES, MAX_PER_ACCOUNT,
    CACHE_MARKERS, DEFAULT_MODEL,
)  # fmt: skip


def read_table(sources: Sources, name: str, table: Mapping[str, object]) -> Draft:
    """The upstream of `[upstreams.<name>]`. A table that bears a preset's name starts from that preset.

    Raises ConfigError.
    """
    label = f"[upstreams.{name}]{sources.in_file}"
    refuse_unknown(table, (*(option.name for option in TABLE_OPTIONS), HEADERS), f" in {label}")

    def given(option: Option[T]) -> Given | None:
        if option.name not in table:
            return None
        return Given(table[option.name], f"{option.name} in {label}", sources.table_path.parent, is_text=False)

    def get(option: Option[T], default: T) -> T:
        found = given(option)
        return default if found is None else found.parse(option)

    preset = PRESETS.get(get(PRESET, name), GENERIC)
    row = replace(
        preset,
        name=name,
        base_url=get(URL, preset.base_url),
        forward_user_agent=get(FORWARD_USER_AGENT, preset.forward_user_agent),
        keepalive_s=get(KEEPALIVE_S, preset.keepalive_s),
        default_model=get(DEFAULT_MODEL, preset.default_model),
    )
    if preset is GENERIC and not row.base_url:
        raise ConfigError(f"{label} must have url or preset")
    return Draft(
        row,
        label,
        tuple(dict.fromkeys((*read_key(sources, given(KEY)), *_read_keys(sources, given(KEYS)))))
        or preset_key(sources, preset),
        _headers(table.get(HEADERS, {}), f"headers in {label}"),
        get(MAX_CONNECTIONS, MAX_CONNECTIONS.default),
        get(WARM, WARM.default),
        get(MAX_EXCHANGES, MAX_EXCHANGES.default),
        get(MAX_PER_ACCOUNT, MAX_PER_ACCOUNT.default),
        get(CACHE_MARKERS, CACHE_MARKERS.default),
    )


def read_key(sources: Sources, given: Given | None) -> tuple[Secret, ...]:
    """The key that was given, its reference followed; none where none was. Raises ConfigError."""
    if given is None:
        return ()
    return (follow(given.parse(KEY), given.label, given.folder, sources.variables()),)


def preset_key(sources: Sources, preset: Preset) -> tuple[Secret, ...]:
    """The key in the variable that the preset's users know; none where it is not set. Raises ConfigError."""
    value = sources.variable(preset.key_variable) if preset.key_variable else ""
    if not value:
        return ()
    return (follow(Secret(value), preset.key_variable, sources.cwd, sources.variables()),)


def _read_keys(sources: Sources, given: Given | None) -> tuple[Secret, ...]:
    if given is None:
        return ()
    return tuple(follow(key, given.label, given.folder, sources.variables()) for key in given.parse(KEYS))


def _headers(value: object, label: str) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(_header(name, text, label) for name, text in table_of(value, label).items())


def _header(name: str, value: object, label: str) -> tuple[bytes, bytes]:
    if not HEADER_NAME.fullmatch(name):
        raise refusal(label, show(name), "header names")
    if name.lower() in OWN_HEADERS:
        raise ConfigError(f"{label} must not set {name}: the proxy sends its own")
    if not isinstance(value, str) or not value.isprintable() or value != value.strip():
        raise refusal(f"{name} in {label}", "(hidden)", "text without control characters and outer spaces")
    return name.encode(), value.encode()

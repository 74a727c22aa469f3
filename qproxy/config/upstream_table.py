"""One `[upstreams.NAME]` table of the file, and the draft of an upstream that it makes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qproxy.config import values
from qproxy.config.keys import follow
from qproxy.config.options import DAY_S, Option
from qproxy.config.sources import Given, Sources, refusal, refuse_unknown, show, table_of
from qproxy.config.values import ConfigError, Secret, T
from qproxy.core.upstream import BaseUrl, Upstream
from qproxy.upstreams import PRESETS
from qproxy.upstreams.openai import GENERIC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.upstreams.preset import Preset

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
    """One configured upstream. `key` is None where it takes none, or has its credential from a file (`qwen_oauth`)."""

    upstream: Upstream
    key: Secret | None


@dataclass(frozen=True, slots=True)
class Draft:
    """An upstream before it is known whether its key comes from elsewhere. `label` says where it is configured."""

    row: Preset
    label: str
    key: Secret | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    max_connections: int = 8192

    def settings(self) -> UpstreamSettings:
        """The finished upstream. Raises ConfigError where its key is missing, or is one too many."""
        if self.row.key_required and self.key is None:
            raise ConfigError(f"{self.label} must come with a key: set {self.row.key_variable} or upstream_key")
        if self.row.kind == "qwen_oauth" and (self.key is not None or self.row.base_url):
            raise ConfigError(f"{self.label} must have neither key nor url: the login brings both")
        upstream = replace(self.row.upstream(), headers=self.headers, max_connections=self.max_connections)
        return UpstreamSettings(upstream, self.key)


def _base_url(value: str) -> str:
    return str(BaseUrl.parse(value))


def _preset_name(value: str) -> str:
    if value in PRESETS:
        return value
    raise ValueError


URL = Option("url", values.text("an http, https or http+unix URL", _base_url), "", "Base URL.")
PRESET = Option("preset", values.text(f"one of {', '.join(PRESETS)}", _preset_name), "", "Preset to start from.")
KEY = Option("key", values.secret(), Secret(""), "Key: the key itself, env:NAME or file:PATH.")
FORWARD_USER_AGENT = Option("forward_user_agent", values.switch(), False, "Send the client's User-Agent on.")
KEEPALIVE_S = Option("keepalive_s", values.seconds(DAY_S), GENERIC.keepalive_s, "How long a connection may lie idle.")
MAX_CONNECTIONS = Option("max_connections", values.whole_number(1, 1_000_000), 8192, "Most connections.")
DEFAULT_MODEL = Option("default_model", values.text("a model's name", values.model_name), "", "Default model.")
HEADERS = "headers"
TABLE_OPTIONS = (URL, PRESET, KEY, FORWARD_USER_AGENT, KEEPALIVE_S, MAX_CONNECTIONS, DEFAULT_MODEL)


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
        read_key(sources, given(KEY)) or preset_key(sources, preset),
        _headers(table.get(HEADERS, {}), f"headers in {label}"),
        get(MAX_CONNECTIONS, MAX_CONNECTIONS.default),
    )


def read_key(sources: Sources, given: Given | None) -> Secret | None:
    """The key that was given, its reference followed. Raises ConfigError."""
    if given is None:
        return None
    return follow(given.parse(KEY), given.label, given.folder, sources.variables())


def preset_key(sources: Sources, preset: Preset) -> Secret | None:
    """The key in the variable that the preset's users know."""
    value = sources.variable(preset.key_variable) if preset.key_variable else ""
    if not value:
        return None
    return follow(Secret(value), preset.key_variable, sources.cwd, sources.variables())


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

"""The upstreams of one configuration: `[upstreams.NAME]` tables, the default one, and presets that `[models]` names."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from qproxy.config.options import POOL_PLAN_KEYS, UPSTREAM, UPSTREAM_KEY
from qproxy.config.sources import Sources, refusal, show, table_of
from qproxy.config.upstream_table import Draft, UpstreamSettings, preset_key, read_key, read_table
from qproxy.config.values import ConfigError
from qproxy.core.upstream import BaseUrl
from qproxy.upstreams import PRESETS
from qproxy.upstreams.openai import GENERIC

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qproxy.config.login import LoginSettings

URL_UPSTREAM = "default"
"""The name of an upstream that is given by its URL alone."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_upstreams(
    sources: Sources, login: LoginSettings, model_targets: Iterable[str]
) -> tuple[dict[str, UpstreamSettings], str | None]:
    """Every configured upstream by name, and the name of the default one (None: there is none). Raises ConfigError."""
    drafts = _tables(sources)
    default = _default(sources, drafts, login)
    if default is not None:
        drafts[default.row.name] = default
    for name in (target.partition(":")[0] for target in model_targets if ":" in target):
        if name in PRESETS and name not in drafts:
            drafts[name] = _preset(sources, name, f"{name} in [models]")
    if not sources.get(POOL_PLAN_KEYS):
        for draft in drafts.values():
            draft.refuse_pooled_plan()
    return {name: draft.settings() for name, draft in drafts.items()}, default.row.name if default else None


def _tables(sources: Sources) -> dict[str, Draft]:
    drafts = {}
    for name, table in sources.section("upstreams").items():
        if not NAME.fullmatch(name) or name == URL_UPSTREAM:
            allowed = f"letters, digits, '-', '_' and '.', and not {URL_UPSTREAM!r}"
            raise refusal(f"NAME of [upstreams.NAME]{sources.in_file}", show(name), allowed)
        drafts[name] = read_table(sources, name, table_of(table, f"upstreams.{name}{sources.in_file}"))
    return drafts


def _default(sources: Sources, tables: dict[str, Draft], login: LoginSettings) -> Draft | None:
    given = sources.find(UPSTREAM)
    key = read_key(sources, sources.find(UPSTREAM_KEY))
    if given is None:
        if key:
            raise ConfigError("upstream_key = (hidden): must come with upstream, which says whose key it is")
        return _discovered(sources, tables, login)
    name = given.parse(UPSTREAM)
    label = f"{given.label} = {show(name)}"
    if name in tables:
        draft = tables[name]
    elif name in PRESETS:
        draft = _preset(sources, name, label)
    elif "://" in name:
        draft = Draft(replace(GENERIC, name=URL_UPSTREAM, base_url=_usable_url(name, label)), label)
    else:
        raise refusal(given.label, show(name), f"{', '.join((*tables, *PRESETS))} or a URL")
    return replace(draft, keys=key) if key else draft


def _discovered(sources: Sources, tables: dict[str, Draft], login: LoginSettings) -> Draft | None:
    """The default upstream where none is named: the first table, the first preset with a key, the CLI's login."""
    if tables:
        return next(iter(tables.values()))
    for preset in PRESETS.values():
        if preset.key_variable and sources.variable(preset.key_variable):
            return _preset(sources, preset.name, preset.key_variable)
    if login.exists():
        return _preset(sources, "qwen-oauth", "qwen-oauth")
    return None


def _preset(sources: Sources, name: str, label: str) -> Draft:
    return Draft(PRESETS[name], label, preset_key(sources, PRESETS[name]))


def _usable_url(url: str, label: str) -> str:
    try:
        return str(BaseUrl.parse(url))
    except ValueError as exc:
        raise ConfigError(f"{label}: {exc}") from exc

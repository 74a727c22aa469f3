"""`qproxy auth status` and `qproxy auth counts`: how the accounts are, and what they did today."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table
from rich.text import Text

from qproxy.cli.auth_files import (
    fail,
    file_settings,
    json_flag,
    known_accounts,
    login_files,
    print_json,
    token_state,
    utc_or_none,
)
from qproxy.cli.console import print_line, print_note, print_rich, printable
from qproxy.cli.options import load_settings, some_settings
from qproxy.cli.when import span, utc
from qproxy.config.options import CONFIG, DAY_STARTS_AT, STATE_DIR
from qproxy.core.causes import Cause
from qproxy.core.cooldown import WHOLE_ACCOUNT
from qproxy.core.health import Standing
from qproxy.core.oauth import DEFAULT_ACCOUNT
from qproxy.edge.state_file import StateUnusable, read_account_states, read_counts
from qproxy.edge.store import day_of, seconds_to_reset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qproxy.config import Settings
    from qproxy.core.counts import CountRow
    from qproxy.core.health import StateRow

NO_UPSTREAM = "qwen-oauth"
"""The upstream that a login would belong to, where none is configured for it."""


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One account as it is shown. `expires_at` is UTC; None: it does not expire, or nobody knows when."""

    account: str
    upstream: str
    source: str
    credential: str
    expires_at: str | None
    state: str


@click.command()
@file_settings
@some_settings(STATE_DIR)
@json_flag
def status(as_json: bool, **flags: object) -> int:
    """Show every account, logins and keys: its credential, when that expires, and how a server found it lately."""
    settings = load_settings(flags)
    try:
        states = read_account_states(settings.state_dir) if settings.state_dir is not None else []
    except StateUnusable as exc:
        print_note(f"qproxy: what a server knows of the accounts cannot be read: {exc}")
        states = []
    lines = list(_lines(settings, states))
    if as_json:
        print_json({"accounts": [asdict(line) for line in lines]})
    elif not lines:
        print_line("There is no account: neither a login nor a key.")
    else:
        table = Table("account", "upstream", "source", "credential", "expires", "state", box=box.SIMPLE_HEAD)
        for line in lines:
            cells = (line.account, line.upstream, line.source, line.credential, line.expires_at or "", line.state)
            table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
        print_rich(table)
    return 0


@click.command()
@some_settings(CONFIG, STATE_DIR, DAY_STARTS_AT)
@json_flag
def counts(as_json: bool, **flags: object) -> int:
    """Show the requests and tokens of today, by account and model, and when they begin anew."""
    settings = load_settings(flags)
    now_s, offset_s = time.time(), settings.day_offset_s
    day, left_s = day_of(now_s, offset_s), seconds_to_reset(now_s, offset_s)
    try:
        rows = read_counts(settings.state_dir, day) if settings.state_dir is not None else []
    except StateUnusable as exc:
        return fail(f"The counts cannot be read: {exc}.")
    if as_json:
        found = [row._asdict() for row in rows]
        print_json({"day": day, "resets_at": utc(now_s + left_s), "resets_in_s": int(left_s), "counts": found})
    elif not rows:
        print_line(f"No requests today. The day ends in {span(left_s)}.")
    else:
        print_rich(_table(rows))
        print_line(f"Of {day}. They begin anew in {span(left_s)}, at {utc(now_s + left_s)}.")
    return 0


def _table(rows: Sequence[CountRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("upstream", "account", "model"):
        table.add_column(name, overflow="fold")
    for name in ("requests", "errors", "prompt", "cached", "completion", "total"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = (row.requests, row.errors, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
        names = (row.upstream, row.account, row.model)
        table.add_row(
            *(Text(printable(name)) for name in names), *(f"{number:,}" for number in (*numbers, row.total_tokens))
        )
    return table


def _lines(settings: Settings, states: Sequence[StateRow]) -> Iterator[AccountLine]:
    upstreams = [name for name, each in settings.upstreams.items() if each.upstream.kind == "qwen_oauth"]
    for upstream in upstreams or [NO_UPSTREAM]:
        yield from _logins(settings, upstream, states)
    for upstream, each in settings.upstreams.items():
        for account in each.key_accounts():
            yield AccountLine(account, upstream, "settings", "key", None, _state(states, upstream, account))


def _logins(settings: Settings, upstream: str, states: Sequence[StateRow]) -> Iterator[AccountLine]:
    files = login_files(settings)
    accounts = known_accounts(files)
    if settings.login.creds is not None:
        state = _state(states, upstream, DEFAULT_ACCOUNT)
        yield AccountLine(DEFAULT_ACCOUNT, upstream, "oauth_creds", "given by a setting", None, state)
        accounts = [account for account in accounts if account != DEFAULT_ACCOUNT]
    for account in accounts:
        path = files.path(account)
        credential, expires_s = token_state(path, settings.login.allowed_hosts)
        state = _state(states, upstream, account)
        yield AccountLine(account, upstream, str(path), credential, utc_or_none(expires_s), state)


def _state(states: Sequence[StateRow], upstream: str, account: str) -> str:
    """What the last server to use the account wrote down; `ready` where it had nothing against it."""
    own = [row for row in states if (row.upstream, row.account_id) == (upstream, account)]
    phrases = [phrase for row in own if (phrase := _phrase(row))]
    return "; ".join(phrases) or "ready"


def _phrase(row: StateRow) -> str:
    """Empty for what is over."""
    if row.standing != Standing.COOLING.name:
        standing = Standing.__members__.get(row.standing)
        return f"{standing.value if standing else row.standing}: {row.message}".removesuffix(": ")
    left_s = row.since_s + row.length_s - time.time()
    if left_s <= 0:
        return ""
    cause = Cause.__members__.get(row.cause, Cause.UNKNOWN).value
    scope = "" if row.model == WHOLE_ACCOUNT else f" for {row.model}"
    return f"cooling down {span(left_s)}{scope}: {cause}"

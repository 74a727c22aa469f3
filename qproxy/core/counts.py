"""Requests and tokens per day, upstream, account and model: one row of them, and the sum of many.

A model's name is the client's to invent, so a tally bounds how many it knows and how long they are.
"""

from __future__ import annotations

from typing import NamedTuple

from qproxy.core.usage import Usage

MAX_NAMES = 2_000  # combinations a day; what comes beyond them is counted together
MAX_NAME_CHARS = 128
OTHER_MODELS = "(other)"


class CountKey(NamedTuple):
    """What is counted apart. `day` is "2026-11-21"; account and model are "" where an exchange never had one."""

    day: str
    upstream: str
    account: str
    model: str


class CountRow(NamedTuple):
    """Sums for one key. Cached tokens are part of the prompt's; without usage only requests and errors are counted."""

    day: str
    upstream: str
    account: str
    model: str
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0

    @property
    def key(self) -> CountKey:
        return CountKey(self.day, self.upstream, self.account, self.model)

    def plus(self, other: CountRow) -> CountRow:
        """Both together, under the key of this one."""
        return CountRow(
            self.day,
            self.upstream,
            self.account,
            self.model,
            self.requests + other.requests,
            self.errors + other.errors,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            self.cached_tokens + other.cached_tokens,
        )


def one_request(key: CountKey, usage: Usage | None, *, errors: int = 0) -> CountRow:
    """One settled exchange. `errors` is 1 where it did not end as it should."""
    if usage is None:
        return CountRow(*key, 1, errors)
    return CountRow(
        *key, 1, errors, usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens
    )


class Tally:
    """Rows added up by key until somebody takes them."""

    def __init__(self) -> None:
        self._rows: dict[CountKey, CountRow] = {}
        self._day = ""
        self._known_today: set[CountKey] = set()

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, row: CountRow) -> None:
        key = row.key
        known = self._rows.get(key)
        if known is None:
            row = self._admitted(row)
            key = row.key
            known = self._rows.get(key)
        self._rows[key] = row if known is None else known.plus(row)

    def take(self) -> list[CountRow]:
        """All rows; the tally is empty afterwards."""
        rows = list(self._rows.values())
        self._rows.clear()
        return rows

    def _admitted(self, row: CountRow) -> CountRow:
        """The row under its own name, or under a common one where there are too many names already."""
        if row.day != self._day:
            self._day = row.day
            self._known_today.clear()
        row = row._replace(model=row.model[:MAX_NAME_CHARS])
        if row.key not in self._known_today:
            if max(len(self._known_today), len(self._rows)) >= MAX_NAMES:
                return row._replace(model=OTHER_MODELS)
            self._known_today.add(row.key)
        return row

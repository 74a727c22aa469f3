"""What is kept of settled exchanges and of the accounts' health, from the places where it arises to the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from qproxy.core.counts import CountRow
from qproxy.core.exchange import ExchangeRecord
from qproxy.core.token_ratio import TokenRatios
from qproxy.edge.accounts import Accounts
from qproxy.edge.store import Store, day_of

SAVE_S = 0.5


@dataclass(slots=True)
class _Sums:
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0


class Ledger:
    """Counts every exchange that went to an upstream, and saves the counts, the accounts' health and the token ratios.

    `wall_clock` gives Unix time in seconds; a day begins `day_offset_s` seconds after midnight UTC.
    """

    def __init__(
        self,
        store: Store,
        accounts: Accounts,
        ratios: TokenRatios,
        wall_clock: Callable[[], float],
        day_offset_s: int,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._ratios = ratios
        self._wall_clock = wall_clock
        self._day_offset_s = day_offset_s
        self._sums: dict[tuple[str, str, str], _Sums] = {}
        self._saved_revision = -1

    def record(self, record: ExchangeRecord) -> None:
        """On the way of every request: the sums become rows later, all at once."""
        if not record.attempts:
            return
        key = (record.upstream, record.account, record.model)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = _Sums()
        sums.requests += 1
        if record.error or record.status >= 400:
            sums.errors += 1
        usage = record.usage
        if usage is not None:
            sums.prompt_tokens += usage.prompt_tokens
            sums.completion_tokens += usage.completion_tokens
            sums.total_tokens += usage.total_tokens
            sums.cached_tokens += usage.cached_tokens

    def restore(self) -> None:
        """Take over what was known before a restart; to be called when the accounts have been added."""
        self._accounts.restore(self._store.load_account_state())
        self._ratios.restore(self._store.load_ratios())

    def save(self) -> None:
        """Hand what has come together to the store."""
        sums, self._sums = self._sums, {}
        day = day_of(self._wall_clock(), self._day_offset_s)
        for key, each in sums.items():
            self._store.note(
                CountRow(
                    day,
                    *key,
                    each.requests,
                    each.errors,
                    each.prompt_tokens,
                    each.completion_tokens,
                    each.total_tokens,
                    each.cached_tokens,
                )
            )
        changes = self._accounts.changes(self._saved_revision)
        if changes is not None:
            self._saved_revision, rows = changes
            self._store.save_account_state(rows)
        learned = self._ratios.take_changes()
        if learned:
            self._store.save_ratios(learned)

    async def run(self) -> None:
        """Save a few times a second; never returns."""
        while True:
            await anyio.sleep(SAVE_S)
            self.save()

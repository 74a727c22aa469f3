"""The accounts of every upstream with their credentials: leases from the book, tokens from their keepers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from qproxy.core.account import AccountBook, AccountKind, AccountView, Lease, StateRow, Wish
from qproxy.core.classify import Outcome
from qproxy.core.health import TROUBLES
from qproxy.core.oauth import TOKEN_REFUSED
from qproxy.core.ports import CredentialSource
from qproxy.core.upstream import Credential
from qproxy.edge.credentials import KEY_REFUSED
from qproxy.errors import AccountError

TROUBLE = "no_healthy_account"  # the code with which a source says that waiting does not help


class Cuttable(Protocol):
    def cut(self) -> None:
        """End now, as if the upstream had broken off."""
        ...


@dataclass(frozen=True, slots=True)
class _Account:
    kind: AccountKind
    source: CredentialSource


class Accounts:
    """Who may be used for what, and with which credential. `wall_clock` gives Unix time in seconds."""

    def __init__(self, book: AccountBook, wall_clock: Callable[[], float]) -> None:
        self._book = book
        self._wall_clock = wall_clock
        self._groups: dict[str, dict[str, _Account]] = {}
        self._under_way: dict[tuple[str, str], set[Cuttable]] = {}
        self._cut: dict[tuple[str, str], int] = {}  # the newest lease when the account's answers were broken off

    # --- who there is

    def add(self, upstream: str, account_id: str, kind: AccountKind, source: CredentialSource) -> None:
        self._groups.setdefault(upstream, {})[account_id] = _Account(kind, source)
        self._book.add(upstream, account_id, kind)

    def remove(self, upstream: str, account_id: str) -> None:
        """No new requests go there; those under way go on."""
        self._groups.get(upstream, {}).pop(account_id, None)
        self._book.retire(upstream, account_id)

    def ids(self, upstream: str) -> tuple[str, ...]:
        return tuple(self._groups.get(upstream, ()))

    def state(self, upstream: str) -> str:
        """How the upstream's credential is, or how many accounts there are; for people, without names."""
        sources = [account.source for account in self._groups.get(upstream, {}).values()]
        return sources[0].state() if len(sources) == 1 else f"{len(sources)} accounts"

    def views(self) -> list[AccountView]:
        return self._book.views(self._wall_clock())

    def rotate(self, upstream: str) -> bool:
        """Whether there is a choice of accounts."""
        return len(self._groups.get(upstream, ())) > 1

    def read_conversation(self, upstream: str) -> bool:
        """Whether it matters which conversation a request belongs to."""
        return self._book.reads_conversation(upstream)

    def judge(self, upstream: str) -> bool:
        """Whether an error of the upstream can lead to anything but its client. A lone key's answers just pass."""
        accounts = self._groups.get(upstream, {})
        return len(accounts) > 1 or any(account.kind is AccountKind.OAUTH for account in accounts.values())

    def tend(self) -> None:
        """Take accounts in trouble back when their credential has been replaced. To be called about once a second."""
        for view in self.views():
            if view.standing in TROUBLES:
                account = self._groups.get(view.upstream, {}).get(view.account_id)
                if account is not None and account.source.since_s() > view.since_s:
                    self._book.recover(view.upstream, view.account_id)

    def restore(self, rows: Iterable[StateRow]) -> None:
        """As `AccountBook.restore`."""
        self._book.restore(rows, self._wall_clock())

    def changes(self, seen_revision: int) -> tuple[int, list[StateRow]] | None:
        """The revision of the accounts' health and all of its rows; None where it is the one that was seen."""
        revision = self._book.revision
        return None if revision == seen_revision else (revision, self._book.state_of(self._wall_clock()))

    # --- using them

    def lease(self, upstream: str, wish: Wish) -> Lease:
        """As `AccountBook.lease`."""
        return self._book.lease(upstream, wish, self._wall_clock())

    def at_hand(self, lease: Lease) -> Credential | None:
        """The account's credential, where that needs no waiting."""
        try:
            return self._of(lease).source.current()
        except AccountError:
            return None

    async def credential(self, lease: Lease) -> Credential:
        """The account's credential, renewed where that is needed. Raises AccountError, and notes a dead login."""
        source = self._of(lease).source
        try:
            return await source.fresh()
        except AccountError as exc:
            self._note_trouble(lease, source, exc)
            raise

    async def renewed(self, lease: Lease, refused: Credential) -> Credential:
        """Another credential than the one that the API refused. Raises AccountError, and closes the account where no
        other can be had."""
        source = self._of(lease).source
        try:
            return await source.refused(refused)
        except AccountError as exc:
            self._note_trouble(lease, source, exc)
            raise

    def note(self, lease: Lease, outcome: Outcome) -> None:
        """As `AccountBook.note`."""
        self._book.note(lease, outcome, self._wall_clock())

    def close(self, lease: Lease) -> None:
        """A fresh token, or a key, was refused all the same."""
        message = TOKEN_REFUSED if lease.kind is AccountKind.OAUTH else KEY_REFUSED
        self._book.close_account(lease.upstream, lease.account_id, message, self._wall_clock())

    def answers_of(self, lease: Lease) -> set[Cuttable]:
        """Where an answer of the account is to be while it is passed on, so that `cut` reaches it. Raises AccountError
        where that came too early."""
        key = lease.upstream, lease.account_id
        if lease.turn <= self._cut.get(key, 0):
            raise removed()
        return self._under_way.setdefault(key, set())

    def cut(self, upstream: str, account_id: str) -> None:
        """Break off every answer that the account gives, those that have not begun as well."""
        self._cut[upstream, account_id] = self._book.turns(upstream)
        for answer in tuple(self._under_way.get((upstream, account_id), ())):
            answer.cut()

    def _of(self, lease: Lease) -> _Account:
        account = self._groups.get(lease.upstream, {}).get(lease.account_id)
        if account is None:
            raise removed()
        return account

    def _note_trouble(self, lease: Lease, source: CredentialSource, error: AccountError) -> None:
        if error.code != TROUBLE:
            return
        fall = self._book.login_needed if source.needs_login() else self._book.close_account
        fall(lease.upstream, lease.account_id, error.message, self._wall_clock())


def removed() -> AccountError:
    """Somebody logged it out while it was used."""
    return AccountError("credentials_unavailable", "The account was removed just now.", retry_after_s=1)

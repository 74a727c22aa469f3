"""The book of accounts: who may be used now, for what, and by how many requests at once.

An account is a credential of one upstream, known by (upstream, id). The book is the only writer of its health, its
cool-downs, its requests in flight and its count of leases; everybody else tells the book what happened:

    lease = book.lease(upstream, wish, now_s)
    try:
        ...
        book.note(lease, outcome, now_s)
    finally:
        lease.give_back()

An upstream with one account has nowhere to rotate to: its own answers are what the client should see. So a lone account
is leased while it cools down, and a lone API key even when it is closed. A lone login in trouble is refused: it has no
token that the upstream could answer to. With two accounts and more, every standing but READY keeps an account out.

Times are Unix seconds, as in `cooldown`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from qproxy.core.classify import Outcome
from qproxy.core.cooldown import WHOLE_ACCOUNT
from qproxy.core.health import AccountKind, AccountView, CoolingView, Health, Standing, StateRow
from qproxy.core.refusal import Unusable, all_busy, refusal
from qproxy.core.rotation import DEFAULT_POLICY, POLICIES
from qproxy.core.rotation.policy import Policy, Wish
from qproxy.errors import DownstreamError

__all__ = [
    "WHOLE_ACCOUNT", "AccountBook", "AccountKind", "AccountView", "CoolingView", "Lease", "Standing", "StateRow",
    "Wish",
]  # fmt: skip


_UNLIMITED = 1 << 62


@dataclass(slots=True, eq=False)
class _Account:
    """The book's record of one account; a `rotation.policy.Candidate`."""

    group: _Group
    id: str
    health: Health
    in_flight: int = 0
    leases: int = 0
    last_turn: int = 0
    retired: bool = False


@dataclass(slots=True, eq=False)
class _Group:
    """The accounts of one upstream. `active` can be leased, the default one first; `known` has the retired ones too.

    `lone` is the only active account, where it can be used whatever its cool-downs. Each account may have `places`
    requests under way. `turns` counts leases.
    """

    upstream: str
    default_account: str
    policy: Policy
    places: int
    known: dict[str, _Account] = field(default_factory=dict)
    active: Sequence[_Account] = ()
    lone: _Account | None = None
    turns: int = 0

    def arrange(self) -> None:
        """To be called whenever an account comes, retires, falls into trouble or recovers."""
        active = [account for account in self.known.values() if not account.retired]
        self.active = sorted(active, key=lambda account: account.id != self.default_account)
        only = active[0] if len(active) == 1 else None
        self.lone = None if only is None or only.health.is_refused_alone else only

    def choose(self, wish: Wish, now_s: float) -> _Account:
        """The account for a wish that is not simply the lone one's. Raises as `AccountBook.lease`."""
        asked = self.active if wish.account is None else [self._named(wish.account)]
        usable = [account for account in asked if self._is_usable(account, wish, now_s)]
        if not usable:
            raise refusal([_unusable(account, wish.model, now_s) for account in asked])
        free = [account for account in usable if account.in_flight < self.places or not wish.needs_place]
        if not free:
            raise all_busy()
        if len(asked) == 1:
            return free[0]
        return self.policy.choose(free, wish)

    def _named(self, account_id: str) -> _Account:
        account = self.known.get(account_id)
        if account is None or account.retired:
            raise DownstreamError(
                "unknown_account", "X-Qwen-Account names no account of this upstream. See `qproxy auth list`."
            )
        return account

    def _is_usable(self, account: _Account, wish: Wish, now_s: float) -> bool:
        if account.id in wish.tried:
            return False
        return account is self.lone or account.health.standing(wish.model, now_s) is Standing.READY


def _unusable(account: _Account, model: str, now_s: float) -> Unusable:
    health = account.health
    return Unusable(health.kind, health.standing(model, now_s), health.cool_downs.remaining_s(model, now_s))


class Lease:
    """The use of one account by one attempt, returned exactly once: by `give_back`, or as a context manager.

    `model` is the wish's; `turn` is the number of this lease at its upstream.
    """

    __slots__ = ("_account", "_is_back", "model", "turn")

    def __init__(self, account: _Account, model: str, turn: int) -> None:
        self._account = account
        self._is_back = False
        self.model = model
        self.turn = turn

    @property
    def upstream(self) -> str:
        return self._account.group.upstream

    @property
    def account_id(self) -> str:
        return self._account.id

    @property
    def kind(self) -> AccountKind:
        return self._account.health.kind

    def give_back(self) -> None:
        """Raises RuntimeError the second time: the account would seem idle while another request uses it."""
        if self._is_back:
            raise RuntimeError("this lease has been returned already")
        self._is_back = True
        account = self._account
        account.in_flight -= 1
        if account.retired and account.in_flight == 0:
            del account.group.known[account.id]

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()


def _default_policy(_: str) -> Policy:
    return POLICIES[DEFAULT_POLICY]()


class AccountBook:
    """The accounts of all upstreams of one server.

    `make_policy` is called once for the name of each upstream. `default_account` comes first where the order counts.
    `places` has the upstreams whose accounts may each have so many requests under way, and no others. `day_starts_s` is
    when daily allowances are renewed, in seconds behind UTC midnight. `revision` grows whenever `state_of` changes by
    more than the passing of time, so that a store need not compare.
    """

    def __init__(
        self,
        make_policy: Callable[[str], Policy] = _default_policy,
        *,
        default_account: str = "default",
        day_starts_s: float = 0.0,
        places: Mapping[str, int] | None = None,
    ) -> None:
        self._make_policy = make_policy
        self._places = places or {}
        self._default_account = default_account
        self._day_starts_s = day_starts_s
        self._groups: dict[str, _Group] = {}
        self.revision = 0

    def add(self, upstream: str, account_id: str, kind: AccountKind) -> None:
        """A new account is ready; a retired one that is still in use comes back as it was; others stay as they are."""
        group = self._groups.get(upstream)
        if group is None:
            places = self._places.get(upstream, _UNLIMITED)
            group = _Group(upstream, self._default_account, self._make_policy(upstream), places)
            self._groups[upstream] = group
        account = group.known.get(account_id)
        if account is None:
            account = group.known[account_id] = _Account(group, account_id, Health(kind, self._day_starts_s))
        account.retired = False
        self._changed(account)

    def retire(self, upstream: str, account_id: str) -> None:
        """No new leases; gone when its last one is back. One that is not there is gone already."""
        account = self._find(upstream, account_id)
        if account is None:
            return
        account.retired = True
        if account.in_flight == 0:
            del account.group.known[account_id]
        self._changed(account)

    def reads_conversation(self, upstream: str) -> bool:
        """Whether a wish for this upstream needs its conversation: a lone account takes all of them."""
        group = self._groups.get(upstream)
        return group is not None and len(group.active) > 1 and group.policy.reads_conversation

    def lease(self, upstream: str, wish: Wish, now_s: float) -> Lease:
        """An account for one attempt; it must be given back.

        Raises AccountError: `all_accounts_limited`, with the wait until the first one is free again, or
        `no_healthy_account`, where waiting does not help. Raises InternalError `overloaded` where those that could be
        used have as many requests as they may have. Raises DownstreamError `unknown_account`.
        """
        group = self._groups.get(upstream)
        if group is None:
            raise refusal(())
        account = group.lone
        if account is None or wish.tried or wish.account is not None or account.in_flight >= group.places:
            account = group.choose(wish, now_s)
        group.turns = account.last_turn = turn = group.turns + 1
        account.in_flight += 1
        account.leases += 1
        return Lease(account, wish.model, turn)

    def turns(self, upstream: str) -> int:
        """The number of the newest lease there; 0 before the first one."""
        group = self._groups.get(upstream)
        return 0 if group is None else group.turns

    def note(self, lease: Lease, outcome: Outcome, now_s: float) -> None:
        """What became of an attempt; an outcome that says nothing about the account changes nothing."""
        account = lease._account  # noqa: SLF001
        if account.health.note(outcome, lease.model, now_s, turn=lease.turn, last_turn=account.group.turns):
            self._changed(account)

    def login_needed(self, upstream: str, account_id: str, message: str, now_s: float) -> None:
        """The login cannot be renewed. `message` says how to mend it; it is shown in the account's view alone."""
        self._fall(upstream, account_id, Standing.LOGIN_NEEDED, message, now_s)

    def close_account(self, upstream: str, account_id: str, message: str, now_s: float) -> None:
        """A fresh token, or the key, was refused all the same."""
        self._fall(upstream, account_id, Standing.CLOSED, message, now_s)

    def recover(self, upstream: str, account_id: str) -> None:
        """There is another credential: an account in trouble is ready again, its cool-downs are forgotten.

        Nothing changes for one without trouble: a token that was merely renewed has the allowance that it had.
        """
        account = self._find(upstream, account_id)
        if account is not None and account.health.recover():
            self._changed(account)

    def views(self, now_s: float) -> list[AccountView]:
        """All accounts by upstream: the default one first, then in the order of their coming, retired ones last."""
        return [
            _view(account, now_s)
            for group in self._groups.values()
            for account in [*group.active, *(each for each in group.known.values() if each.retired)]
        ]

    def policy_counts(self, upstream: str) -> Mapping[str, int]:
        """How often the upstream's policy decided for which reason; `rotation.sticky.Reason` names those of sticky."""
        group = self._groups.get(upstream)
        return {} if group is None else group.policy.counts()

    def state_of(self, now_s: float) -> list[StateRow]:
        """What `restore` needs after a restart."""
        return [
            row
            for group in self._groups.values()
            for account in group.active
            for row in account.health.rows(group.upstream, account.id, now_s)
        ]

    def restore(self, rows: Iterable[StateRow], now_s: float) -> None:
        """To be called when the accounts have been added. Rows of other accounts, rows that this version does not know,
        and cool-downs that are over are left out."""
        for row in rows:
            account = self._find(row.upstream, row.account_id)
            if account is not None:
                account.health.restore(row, now_s)
                self._changed(account)

    def _fall(self, upstream: str, account_id: str, trouble: Standing, message: str, now_s: float) -> None:
        account = self._find(upstream, account_id)
        if account is None:
            return  # it retired while its token was being renewed
        account.health.fall(trouble, message, now_s, account.group.turns)
        self._changed(account)

    def _find(self, upstream: str, account_id: str) -> _Account | None:
        group = self._groups.get(upstream)
        return None if group is None else group.known.get(account_id)

    def _changed(self, account: _Account) -> None:
        account.group.arrange()
        self.revision += 1


def _view(account: _Account, now_s: float) -> AccountView:
    health = account.health
    return AccountView(
        upstream=account.group.upstream,
        account_id=account.id,
        kind=health.kind,
        standing=health.standing(WHOLE_ACCOUNT, now_s),
        since_s=health.since_s,
        message=health.message,
        cooling=health.cooling(now_s),
        in_flight=account.in_flight,
        leases=account.leases,
        retired=account.retired,
    )

"""A book in use: whatever happens, in flight is what is open, and leases are of usable accounts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from qproxy.core.account import WHOLE_ACCOUNT, AccountBook, AccountKind, AccountView, Lease, Standing, Wish
from qproxy.core.classify import GOOD, Outcome
from qproxy.core.rotation import POLICIES
from qproxy.errors import AccountError, DownstreamError
from tests.support.account_books import AUTH, BAD_REQUEST, BILLING, DAILY, NOON_S, OVERLOADED, QUOTA, RATE, UP, fall

IDS = ["a", "b", "c", "d"]
MODELS = ["qwen", "coder"]
OUTCOMES = [GOOD, RATE, BILLING, OVERLOADED, BAD_REQUEST, AUTH, DAILY, QUOTA]


class BookInUse(RuleBasedStateMachine):
    """Accounts come, go, fall and recover while leases are open; beside the book, the simplest account of it."""

    leases = Bundle("leases")

    @initialize(policy=st.sampled_from(sorted(POLICIES)), ids=st.sets(st.sampled_from(IDS), min_size=1))
    def start(self, policy: str, ids: set[str]) -> None:
        self.book = AccountBook(lambda _: POLICIES[policy]())
        self.now_s = NOON_S
        self.open: list[Lease] = []
        self.active = set(ids)
        for account_id in sorted(ids):
            self.book.add(UP, account_id, AccountKind.OAUTH)

    @rule(
        target=leases,
        model=st.sampled_from(MODELS),
        account=st.none() | st.sampled_from(IDS),
        tried=st.sets(st.sampled_from(IDS)),
    )
    def lease(self, model: str, account: str | None, tried: set[str]) -> object:
        before = {each.account_id: each for each in self.book.views(self.now_s)}
        asked = self.active if account is None else {account}
        usable = {each for each in asked - tried if each in self.active and self.is_usable(before[each], model)}
        try:
            lease = self.book.lease(UP, Wish(model, account=account, tried=tried), self.now_s)
        except DownstreamError:
            assert account not in self.active
            return multiple()
        except AccountError:
            assert usable == set()
            return multiple()
        assert lease.account_id in usable
        self.open.append(lease)
        return lease

    def is_usable(self, account: AccountView, model: str) -> bool:
        if account.standing in (Standing.LOGIN_NEEDED, Standing.CLOSED):
            return False
        return len(self.active) == 1 or not {each.model for each in account.cooling} & {model, WHOLE_ACCOUNT}

    @rule(lease=leases, outcome=st.sampled_from(OUTCOMES))
    def note(self, lease: Lease, outcome: Outcome) -> None:
        """Also after the lease is back, and when its account is gone."""
        self.book.note(lease, outcome, self.now_s)

    @rule(lease=consumes(leases))
    def give_back(self, lease: Lease) -> None:
        lease.give_back()
        self.open.remove(lease)

    @rule(account_id=st.sampled_from(IDS))
    def add(self, account_id: str) -> None:
        self.book.add(UP, account_id, AccountKind.OAUTH)
        self.active.add(account_id)

    @rule(account_id=st.sampled_from(IDS))
    def retire(self, account_id: str) -> None:
        self.book.retire(UP, account_id)
        self.active.discard(account_id)

    @rule(account_id=st.sampled_from(IDS), standing=st.sampled_from([Standing.LOGIN_NEEDED, Standing.CLOSED]))
    def fall(self, account_id: str, standing: Standing) -> None:
        fall(self.book, account_id, standing)

    @rule(account_id=st.sampled_from(IDS))
    def recover(self, account_id: str) -> None:
        self.book.recover(UP, account_id)

    @rule(seconds=st.sampled_from([0.5, 61.0, 3600.0, 90_000.0, -7200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def restart_from_the_store(self) -> None:
        """What is restored where it already holds changes nothing."""
        before = self.book.state_of(self.now_s)
        self.book.restore(before, self.now_s)
        assert self.book.state_of(self.now_s) == before

    @invariant()
    def in_flight_is_what_is_open(self) -> None:
        views = {each.account_id: each for each in self.book.views(self.now_s)}
        for account_id, account in views.items():
            assert account.in_flight == sum(lease.account_id == account_id for lease in self.open)
            assert account.retired == (account_id not in self.active)
            assert account.in_flight <= account.leases
        assert set(views) == self.active | {lease.account_id for lease in self.open}


TestBookInUse = BookInUse.TestCase
TestBookInUse.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)

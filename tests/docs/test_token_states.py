"""The diagrams of docs/explanation/tokens.md are what the running code does."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from qproxy.core.account import AccountBook, AccountKind, Wish
from qproxy.core.account import Standing as AccountStanding
from qproxy.core.classify import GOOD, Cause, Outcome, Scope
from qproxy.core.token_state import TRANSITIONS
from qproxy.core.token_state import Standing as TokenStanding
from qproxy.errors import AccountError
from tests.docs.pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from enum import Enum

    from qproxy.core.account import Lease

PAGE = ROOT / "docs" / "explanation" / "tokens.md"
UP = "upstream"
COOLDOWN_S = 60.0
LIMIT = Outcome(Cause.QUOTA, Scope.ACCOUNT, COOLDOWN_S)

Edge = tuple["Enum", str, "Enum"]


class Life:
    """An account, lone or not, in a book, and the time."""

    def __init__(self, kind: AccountKind, *, lone: bool) -> None:
        self.book = AccountBook()
        self.now_s = 1_000_000.0
        for account in ("a",) if lone else ("a", "b"):
            self.book.add(UP, account, kind)
        self.under_way = self.book.lease(UP, Wish(account="a"), self.now_s)

    def lease(self) -> Lease | None:
        try:
            return self.book.lease(UP, Wish(account="a"), self.now_s)
        except AccountError:
            return None

    @property
    def standing(self) -> AccountStanding:
        return next(each.standing for each in self.book.views(self.now_s) if each.account_id == "a")

    def limit(self) -> None:
        self.book.note(self.under_way, LIMIT, self.now_s)

    def wait(self) -> None:
        self.now_s += COOLDOWN_S + 1

    def succeed(self) -> None:
        lease = self.lease()
        if lease is not None:
            self.book.note(lease, GOOD, self.now_s)
            lease.give_back()

    def lose_login(self) -> None:
        self.book.login_needed(UP, "a", "log in", self.now_s)

    def close(self) -> None:
        self.book.close_account(UP, "a", "refused", self.now_s)

    def recover(self) -> None:
        self.book.recover(UP, "a")


EVENTS: dict[str, Callable[[Life], None]] = {
    "out of quota, too fast, not paid, not allowed": Life.limit,
    "the wait is over": Life.wait,
    "a request succeeds": Life.succeed,
    "the login server refuses to renew": Life.lose_login,
    "a fresh token, or the key, is refused": Life.close,
    "another credential is there": Life.recover,
}
MEANS = {"the login server refuses to renew": AccountStanding.LOGIN_NEEDED}
WAYS: dict[AccountStanding, Callable[[Life], None]] = {
    AccountStanding.READY: lambda _: None,
    AccountStanding.COOLING: Life.limit,
    AccountStanding.LOGIN_NEEDED: Life.lose_login,
    AccountStanding.CLOSED: Life.close,
}


def account_edges() -> list[Edge]:
    """Every standing with every event, tried out."""
    edges = []
    for before, (event, happen) in product(AccountStanding, EVENTS.items()):
        for kind, lone in product(AccountKind, (True, False)):
            if kind is AccountKind.API_KEY and AccountStanding.LOGIN_NEEDED in (before, MEANS.get(event)):
                continue  # nobody logs a key in
            life = Life(kind, lone=lone)
            WAYS[before](life)
            assert life.standing is before
            happen(life)
            edges.append((before, event, life.standing))
    return list(dict.fromkeys(edges))


def token_edges() -> list[Edge]:
    return [(before, event.value, after) for (before, event), after in TRANSITIONS.items()]


def diagram(standings: Iterable[Enum], edges: Iterable[Edge]) -> str:
    """What changes nothing is left out."""
    standings = list(standings)
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{standing.value}" as {standing.name}' for standing in standings]
    lines.append(f"    [*] --> {standings[0].name}")
    lines += [f"    {before.name} --> {after.name}: {event}" for before, event, after in edges if before is not after]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("number", "drawn"),
    [(0, diagram(TokenStanding, token_edges())), (1, diagram(AccountStanding, account_edges()))],
    ids=["token", "account"],
)
def test_the_page_shows_what_happens(number: int, drawn: str) -> None:
    shown = blocks(PAGE, "mermaid")
    assert len(shown) == 2
    assert shown[number].text == drawn, f"the diagram should be:\n{drawn}"


def test_every_state_can_be_left_and_reached() -> None:
    for standings, edges in ((TokenStanding, token_edges()), (AccountStanding, account_edges())):
        moves = [(before, after) for before, _, after in edges if before is not after]
        assert {before for before, _ in moves} == set(standings)
        assert {after for _, after in moves} == set(standings)


def test_the_page_says_what_each_state_means() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for standing in (*TokenStanding, *AccountStanding):
        assert f"| {standing.value} |" in text, standing

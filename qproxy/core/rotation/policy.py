"""What a rotation policy is: a choice among the accounts that could take a request now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol, TypeVar

from qproxy.core.affinity import NO_CONVERSATION, Conversation


@dataclass(slots=True)
class Wish:
    """What a request wants of an account.

    `model` is the upstream's name of it, "" where that is not known. `account` is the one that the client named, None
    for any. `tried` are the accounts that this request has been to already. `needs_place` is False for a question of
    our own, which goes to an account whatever it has under way.
    """

    model: str = ""
    conversation: Conversation = NO_CONVERSATION
    account: str | None = None
    tried: AbstractSet[str] = frozenset()
    needs_place: bool = True


class Candidate(Protocol):
    """A usable account as a policy sees it. `last_turn` grows with every lease of the upstream; 0: never leased."""

    @property
    def id(self) -> str: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def last_turn(self) -> int: ...


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


class Policy(Protocol):
    """One object per upstream. It changes nothing but its own memory: the lease is the book's to make.

    `reads_conversation`: whether `Wish.conversation` is worth the 30 µs that it costs.
    """

    reads_conversation: bool

    def choose(self, candidates: Sequence[AnyCandidate], wish: Wish) -> AnyCandidate:
        """One of the candidates, of which there is at least one; the default account comes first, if it is usable."""
        ...

    def counts(self) -> Mapping[str, int]:
        """How often the policy decided for which reason; empty where it knows only one."""
        ...

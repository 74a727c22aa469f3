"""The same conversation to the same account, within bounds, and a reason for each time that it goes elsewhere.

Bounded load (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, 2016): an opening that all users
share makes one account attractive to all of them, so an account well above the average is left to those it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from qproxy.core.affinity import REMEMBERED_BLOCKS, Homes, Known
from qproxy.core.rotation.least_in_flight import LeastInFlight
from qproxy.core.rotation.policy import AnyCandidate, Candidate, Wish


class Reason(Enum):
    """Why a request went where it went: to its conversation's account, or not."""

    HIT = "hit"
    NO_KEY = "no_key"  # too short to be cached, or no conversation
    NEW = "new"
    EXPIRED = "expired"  # known once; others needed the room
    CHANGED_PREFIX = "changed_prefix"  # its beginning is known, but most of what followed is different now
    ACCOUNT_UNAVAILABLE = "account_unavailable"  # gone, cooling down, or tried by this request already
    SPILLED = "spilled"  # the account has more than its share of requests under way


class Sticky:
    """Sends a conversation to its home; whatever misses goes to the least busy account, and has its home there."""

    reads_conversation = True

    def __init__(self, remembered_blocks: int = REMEMBERED_BLOCKS) -> None:
        self._homes = Homes(remembered_blocks)
        self._elsewhere = LeastInFlight()
        self._counts = {reason.value: 0 for reason in Reason}

    def choose(self, candidates: Sequence[AnyCandidate], wish: Wish) -> AnyCandidate:
        known = self._homes.find(wish.conversation)
        home = _home(known, candidates)
        reason = _reason(known, home, candidates) if wish.conversation.chain else Reason.NO_KEY
        chosen = home if home is not None and reason is Reason.HIT else self._elsewhere.choose(candidates, wish)
        self._homes.keep(wish.conversation, chosen.id, _moved_from(reason, known, wish))
        self._counts[reason.value] += 1
        return chosen

    def counts(self) -> Mapping[str, int]:
        """By the values of `Reason`."""
        return self._counts


def _home(known: Known, candidates: Sequence[AnyCandidate]) -> AnyCandidate | None:
    if known.home is None:
        return None
    account_id = known.home.account_id
    return next((candidate for candidate in candidates if candidate.id == account_id), None)


def _reason(known: Known, home: Candidate | None, candidates: Sequence[Candidate]) -> Reason:
    if known.expired:
        return Reason.EXPIRED
    if known.home is None:
        return Reason.NEW
    if 2 * known.depth < known.home.settled:
        return Reason.CHANGED_PREFIX
    if home is None:
        return Reason.ACCOUNT_UNAVAILABLE
    return Reason.SPILLED if home.in_flight > _bound(candidates) else Reason.HIT


def _bound(candidates: Sequence[Candidate]) -> int:
    """1.25 times the average, rounded up, and one more, so that two requests at once are no crowd."""
    in_flight = sum(candidate.in_flight for candidate in candidates)
    return -(-5 * in_flight // (4 * len(candidates))) + 1


def _moved_from(reason: Reason, known: Known, wish: Wish) -> int:
    """The first block whose home changes. Where the account is unavailable, all move. Else what was known stays, an
    opening shared with others for instance, but for the last block: the next request looks there first."""
    if reason is Reason.ACCOUNT_UNAVAILABLE:
        return 0
    return min(known.depth, len(wish.conversation.chain) - 1)

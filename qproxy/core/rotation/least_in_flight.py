"""The account with the fewest requests under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qproxy.core.rotation.policy import AnyCandidate, Candidate, Wish


class LeastInFlight:
    """The least busy account; among equals the one whose last turn is longest ago, or an idle proxy would use one."""

    reads_conversation = False

    def choose(self, candidates: Sequence[AnyCandidate], wish: Wish) -> AnyCandidate:
        return min(candidates, key=_load)

    def counts(self) -> Mapping[str, int]:
        return {}


def _load(candidate: Candidate) -> tuple[int, int]:
    return candidate.in_flight, candidate.last_turn

"""Each account in its turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qproxy.core.rotation.policy import AnyCandidate, Candidate, Wish


class RoundRobin:
    """The account whose last turn is longest ago. An account that was out comes next, so that none is passed over."""

    reads_conversation = False

    def choose(self, candidates: Sequence[AnyCandidate], wish: Wish) -> AnyCandidate:
        return min(candidates, key=_last_turn)

    def counts(self) -> Mapping[str, int]:
        return {}


def _last_turn(candidate: Candidate) -> int:
    return candidate.last_turn

"""One account until it is used up, then the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qproxy.core.rotation.policy import AnyCandidate, Wish


class FillFirst:
    """The default account while it is usable, then the others in the order in which they were added."""

    reads_conversation = False

    def choose(self, candidates: Sequence[AnyCandidate], wish: Wish) -> AnyCandidate:
        return candidates[0]

    def counts(self) -> Mapping[str, int]:
        return {}

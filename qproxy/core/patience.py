"""How long to wait for the first byte of an answer, learned from what was waited before.

The formula of `Timeouts.first_byte_s` knows the prompt's length and nothing of the server. A slow server of somebody's
own takes minutes where others take seconds: three times what it took lately for a prompt of this length is patience
enough, and never less than the formula's. A dead server is found after `first_byte_max_s` at the latest.

Lengths are counted in bytes of the request body; the times are those from the last byte up to
the first byte down. Plain answers are learned apart from streams: their first byte is their last.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from qproxy.core.limits import BYTES_PER_TOKEN, Timeouts

TIMES = 3
RECENT = 16  # answers that count, for each kind of request
SHORTEST_BYTES = 10_000 * BYTES_PER_TOKEN  # below that the time says more of the server's queue than of the prompt
MOST_KINDS = 1_024
LONGEST_NAME = 256  # clients name models as they like


class Request(Protocol):
    """What is known of one. Those of the same kind take about the same time where their prompts are equally long."""

    @property
    def upstream(self) -> str: ...
    @property
    def model(self) -> str | None: ...
    @property
    def is_plain(self) -> bool: ...


class RequestKind(NamedTuple):
    """A `Request` that is nothing else."""

    upstream: str
    model: str | None
    is_plain: bool


class Patience:
    """What one server has learned. A kind is remembered from its first answer on that was slower than the formula
    allows for; most leave no trace. Bounded: the oldest kind makes room for the newest.
    """

    __slots__ = ("_formula_slowness_s", "_slowness", "_timeouts")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._formula_slowness_s = timeouts.first_byte_per_100k_tokens_s / (100_000 * BYTES_PER_TOKEN)
        self._slowness: dict[RequestKind, deque[float]] = {}  # seconds a byte, of the last answers

    def first_byte_s(self, request: Request, body_bytes: int) -> float:
        """Seconds to wait: between the formula's and `first_byte_max_s`, where that is more."""
        timeouts = self._timeouts
        usual_s = timeouts.first_byte_s(body_bytes=body_bytes, plain=request.is_plain)
        slowness = self._known(request)
        if slowness is None:
            return usual_s
        learned_s = TIMES * max(slowness) * max(body_bytes, SHORTEST_BYTES)
        return max(usual_s, min(learned_s, timeouts.first_byte_max_s))

    def learn(self, request: Request, body_bytes: int, waited_s: float) -> None:
        """A good answer began `waited_s` after the request had gone up."""
        slowness_s = waited_s / max(body_bytes, SHORTEST_BYTES)
        known = self._known(request)
        if known is not None:
            known.append(slowness_s)
        elif TIMES * slowness_s > self._formula_slowness_s and len(request.model or "") <= LONGEST_NAME:
            if len(self._slowness) >= MOST_KINDS:
                del self._slowness[next(iter(self._slowness))]
            self._slowness[_kind(request)] = deque([slowness_s], RECENT)

    def _known(self, request: Request) -> deque[float] | None:
        return self._slowness.get(_kind(request)) if self._slowness else None


def _kind(request: Request) -> RequestKind:
    return RequestKind(request.upstream, request.model, request.is_plain)

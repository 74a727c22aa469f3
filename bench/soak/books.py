"""What both sides of the proxy saw of each request, and the judgement over it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from bench.soak.faults import Fault, Harm
from bench.soak.orders import Manner, Order

SAMPLES = 20
FORBIDDEN = "never-"
"""How the ids of requests begin that no upstream may ever get whole."""

COLLATERAL = frozenset({
    "overloaded", "all_accounts_limited", "no_healthy_account", "credentials_unavailable", "upstream_connect_failed",
    "upstream_closed",
})  # fmt: skip
"""Codes that can meet a request which no upstream took: other requests closed an account or opened a breaker, the
upstream is away, every connection is busy, or a kept one was closed at the moment of its use."""


class Deed(Enum):
    """What came of an attempt, as its upstream saw it."""

    OPEN = "is still served"
    SENT = "all of the script was sent"
    ENDED = "the script ended the connection"
    LEFT = "the proxy left"
    CUT = "the upstream was restarted"


class End(Enum):
    """How a request ended for its client."""

    WHOLE = "the whole answer"
    TOLD = "an error in place of an answer"
    TOLD_LATE = "an error in the stream"
    BROKEN = "half an answer, and no clean end"
    LEFT = "its client left"
    NOTHING = "a closed connection and no answer"
    LATE = "no end within its deadline"
    BAD = "an answer that cannot be right"


class Guilt(Enum):
    """What a proxy must never do to a request."""

    LOST = "lost"
    DOUBLED = "doubled"
    WRONG = "wrong"


@dataclass(slots=True)
class Attempt:
    """One request at an upstream. `is_accepted`: it came whole, and was not refused."""

    upstream: str
    key: str
    fault: Fault
    is_accepted: bool = False
    deed: Deed = Deed.OPEN


@dataclass(slots=True)
class Case:
    """One order. `detail` is the code of the error, or what was bad about the answer; `request_id` is the proxy's."""

    order: Order
    attempts: list[Attempt] = field(default_factory=list)
    end: End | None = None
    detail: str = ""
    request_id: str = ""

    def __str__(self) -> str:
        tried = ", ".join(f"{each.upstream}: {each.fault.name}, {each.deed.value}" for each in self.attempts)
        end = "no end" if self.end is None else self.end.value
        kind = "stream" if self.order.is_stream else "plain"
        size = "long" if self.order.is_long else "short"
        return (
            f"{self.order.id} ({self.request_id or 'no request id'}, {kind}, {size}, {self.order.manner.value}): {end} "
            f"{self.detail}; upstreams: {tried or 'none'}"
        )


def guilt_of(case: Case) -> tuple[Guilt, str] | None:
    """None where the request ended as it may, with a word on what is wrong where it did not."""
    accepted = [attempt for attempt in case.attempts if attempt.is_accepted]
    if len(accepted) > 1:
        return Guilt.DOUBLED, "the work was done twice"
    if case.end in (None, End.LATE, End.NOTHING):
        return Guilt.LOST, "no end"
    if case.end is End.BAD:
        return Guilt.WRONG, "an answer that cannot be right"
    if case.end is End.LEFT or (case.order.manner is Manner.STUCK and case.end in (End.BROKEN, End.TOLD_LATE)):
        return None
    if case.end is End.WHOLE:
        is_given = [attempt.deed for attempt in accepted] == [Deed.SENT]
        return None if is_given else (Guilt.WRONG, "a whole answer that no upstream gave")
    if accepted:
        return None if _may_break(accepted[0]) else (Guilt.WRONG, "a good answer did not arrive")
    return None if case.end is End.TOLD and _may_be_refused(case) else (Guilt.WRONG, "failed without a cause")


def _may_break(attempt: Attempt) -> bool:
    return attempt.fault.harm is Harm.BREAKS or attempt.deed is Deed.CUT


def _may_be_refused(case: Case) -> bool:
    return case.detail in COLLATERAL or any(
        attempt.fault.harm is not Harm.NONE or attempt.deed is Deed.CUT for attempt in case.attempts
    )


class Books:
    """All orders since the last `settle`, and what became of the earlier ones."""

    def __init__(self) -> None:
        self._open: dict[str, Case] = {}
        self.attempts_open = 0
        self.requests = 0
        self.ends: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.guilty: Counter[Guilt] = Counter()
        self.samples: list[str] = []

    # --- what clients tell

    def open(self, order: Order) -> Case:
        """An order goes out."""
        case = self._open[order.id] = Case(order)
        self.requests += 1
        self.kinds["stream" if order.is_stream else "plain"] += 1
        if order.is_long:
            self.kinds["long upload"] += 1
        if order.manner is not Manner.READS:
            self.kinds[f"client {order.manner.value}"] += 1
        return case

    # --- what upstreams tell

    def find(self, order_id: str) -> Case | None:
        """None for an id that nobody has sent since the last `settle`."""
        return self._open.get(order_id)

    def begin(self, case: Case, upstream: str, key: str, fault: Fault) -> Attempt:
        """The head of a request has come to an upstream."""
        attempt = Attempt(upstream, key, fault)
        case.attempts.append(attempt)
        self.attempts_open += 1
        self.faults[fault.name] += 1
        return attempt

    def end(self, attempt: Attempt, deed: Deed) -> None:
        """Nothing more happens to it."""
        attempt.deed = deed
        self.attempts_open -= 1

    def accuse(self, guilt: Guilt, what: str) -> None:
        """Something that no case can hold."""
        self.guilty[guilt] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(f"{guilt.value}: {what}")

    # --- the judgement

    def settle(self) -> None:
        """Judge every order. To be called when nothing is under way."""
        for case in self._open.values():
            end = End.LATE if case.end is None else case.end
            self.ends[end.value] += 1
            if end in (End.TOLD, End.TOLD_LATE):
                self.codes[case.detail] += 1
            guilt = guilt_of(case)
            if guilt is not None:
                self.accuse(guilt[0], f"{guilt[1]}: {case}")
        self._open.clear()

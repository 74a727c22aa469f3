"""One request and its answer: the phases it goes through, and the record that is left of it.

The phases only go forward. Between WAITING and RELAYING stands the commit: from there on the client has a response
head, and no failure can be answered with another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from qproxy.core.usage import Usage

ERROR_IN_STREAM = "error_in_stream"
"""The upstream ended its stream with an error of its own, which is the client's to see. No code of ours."""


class Phase(IntEnum):
    """Where an exchange stands; the order is the only order."""

    HEAD = 0  # the request head has been read
    ADMITTED = 1  # route, key and host are good
    RECEIVING = 2  # the body is coming in
    WAITING = 3  # a connection is looked for, the request goes up, the response head is awaited
    RELAYING = 4  # committed: the response head went down
    SETTLED = 5


@dataclass(slots=True)
class Attempt:
    """One try at an upstream. `sent` turns True when the first byte leaves this host; then it is not repeated.
    `uploaded` is when the last one had left, on the monotonic clock; 0.0 where it has not."""

    upstream: str
    sent: bool = False
    reused_connection: bool = False
    uploaded: float = 0.0


class ExchangeRecord(NamedTuple):
    """Every fact of a finished exchange; the one source of the access line and the metrics.

    `attempts` counts requests to upstreams, `account` is that of the last one. `cut_through`: the body went up while it
    arrived; else it was stored first. `usage` is what the upstream stated. Times are seconds on the monotonic clock,
    0.0 where the phase was not reached. `error` is a code of `errors.CATALOGUE`, "" for an exchange that ended
    as it should, "client_closed" where the client left first, or `ERROR_IN_STREAM`.
    """

    request_id: str
    method: str
    path: str
    peer: str
    endpoint: str
    upstream: str
    account: str
    attempts: int
    model: str
    status: int
    error: str
    phase: Phase
    cut_through: bool
    request_bytes: int
    response_bytes: int
    usage: Usage | None
    started: float
    received: float
    answered: float
    ended: float


class Exchange:
    """The facts of one request while it runs. Commits at most once, settles exactly once."""

    __slots__ = (
        "account", "answered", "attempt", "attempts", "cut_through", "endpoint", "error", "failed_in", "hides_errors",
        "kept_bytes", "method", "model", "path", "peer", "phase", "received", "request_bytes", "request_id",
        "response_bytes", "started", "status", "upstream", "usage",
    )  # fmt: skip

    def __init__(self, request_id: bytes, peer: str, started: float) -> None:
        self.request_id = request_id
        self.peer = peer
        self.started = started
        self.method = b""
        self.path = b""
        self.endpoint = ""
        self.hides_errors = False  # as its endpoint's
        self.upstream = ""
        self.model: str | None = None
        self.status = 0
        self.error = ""
        self.failed_in: Phase | None = None
        self.phase = Phase.HEAD
        self.cut_through = False
        self.kept_bytes = 0  # of its body, out of the `ReplayBudget`
        self.account = ""
        self.attempt: Attempt | None = None
        self.attempts = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.usage: Usage | None = None
        self.received = 0.0
        self.answered = 0.0

    def enter(self, phase: Phase) -> None:
        """Go forward to `phase`."""
        assert phase > self.phase, f"{self.phase.name} -> {phase.name}"
        self.phase = phase

    def commit(self, status: int, now: float) -> None:
        """The response head goes down: the point of no return."""
        self.enter(Phase.RELAYING)
        self.status = status
        self.answered = now

    def fail(self, code: str) -> None:
        """It went wrong here; the first failure counts."""
        if self.failed_in is None:
            self.error = code
            self.failed_in = self.phase

    @property
    def committed(self) -> bool:
        return self.phase >= Phase.RELAYING

    def settle(self, now: float) -> ExchangeRecord:
        """The record; the exchange is over."""
        reached = self.phase if self.failed_in is None else self.failed_in
        self.enter(Phase.SETTLED)
        return ExchangeRecord(
            self.request_id.decode("latin-1"),
            self.method.decode("latin-1"),
            self.path.decode("latin-1"),
            self.peer,
            self.endpoint,
            self.upstream,
            self.account,
            self.attempts,
            self.model or "",
            self.status,
            self.error,
            reached,
            self.cut_through,
            self.request_bytes,
            self.response_bytes,
            self.usage,
            self.started,
            self.received,
            self.answered,
            now,
        )

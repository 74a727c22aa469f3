"""Any history of an exchange: its phases only go forward, it commits at most once and settles exactly once."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qproxy.core.exchange import Exchange, ExchangeRecord, Phase

CODES = st.sampled_from(["client_closed", "upstream_closed", "internal_error"])
TIMES = st.floats(0.0, 1e6)


class Life(RuleBasedStateMachine):
    """An exchange beside what must be true of it; what is not allowed is tried as well, and changes nothing."""

    @initialize(started=TIMES)
    def begin(self, started: float) -> None:
        self.exchange = Exchange(b"qp-1", "127.0.0.1", started)
        self.phase = Phase.HEAD
        self.started = started
        self.commits: list[tuple[int, float]] = []
        self.first_failure: tuple[str, Phase] | None = None
        self.record: ExchangeRecord | None = None

    @rule(phase=st.sampled_from([phase for phase in Phase if phase not in (Phase.RELAYING, Phase.SETTLED)]))
    def enter(self, phase: Phase) -> None:
        if phase > self.phase:
            self.exchange.enter(phase)
            self.phase = phase
        else:
            with pytest.raises(AssertionError):
                self.exchange.enter(phase)

    @rule(status=st.integers(200, 599), now=TIMES)
    def commit(self, status: int, now: float) -> None:
        if self.phase < Phase.RELAYING:
            self.exchange.commit(status, now)
            self.phase = Phase.RELAYING
            self.commits.append((status, now))
        else:
            with pytest.raises(AssertionError):
                self.exchange.commit(status, now)

    @rule(code=CODES)
    def fail(self, code: str) -> None:
        self.exchange.fail(code)
        self.first_failure = self.first_failure or (code, self.phase)

    @rule(now=TIMES)
    def settle(self, now: float) -> None:
        if self.record is not None:
            with pytest.raises(AssertionError):
                self.exchange.settle(now)
            return
        reached = self.phase
        self.record = self.exchange.settle(now)
        self.phase = Phase.SETTLED
        code, failed_in = self.first_failure or ("", reached)
        status, answered = self.commits[0] if self.commits else (0, 0.0)
        assert (self.record.error, self.record.phase) == (code, failed_in)
        assert (self.record.status, self.record.answered) == (status, answered)
        assert (self.record.started, self.record.ended) == (self.started, now)

    @invariant()
    def is_as_it_must_be(self) -> None:
        assert self.exchange.phase is self.phase
        assert len(self.commits) <= 1
        assert self.exchange.committed == (self.phase >= Phase.RELAYING)
        assert (self.exchange.status, self.exchange.answered) == (self.commits[0] if self.commits else (0, 0.0))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=12, deadline=None)

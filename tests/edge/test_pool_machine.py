"""Any history of a pool whose connects, answers and ends come in any order, and whose callers leave at any time: no
place is lost, no connection serves two, and whoever came first is served first."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import anyio.from_thread
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support.leaks import turns
from tests.support.pool_stage import BROKEN, CUT, LAST, WHOLE, PoolStage, pool_stage

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

SOME = st.integers(0, 5)
FEW_TURNS = st.integers(0, 8)
"""Of the loop: what was done is still under way when the next thing happens."""

ACTS = st.sampled_from(
    ["ask", "connect", "refuse", "answer", "finish", "abandon", "cancel", "hang_up", "speak", "expire"]
)


class PoolMachine(RuleBasedStateMachine):
    """Every rule is something that callers or upstreams do, after which the pool has a few turns or comes to rest."""

    def __init__(self, portal: BlockingPortal) -> None:
        super().__init__()
        self._portal = portal
        self._stage: PoolStage | None = None
        self._context: AbstractContextManager[PoolStage] | None = None

    @initialize(capacity=st.integers(1, 3), warm=st.sampled_from([0, 0, 1, 2]))
    def begin(self, capacity: int, warm: int) -> None:
        self._context = self._portal.wrap_async_context_manager(pool_stage(capacity, warm))
        self._stage = self._context.__enter__()

    @property
    def stage(self) -> PoolStage:
        assert self._stage is not None
        return self._stage

    def teardown(self) -> None:
        if self._context is not None:
            try:
                self._portal.call(self.stage.end)
            finally:
                self._context.__exit__(None, None, None)

    def _do(self, turns_of_loop: int, *acts: tuple[str, Any]) -> None:
        """Several acts happen at once."""

        async def do() -> None:
            for act, argument in acts:
                getattr(self.stage, act)(argument)
            for _ in range(turns_of_loop):
                await turns(1)
                self.stage.check()

        self._portal.call(do)

    @rule(count=FEW_TURNS)
    def ask(self, count: int) -> None:
        self._do(count, ("ask", 60.0))

    @rule(count=FEW_TURNS)
    def ask_in_haste(self, count: int) -> None:
        """It does not stand in line."""
        self._do(count, ("ask", 0.0))

    @rule(which=SOME, count=FEW_TURNS)
    def connect(self, which: int, count: int) -> None:
        self._do(count, ("connect", which))

    @rule(which=SOME, count=FEW_TURNS)
    def refuse(self, which: int, count: int) -> None:
        self._do(count, ("refuse", which))

    @rule(which=SOME, data=st.sampled_from([WHOLE, WHOLE, WHOLE, LAST, CUT, BROKEN]), count=FEW_TURNS)
    def answer(self, which: int, data: bytes, count: int) -> None:
        self._portal.call(self.stage.answer, which, data)
        self._do(count)

    @rule(which=SOME, count=FEW_TURNS)
    def finish(self, which: int, count: int) -> None:
        self._do(count, ("finish", which))

    @rule(which=SOME, count=FEW_TURNS)
    def cancel(self, which: int, count: int) -> None:
        self._do(count, ("cancel", which))

    @rule(act=st.sampled_from(["abandon", "hang_up", "speak", "expire"]), which=SOME, count=FEW_TURNS)
    def disturb(self, act: str, which: int, count: int) -> None:
        self._do(count, (act, which))

    @rule(acts=st.lists(st.tuples(ACTS, SOME), min_size=2, max_size=3), count=FEW_TURNS)
    def at_once(self, acts: list[tuple[str, int]], count: int) -> None:
        """Without a turn of the loop between them, such as an answer that is given to one who has just gone."""
        self._do(count, *acts)

    @precondition(lambda self: self._stage is not None)
    @rule()
    def settle(self) -> None:
        self._portal.call(self.stage.settle)


def test_any_history_of_a_pool(anyio_backend: tuple[str, dict[str, object]]) -> None:
    backend, options = anyio_backend
    with anyio.from_thread.start_blocking_portal(backend, options) as portal:
        run_state_machine_as_test(  # takes whatever makes a machine, its annotation says less
            lambda: PoolMachine(portal),  # type: ignore[arg-type]
            settings=settings(
                max_examples=60,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )

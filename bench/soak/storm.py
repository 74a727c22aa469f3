"""One soak: calm weather, three spells of storm with a rest after each, calm weather again, and the farewell."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

from bench.soak.books import Books, End
from bench.soak.customers import Customer
from bench.soak.hostile import Vandal
from bench.soak.orders import LONE, ROTATING, OrderBook
from bench.soak.subject import MAX_EXCHANGES, Farewell, Look, Subject
from bench.soak.upstream import FaultUpstream

KEYS = {ROTATING[0]: 4, ROTATING[1]: 3, LONE: 1}
CUSTOMERS = 48
VANDALS = 5
THIRDS = 3
WARM_S = 2.0
SAMPLE_S = 1.0
RECOVERY_REQUESTS = 100
RECOVERY_PATIENCE_S = 65.0  # the longest pause of a breaker, and a little
RECOVERY_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds` of storm in all."""

    seconds: float
    seed: int
    backend: str
    folder: Path
    report: Callable[[str], None]


@dataclass(slots=True)
class Soaked:
    """What a soak has shown. `rests` are the looks at the end of each third, `resident_mb` the medians within them;
    `recovered` of `RECOVERY_REQUESTS` requests were answered as they should, `recovery_s` after the storm."""

    seconds: float
    baseline: Look
    rests: list[Look]
    resident_mb: list[float]
    final: Look
    recovered: int
    recovery_s: float
    books: Books
    hostile: Counter[str]
    restarts: int
    idle_closed: int
    farewell: Farewell


class Storm:
    """The parts of a soak while it goes on."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.books = Books()
        self.hostile: Counter[str] = Counter()
        self.resident: list[int] = []
        self.orders = OrderBook(plan.seed)
        self.upstreams = [
            FaultUpstream(name, tuple(f"soak-{name}-{number}" for number in range(count)), self.books, plan.seed)
            for name, count in KEYS.items()
        ]
        self.subject = Subject(self.upstreams, plan.folder, plan.backend)

    async def run(self) -> Soaked:
        """Whatever was started is stopped. Raises StartError."""
        try:
            async with anyio.create_task_group() as tasks:
                for upstream in self.upstreams:
                    tasks.start_soon(upstream.run)
                self.subject.start()
                await self.subject.until_ready()
                soaked = await self._soak(tasks)
                tasks.cancel_scope.cancel()
        finally:
            self.subject.stop()
        return soaked

    async def _soak(self, tasks: anyio.abc.TaskGroup) -> Soaked:
        report = self.plan.report
        report(f"calm weather for {WARM_S:.0f} s")
        await self._spell(0, WARM_S, vandals=0)
        baseline = await self._rest()
        tasks.start_soon(self._watch)
        self._set_weather(is_calm=False)
        rests, resident_mb = [], []
        begun = time.monotonic()
        for third in range(1, THIRDS + 1):
            report(f"storm, third {third}: {self.plan.seconds / THIRDS:.0f} s")
            self.resident.clear()
            await self._spell(third, self.plan.seconds / THIRDS, vandals=VANDALS)
            resident_mb.append(statistics.median(self.resident) / 1e6 if self.resident else 0.0)
            rests.append(await self._rest())
            if third == 1:
                self._refuse_keys()
        seconds = time.monotonic() - begun
        self._set_weather(is_calm=True)
        report("calm weather again")
        recovered, recovery_s = await self._recover()
        final = await self._rest()
        farewell = await self.subject.leave()
        return Soaked(
            seconds, baseline, rests, resident_mb, final, recovered, recovery_s, self.books, self.hostile,
            sum(each.restarts for each in self.upstreams), sum(each.idle_closed for each in self.upstreams), farewell,
        )  # fmt: skip

    def _set_weather(self, *, is_calm: bool) -> None:
        for upstream in self.upstreams:
            upstream.is_calm = is_calm

    def _refuse_keys(self) -> None:
        """From now on one key of each upstream that has several is refused."""
        for upstream in self.upstreams:
            if len(upstream.keys) > 1:
                upstream.refused_keys.add(upstream.keys[0])

    async def _spell(self, number: int, seconds: float, *, vandals: int) -> None:
        """Everybody sends for so long; returns when the last answer has ended."""
        until = time.monotonic() + seconds

        def may_go_on() -> bool:
            return time.monotonic() < until

        async with anyio.create_task_group() as tasks:
            for each in range(CUSTOMERS):
                rng = random.Random(f"customer {each} {number} {self.plan.seed}")
                tasks.start_soon(Customer(self.subject.port, self.orders, self.books, rng).run, may_go_on)
            for each in range(vandals):
                rng = random.Random(f"vandal {each} {number} {self.plan.seed}")
                tasks.start_soon(Vandal(self.subject.port, self.books, rng, self.hostile).run, may_go_on)

    async def _rest(self) -> Look:
        look = await self.subject.until_quiet()
        self.books.settle()
        return look

    async def _watch(self) -> None:
        while True:
            self.resident.append(self.subject.server.memory().resident_bytes)
            await anyio.sleep(SAMPLE_S)

    async def _recover(self) -> tuple[int, float]:
        """Of the requests after the first good answer of each upstream, as many at once as there are places: how many
        succeed. And the seconds until then."""
        begun = time.monotonic()
        customers = [self._customer(number) for number in range(MAX_EXCHANGES)]
        names = list(KEYS)
        with anyio.move_on_after(RECOVERY_PATIENCE_S):
            for name in names:
                while await customers[0].ask(*self.orders.next_plain(name)) is not End.WHOLE:  # noqa: ASYNC110
                    await anyio.sleep(RECOVERY_PAUSE_S)
        recovery_s = time.monotonic() - begun
        ends: Counter[End] = Counter()

        async def ask(customer: Customer, turns: int) -> None:
            for turn in range(turns):
                ends[await customer.ask(*self.orders.next_plain(names[turn % len(names)]))] += 1
            customer.leave()

        async with anyio.create_task_group() as tasks:
            for number, customer in enumerate(customers):
                share = len(range(number, RECOVERY_REQUESTS, MAX_EXCHANGES))
                tasks.start_soon(ask, customer, share)
        return ends[End.WHOLE], recovery_s

    def _customer(self, number: int) -> Customer:
        return Customer(self.subject.port, self.orders, self.books, random.Random(number))

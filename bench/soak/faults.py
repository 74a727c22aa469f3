"""What goes wrong at the upstreams: a table. Most requests meet none of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from bench.soak.orders import Order, events_of
from bench.soak.script import Ending, Pause, Step, events_only, reply, whole
from qproxy.simulator.answers import Refusal, stream_head
from qproxy.simulator.scenarios import SCENARIOS

SHORT_S = 0.7  # shorter than the proxy's deadlines, and long enough to be waited for
RETRY_AFTER_MS = b"100"  # the accounts are to come back soon
FAULT_SHARE = 0.15
"""Of the requests that reach an upstream."""

Script: TypeAlias = Callable[[Order, random.Random], list[Step]]


class Harm(Enum):
    """What a fault may do to the request that meets it."""

    NONE = "it takes longer, or looks unusual"
    REFUSES = "no work is done, and the answer says so: it may be sent elsewhere"
    BREAKS = "work may have been done: its client must be told, and nobody may do it again"


class Reading(Enum):
    """What is done with the request's body before the script begins."""

    AT_ONCE = "read"
    LATE = "read after a while"
    NEVER = "left unread"


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. `weight` is relative to the other rows. `long_only`: met by long uploads alone.
    `lone_only`: not met where there are several keys, since it would close one after the other."""

    name: str
    weight: float
    harm: Harm
    script: Script
    streams: bool = True
    plain: bool = True
    long_only: bool = False
    lone_only: bool = False
    reading: Reading = Reading.AT_ONCE

    def fits(self, order: Order, *, is_lone: bool) -> bool:
        """Whether the request can meet it."""
        kind_fits = self.streams if order.is_stream else self.plain
        return kind_fits and (order.is_long or not self.long_only) and (is_lone or not self.lone_only)


def _refusal(name: str) -> Refusal:
    refusal = SCENARIOS[name].answer
    assert isinstance(refusal, Refusal)
    return refusal


def _refused(name: str, weight: float = 1.0) -> Fault:
    """An error of the simulator's table, and a wait that is short."""
    refusal = replace(_refusal(name), headers=((b"retry-after-ms", RETRY_AFTER_MS),))
    return Fault(name, weight, Harm.REFUSES, lambda order, _: reply(refusal.reply(order.id)))


def _failed(name: str, weight: float = 1.0) -> Fault:
    """An error of the simulator's table that may come after work was done."""
    refusal = _refusal(name)
    return Fault(name, weight, Harm.BREAKS, lambda order, _: reply(refusal.reply(order.id)))


def _ended(*steps: Step) -> Script:
    return lambda _order, _rng: list(steps)


def _cut(ending: Ending) -> Script:
    """Somewhere behind the head and before the end, maybe in the middle of an event."""

    def script(order: Order, rng: random.Random) -> list[Step]:
        steps = whole(order, rng)
        at = rng.randrange(len(steps))
        step = steps[at]
        half = step[: rng.randrange(len(step))] if isinstance(step, bytes) else b""
        return [*steps[:at], half, ending]

    return script


def _only_head(ending: Ending) -> Script:
    return lambda order, rng: [whole(order, rng)[0] if order.is_stream else _PLAIN_HEAD, ending]


def _paused(seconds: float) -> Script:
    """In the middle."""

    def script(order: Order, rng: random.Random) -> list[Step]:
        steps = whole(order, rng)
        at = rng.randrange(1, len(steps)) if len(steps) > 1 else 0
        return [*steps[:at], Pause(seconds), *steps[at:]]

    return script


def _stalled(order: Order, rng: random.Random) -> list[Step]:
    steps = whole(order, rng)
    at = rng.randrange(1, len(steps)) if len(steps) > 1 else 0
    return [*steps[:at], Ending.HANG]


def _without_end(order: Order, _: random.Random) -> list[Step]:
    """A clean end of the body, and nothing that says that the answer is complete."""
    return events_only(events_of(order)[: order.pieces])


def _first_event_refuses(order: Order, _: random.Random) -> list[Step]:
    return events_only([_refusal("429-burst").event(order.id)])


def _later_event_fails(order: Order, _: random.Random) -> list[Step]:
    return events_only([*events_of(order)[: order.pieces], _refusal("500").event(order.id)])


def _early(order: Order, rng: random.Random) -> list[Step]:
    return [*_refused("429-rate").script(order, rng), Ending.FIN]


def _bad_chunk(order: Order, rng: random.Random) -> list[Step]:
    return [*whole(order, rng)[:-1], b"0x10\r\n", Ending.HANG]


_PLAIN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
_NONE, _REFUSES, _BREAKS = Harm.NONE, Harm.REFUSES, Harm.BREAKS

NO_FAULT = Fault("none", 0.0, _NONE, whole)
KEY_REFUSED = Fault("401, for good", 0.0, _REFUSES, lambda order, _: reply(_refusal("401").reply(order.id)))

FAULTS = (
    _refused("429-rate", 3.0),
    _refused("429-burst"),
    _refused("429-tokens"),
    _refused("429-quota"),
    _refused("429-free"),
    _refused("429-hour"),
    _refused("429-concurrency"),
    _refused("429-flat"),
    _refused("403-quota"),
    _refused("503", 2.0),
    _refused("503-retry-after", 2.0),
    Fault("401", 1.0, _REFUSES, KEY_REFUSED.script, lone_only=True),
    Fault("429 as the first event", 0.5, _REFUSES, _first_event_refuses, plain=False),
    Fault("429 before the body was read", 4.0, _REFUSES, _early, long_only=True, reading=Reading.NEVER),
    _failed("500"),
    _failed("500-html"),
    _failed("502-text"),
    _failed("504"),
    Fault("reset before the head", 1.0, _BREAKS, _ended(Ending.RESET)),
    Fault("closed before the head", 1.0, _BREAKS, _ended(Ending.FIN)),
    Fault("closed in the head", 1.0, _BREAKS, _ended(b"HTTP/1.1 200 OK\r\ncontent-ty", Ending.FIN)),
    Fault("reset after the head", 1.0, _BREAKS, _only_head(Ending.RESET)),
    Fault("closed after the head", 1.0, _BREAKS, _only_head(Ending.FIN)),
    Fault("reset in the body", 2.0, _BREAKS, _cut(Ending.RESET)),
    Fault("closed in the body", 2.0, _BREAKS, _cut(Ending.FIN)),
    Fault("stream without its end", 2.0, _BREAKS, _without_end, plain=False),
    Fault("error in the stream", 1.0, _BREAKS, _later_event_fails, plain=False),
    Fault("broken chunk", 1.0, _BREAKS, _bad_chunk, plain=False),
    Fault("no head", 0.4, _BREAKS, _ended(Ending.HANG)),
    Fault("late head", 2.0, _NONE, lambda order, rng: [Pause(SHORT_S), *whole(order, rng)]),
    Fault("head, and silence", 0.4, _BREAKS, _ended(stream_head(b""), Ending.HANG), plain=False),
    Fault("stalled for good", 0.6, _BREAKS, _stalled),
    Fault("stalled for a while", 2.0, _NONE, _paused(SHORT_S)),
    Fault("upload taken late", 3.0, _NONE, whole, long_only=True, reading=Reading.LATE),
    Fault("upload not taken", 2.0, _BREAKS, _ended(Ending.RESET), long_only=True, reading=Reading.NEVER),
)  # fmt: skip


def choose(rng: random.Random, order: Order, *, is_lone: bool) -> Fault:
    """What this request meets."""
    if rng.random() >= FAULT_SHARE:
        return NO_FAULT
    fitting = [fault for fault in FAULTS if fault.fits(order, is_lone=is_lone)]
    return rng.choices(fitting, [fault.weight for fault in fitting])[0]

"""An answer as the steps of its sending; a fault is what becomes of them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import anyio

from bench.soak.orders import Manner, Order, answer_of, events_of
from qproxy.simulator.answers import LAST_CHUNK, Reply, chunk, reply_head, stream_head
from qproxy.simulator.wire import Wire

HANG_S = 15.0  # longer than any deadline of the proxy's
WATCHED_FROM_S = 0.1


class Ending(Enum):
    """Steps that end the connection."""

    FIN = "close"
    RESET = "reset"
    HANG = "send nothing more, until the proxy leaves"


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: nothing is sent for so long. A long one ends where the proxy leaves."""

    seconds: float


Step: TypeAlias = bytes | Pause | Ending


class Broken(Exception):
    """The script has ended its connection."""


async def perform(wire: Wire, steps: list[Step]) -> None:
    """Raises Broken, or PeerLeft where the proxy was faster."""
    for step in steps:
        if isinstance(step, bytes):
            await wire.send(step)
        elif isinstance(step, Pause):
            await _pause(wire, step.seconds)
        else:
            await _end(wire, step)


async def _pause(wire: Wire, seconds: float) -> None:
    if seconds < WATCHED_FROM_S:
        await anyio.sleep(seconds)
    else:
        await wire.watched(lambda: anyio.sleep(seconds))


async def _end(wire: Wire, ending: Ending) -> None:
    if ending is Ending.HANG:
        await wire.watched(lambda: anyio.sleep(HANG_S))
    if ending is Ending.FIN:
        await wire.linger()
    else:
        wire.reset()
    raise Broken


def whole(order: Order, rng: random.Random) -> list[Step]:
    """The answer as it should be: a step for the head, then steps for the body, the last one its end."""
    return _stream(order, rng) if order.is_stream else _plain(order, rng)


def events_only(events: list[bytes]) -> list[Step]:
    """A stream of just these events, with a clean end."""
    return [stream_head(b""), *(chunk(event) for event in events), LAST_CHUNK]


def reply(answer: Reply) -> list[Step]:
    """An answer of known length in one piece."""
    return [reply_head(answer, b"") + answer.body]


def _plain(order: Order, rng: random.Random) -> list[Step]:
    body = answer_of(order)
    if rng.random() < 0.3:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        return [head, *(chunk(piece) for piece in _pieces(body, rng)), LAST_CHUNK]
    head = reply_head(Reply(200, body), b"")
    if rng.random() < 0.5:
        return [head + body]
    return [head, *_pieces(body, rng)]


def _stream(order: Order, rng: random.Random) -> list[Step]:
    """Event by event at a pace, all at once, or with chunks that begin and end anywhere."""
    events = events_of(order)
    drawn = 0.5 if order.manner is Manner.STUCK else rng.random()
    if drawn < 0.4:
        pause = Pause(rng.choice((0.002, 0.02, 0.05)))
        paced = [step for event in events for step in (pause, chunk(event))]
        return [stream_head(b""), *paced, LAST_CHUNK]
    if drawn < 0.7:
        return [stream_head(b""), b"".join(chunk(event) for event in events), LAST_CHUNK]
    return [stream_head(b""), *(chunk(piece) for piece in _pieces(b"".join(events), rng)), LAST_CHUNK]


def _pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut at random, none of them empty."""
    cuts = sorted({0, len(data), *(rng.randrange(1, len(data)) for _ in range(rng.randrange(6)))})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]

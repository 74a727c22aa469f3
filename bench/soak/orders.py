"""What honest clients ask for. Request and answer follow from the order, so that each side can check the other."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from enum import Enum

from bench.bodies import KIB, MIB, chat_body
from qproxy.simulator.answers import DONE

ROTATING = ("one", "two")
LONE = "lone"
ROUTES = ("one", "one", "two", "two", LONE)
MODELS = tuple(f"qwen-{number}" for number in range(12))
CONVERSATIONS = 200
SMALL_BYTES = (400, 2 * KIB, 20 * KIB, 120 * KIB)
LONG_BYTES = (600 * KIB, MIB, 2 * MIB, 4 * MIB)
LONG_SHARE = 0.08
STREAM_SHARE = 0.35
SLOW_SHARE = 0.05
STUCK_SHARE = 0.002
LEAVING_SHARE = 0.08
STUCK_PIECES, STUCK_PIECE_BYTES = 1000, 12 * KIB  # more than sockets and proxy hold on the way
LEAVES_WITHIN_S = 1.5


class Manner(Enum):
    """How a client takes its answer."""

    READS = "reads"
    SLOW = "reads slowly"
    STUCK = "reads nothing for longer than it may"
    LEAVES = "leaves"


@dataclass(frozen=True, slots=True)
class Order:
    """One request. `digest` is that of the body as it must arrive at an upstream. `pieces` is the number of events of a
    stream, each about as long as `piece_bytes`, or how often a plain answer's text has so many bytes.

    The body goes out in `sends` writes with `pause_s` between them. `leaves_after_s` counts from the first of them.
    """

    id: str
    model: str
    is_stream: bool
    is_chunked: bool
    digest: bytes
    pieces: int
    piece_bytes: int
    manner: Manner
    leaves_after_s: float
    sends: int
    pause_s: float
    is_long: bool


def digest_of(body: bytes) -> bytes:
    """What two bodies are compared by."""
    return hashlib.sha256(body).digest()


def events_of(order: Order) -> list[bytes]:
    """The events of the whole answer to a stream."""
    common = b'data: {"id":"%b","object":"chat.completion.chunk","choices":[' % order.id.encode()
    text = (order.id + " ") * (order.piece_bytes // (len(order.id) + 1) + 1)
    events = [
        b'%b{"index":0,"delta":{"content":"%d %b"},"finish_reason":null}]}\n\n' % (common, number, text.encode())
        for number in range(order.pieces)
    ]
    events.append(b'%b{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n' % common)
    events.append(b'%b],"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n' % (common, order.pieces))
    return [*events, DONE]


def answer_of(order: Order) -> bytes:
    """The payload of the whole answer."""
    if order.is_stream:
        return b"".join(events_of(order))
    text = (order.id + " ") * (order.pieces * order.piece_bytes // (len(order.id) + 1) + 1)
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": order.pieces}
    return json.dumps({"id": order.id, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


class OrderBook:
    """Makes orders at random: the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"orders {seed}")
        self._count = 0
        self._messages = {size: _messages_of(size) for size in (*SMALL_BYTES, *LONG_BYTES)}

    def next(self) -> tuple[Order, bytes]:
        """An order, and the body to send."""
        rng = self._rng
        self._count += 1
        order_id = f"soak-{self._count:06d}"
        is_long = rng.random() < LONG_SHARE
        manner = self._manner()
        is_stream = manner is Manner.STUCK or rng.random() < STREAM_SHARE
        messages = self._messages[rng.choice(LONG_BYTES if is_long else SMALL_BYTES)]
        asked, model = _names(rng.choice(ROUTES), rng.choice(MODELS), rng)
        is_model_first = rng.random() < 0.5
        conversation = rng.randrange(CONVERSATIONS)
        body, arrives = (
            _body(name, order_id, conversation, messages, is_stream=is_stream, is_model_first=is_model_first)
            for name in (asked, model)
        )
        pieces, piece_bytes = self._size(manner)
        order = Order(
            id=order_id, model=model, is_stream=is_stream, is_chunked=rng.random() < 0.1, digest=digest_of(arrives),
            pieces=pieces, piece_bytes=piece_bytes,
            manner=manner, leaves_after_s=LEAVES_WITHIN_S * rng.random() ** 3,
            sends=rng.choice((1, 4, 12)) if is_long else rng.choice((1, 1, 1, 2)), pause_s=rng.uniform(0.0, 0.15),
            is_long=is_long,
        )  # fmt: skip
        return order, body

    def next_plain(self, upstream: str) -> tuple[Order, bytes]:
        """A short order for this upstream, of which nothing is slow."""
        self._count += 1
        order_id = f"soak-{self._count:06d}"
        model = MODELS[self._count % len(MODELS)]
        messages = self._messages[SMALL_BYTES[0]]
        body, arrives = (
            _body(name, order_id, self._count, messages, is_stream=False, is_model_first=True)
            for name in (f"{upstream}/{model}", model)
        )
        order = Order(
            id=order_id, model=model, is_stream=False, is_chunked=False, digest=digest_of(arrives), pieces=1,
            piece_bytes=100, manner=Manner.READS, leaves_after_s=0.0, sends=1, pause_s=0.0, is_long=False,
        )  # fmt: skip
        return order, body

    def _manner(self) -> Manner:
        others = 1 - SLOW_SHARE - STUCK_SHARE - LEAVING_SHARE
        weights = (others, SLOW_SHARE, STUCK_SHARE, LEAVING_SHARE)
        return self._rng.choices((Manner.READS, Manner.SLOW, Manner.STUCK, Manner.LEAVES), weights)[0]

    def _size(self, manner: Manner) -> tuple[int, int]:
        """How many pieces an answer has, and their bytes."""
        if manner is Manner.STUCK:
            return STUCK_PIECES, STUCK_PIECE_BYTES
        if manner is Manner.SLOW:
            return self._rng.choice((8, 40)), 8 * KIB
        return self._rng.choice((1, 8, 40)), self._rng.choice((20, 200, 2 * KIB))


def _names(route: str, model: str, rng: random.Random) -> tuple[str, str]:
    """What the client calls a model, and what the upstream does: by a rule, by a prefix, or without any edit."""
    if route == ROTATING[0] and rng.random() < 0.5:
        return model, model
    return f"{route}{rng.choice('/:')}{model}", model


def _messages_of(size_bytes: int) -> bytes:
    """The elements of the list, without its brackets."""
    body = chat_body(size_bytes)
    return body[len(b'{"messages":[') : body.rindex(b'],"model"')]


def _body(
    model: str, order_id: str, conversation: int, messages: bytes, *, is_stream: bool, is_model_first: bool
) -> bytes:
    said = b'"messages":[{"role":"system","content":"conversation %d"},%b]' % (conversation, messages)
    fields = b'"user":"%b"%b' % (order_id.encode(), b',"stream":true' if is_stream else b"")
    named = b'"model":"%b"' % model.encode()
    parts = (named, fields, said) if is_model_first else (said, named, fields)
    return b"{" + b",".join(parts) + b"}"

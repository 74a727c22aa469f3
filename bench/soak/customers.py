"""Honest clients: each sends one request after the other, and tells the books how it ended."""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio

from bench.rivals.base import CLIENT_KEY
from bench.soak.answers import Appetite, Seen, connect, end_of, read_answer
from bench.soak.books import Books, Case, End
from bench.soak.orders import Manner, Order, OrderBook
from bench.soak.subject import CLOCK_S
from bench.tools import CHAT_PATH
from qproxy.simulator.wire import PeerLeft, Wire

DEADLINE_S = 40.0
"""For the end of any request: places, attempts, a long body and a slow answer take 25 s where all of them are late."""

KEEP_SHARE = 0.85
THINK_S = 0.25
HASTY = Appetite()
SLOW = Appetite(read_bytes=4 * 1024, pause_s=0.02)
SLOW_RECEIVE_BYTES = 8 * 1024
STUCK_S = 2 * CLOCK_S + 1  # a stall is looked for once in the deadline
PIECE_BYTES = 16 * 1024


def request_head(order_id: str, body_bytes: int | None, port: int) -> bytes:
    """Without a number of bytes the body is chunked."""
    length = "transfer-encoding: chunked" if body_bytes is None else f"content-length: {body_bytes}"
    lines = (
        f"POST {CHAT_PATH} HTTP/1.1", f"host: 127.0.0.1:{port}", f"authorization: Bearer {CLIENT_KEY}",
        "content-type: application/json", f"x-soak-id: {order_id}", length, "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


class Customer:
    """One client with one connection at a time."""

    def __init__(self, port: int, orders: OrderBook, books: Books, rng: random.Random) -> None:
        self._port = port
        self._orders = orders
        self._books = books
        self._rng = rng
        self._wire: Wire | None = None

    async def run(self, may_go_on: Callable[[], bool]) -> None:
        """Until `may_go_on` says no; the request under way is ended first."""
        await anyio.sleep(self._rng.uniform(0, THINK_S))
        try:
            while may_go_on():
                await self.ask(*self._orders.next())
                await anyio.sleep(self._rng.uniform(0, THINK_S))
        finally:
            self.leave()

    def leave(self) -> None:
        """Close the connection, if there is one."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def ask(self, order: Order, body: bytes) -> End:
        """One request to its end."""
        case = self._books.open(order)
        with anyio.move_on_after(DEADLINE_S):
            if order.manner is Manner.LEAVES:
                await self._ask_and_leave(case, body)
            else:
                await self._exchange(case, body)
        if case.end is None:
            case.end = End.LATE
            self.leave()
        return case.end

    async def _ask_and_leave(self, case: Case, body: bytes) -> None:
        with anyio.move_on_after(case.order.leaves_after_s):
            await self._exchange(case, body)
            return
        case.end = End.LEFT
        if self._wire is not None and self._rng.random() < 0.5:
            self._wire.reset()
        self.leave()

    async def _exchange(self, case: Case, body: bytes) -> None:
        order = case.order
        try:
            wire = await self._connection(order)
        except OSError as exc:
            case.end, case.detail = End.NOTHING, f"no connection: {exc.strerror}"
            return
        writes = self._writes(order, body)
        if len(writes) == 1 and len(body) <= PIECE_BYTES:
            await _send(wire, writes, 0.0)
            seen = await _read(wire, order)
        else:
            seen = await self._exchange_at_once(wire, order, writes)
        case.end, case.detail = end_of(order, seen)
        if order.manner is Manner.STUCK and case.end is End.WHOLE:
            case.end, case.detail = End.BAD, f"it read nothing for {STUCK_S:.0f} s and was not cut off"
        case.request_id = seen.fields.get("x-request-id", "")
        if not seen.keeps_alive or self._rng.random() >= KEEP_SHARE:
            self.leave()

    async def _exchange_at_once(self, wire: Wire, order: Order, writes: list[bytes]) -> Seen:
        """An answer may come before the body has gone up."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send, wire, writes, order.pause_s)
            seen = await _read(wire, order)
            tasks.cancel_scope.cancel()
        return seen

    async def _connection(self, order: Order) -> Wire:
        """A slow reader has one of its own, with little room for what comes."""
        is_slow = order.manner in (Manner.SLOW, Manner.STUCK)
        if is_slow:
            self.leave()
        if self._wire is None:
            room_bytes = SLOW_RECEIVE_BYTES if is_slow else 0
            self._wire = await connect(self._port, receive_bytes=room_bytes)
        return self._wire

    def _writes(self, order: Order, body: bytes) -> list[bytes]:
        """Head and body as they are to be written."""
        step = len(body) // order.sends + 1
        pieces = [body[start : start + step] for start in range(0, len(body), step)]
        if order.is_chunked:
            framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
            head = request_head(order.id, None, self._port)
            return [head + framed[0], *framed[1:], b"0\r\n\r\n"]
        head = request_head(order.id, len(body), self._port)
        return [head + pieces[0], *pieces[1:]]


async def _read(wire: Wire, order: Order) -> Seen:
    if order.manner is Manner.STUCK:
        await anyio.sleep(STUCK_S)
    return await read_answer(wire, SLOW if order.manner is Manner.SLOW else HASTY)


async def _send(wire: Wire, writes: list[bytes], pause_s: float) -> None:
    """What the proxy does not take any more is of no interest: its answer tells."""
    try:
        for number, piece in enumerate(writes):
            if number:
                await anyio.sleep(pause_s)
            await wire.send(piece)
    except PeerLeft:
        pass

"""Clients that mean ill, or are broken: the proxy must end with each of them, and nothing of theirs may get through."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from bench.soak.answers import connect
from bench.soak.books import FORBIDDEN, Books, Guilt
from bench.soak.customers import request_head
from qproxy.simulator.wire import PeerLeft, Wire

END_WITHIN_S = 15.0  # the longest of the deadlines they run into, the time to linger, and patience
LONG_BODY_BYTES = 700_000
DRIP_S = 0.4
FLOOD = 20

Deed: TypeAlias = Callable[["Vandal", Wire, str], Awaitable[None]]


class Vandal:
    """One hostile client after the other."""

    def __init__(self, port: int, books: Books, rng: random.Random, done: Counter[str]) -> None:
        self.port = port
        self.rng = rng
        self._books = books
        self._done = done

    async def run(self, may_go_on: Callable[[], bool]) -> None:
        """Until `may_go_on` says no."""
        while may_go_on():
            name = self.rng.choice(list(DEEDS))
            await self._do(name)
            self._done[name] += 1
            await anyio.sleep(self.rng.uniform(0, 0.3))

    async def _do(self, name: str) -> None:
        try:
            wire = await connect(self.port)
        except OSError:
            return
        order_id = f"{FORBIDDEN}{self._done.total()} {name}"
        with anyio.move_on_after(END_WITHIN_S) as patience:
            try:
                await DEEDS[name](self, wire, order_id)
                await _until_closed(wire)
            except PeerLeft:
                pass
        if patience.cancelled_caught:
            self._books.accuse(Guilt.LOST, f"a hostile client was kept for {END_WITHIN_S:.0f} s: {name}")
        if wire.buffer.startswith(b"HTTP/1.1 2"):
            self._books.accuse(Guilt.WRONG, f"a hostile request was served: {name}: {bytes(wire.buffer[:200])!r}")
        wire.close()


async def _until_closed(wire: Wire) -> None:
    while not wire.closed:
        await wire.receive_more()


async def _silence(_vandal: Vandal, _wire: Wire, _order_id: str) -> None:
    pass


async def _garbage(vandal: Vandal, wire: Wire, _order_id: str) -> None:
    await wire.send(vandal.rng.randbytes(vandal.rng.randrange(1, 4000)))


async def _tls_hello(_vandal: Vandal, wire: Wire, _order_id: str) -> None:
    await wire.send(bytes.fromhex("16030100c8010000c40303") + bytes(180))


async def _half_head(vandal: Vandal, wire: Wire, order_id: str) -> None:
    head = request_head(order_id, 10, vandal.port)
    await wire.send(head[: vandal.rng.randrange(1, len(head) - 2)])


async def _dripping_head(vandal: Vandal, wire: Wire, order_id: str) -> None:
    await wire.send(request_head(order_id, 10, vandal.port)[:-2])
    while True:
        await wire.watched(lambda: anyio.sleep(DRIP_S))
        await wire.send(b"x-more: yes\r\n")


async def _huge_head(vandal: Vandal, wire: Wire, order_id: str) -> None:
    head = request_head(order_id, 10, vandal.port)
    await wire.send(head[:-2] + b"x-much: %b\r\n\r\n" % (b"m" * 100_000))


async def _half_body(vandal: Vandal, wire: Wire, order_id: str) -> None:
    body_bytes = vandal.rng.choice((200, LONG_BODY_BYTES))
    begun = b'{"model":"qwen-1","messages":[{"role":"user","content":"'.ljust(body_bytes // 2, b"x")
    await wire.send(request_head(order_id, body_bytes, vandal.port) + begun)


async def _half_body_and_end(vandal: Vandal, wire: Wire, order_id: str) -> None:
    await _half_body(vandal, wire, order_id)
    wire.half_close()


async def _half_body_and_reset(vandal: Vandal, wire: Wire, order_id: str) -> None:
    await _half_body(vandal, wire, order_id)
    await anyio.sleep(vandal.rng.uniform(0, 0.2))
    wire.reset()


async def _two_lengths(vandal: Vandal, wire: Wire, order_id: str) -> None:
    body = b'{"model":"qwen-1","messages":[]}'
    head = request_head(order_id, len(body), vandal.port)
    other = vandal.rng.choice((b"transfer-encoding: chunked\r\n", b"content-length: 5\r\n"))
    await wire.send(head[:-2] + other + b"\r\n" + body)


async def _bad_chunk(vandal: Vandal, wire: Wire, order_id: str) -> None:
    content = b"x" * vandal.rng.choice((10, LONG_BODY_BYTES))
    begun = b'{"model":"qwen-1","messages":[{"role":"user","content":"' + content
    bad = vandal.rng.choice((b"-5\r\n", b"0x5\r\nabcde\r\n", b"zz\r\n", b"5\nabcde\r\n"))
    await wire.send(request_head(order_id, None, vandal.port) + b"%x\r\n%b\r\n" % (len(begun), begun) + bad)


async def _flood(vandal: Vandal, wire: Wire, _order_id: str) -> None:
    """Connections that leave at once."""
    for _ in range(FLOOD):
        other = await connect(vandal.port)
        if vandal.rng.random() < 0.5:
            other.reset()
        other.close()
    wire.close()


DEEDS: dict[str, Deed] = {
    "silence": _silence,
    "garbage": _garbage,
    "TLS on the plain port": _tls_hello,
    "half a head": _half_head,
    "a head that drips": _dripping_head,
    "a huge head": _huge_head,
    "half a body": _half_body,
    "half a body, then FIN": _half_body_and_end,
    "half a body, then RST": _half_body_and_reset,
    "two lengths": _two_lengths,
    "a bad chunk": _bad_chunk,
    "a flood of connections": _flood,
}

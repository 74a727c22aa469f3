"""An upstream that does what the table of faults says, closes kept connections, and is restarted now and then."""

from __future__ import annotations

import contextlib
import random
import socket

import anyio
import anyio.abc

from bench.soak.books import FORBIDDEN, Attempt, Books, Case, Deed, Guilt
from bench.soak.faults import KEY_REFUSED, NO_FAULT, SHORT_S, Fault, Harm, Reading, choose
from bench.soak.orders import digest_of
from bench.soak.script import Broken, perform
from qproxy.simulator.request import BadRequest, Head, HeadReader, read_body
from qproxy.simulator.wire import PeerLeft, Wire, accept_forever, listen

RECEIVE_BYTES = 128 * 1024  # small, so that an upload that nobody takes is felt by who sends it
UNTAKEN_S = 5.0  # longer than the proxy's deadline
IDLE_CLOSED_SHARE = 0.05
IDLE_CLOSED_WITHIN_S = 0.1
UP_S = (6.0, 20.0)
AWAY_S = (0.05, 0.8)
PORTS = range(20_000, 30_000)
"""Below those which the kernel gives to clients: nobody takes an upstream's port while it is away."""


class FaultUpstream:
    """One origin with its keys. While `is_calm` nothing goes wrong."""

    def __init__(self, name: str, keys: tuple[str, ...], books: Books, seed: int) -> None:
        self.name = name
        self.keys = keys
        self.is_calm = True
        self.restarts = 0
        self.idle_closed = 0
        self.refused_keys: set[str] = set()
        self._books = books
        self._rng = random.Random(f"{name} {seed}")
        self._heads = HeadReader()
        self._is_leaving = False
        self.port = self._free_port()

    async def run(self) -> None:
        """Listens until it is cancelled."""
        while True:
            with _listen(self.port) as listener:
                async with anyio.create_task_group() as connections:
                    connections.start_soon(accept_forever, listener, connections, self._serve)
                    await self._until_restart()
                    self._is_leaving = True
                    connections.cancel_scope.cancel()
            self._is_leaving = False
            self.restarts += 1
            await anyio.sleep(self._rng.uniform(*AWAY_S))

    def _free_port(self) -> int:
        while True:
            port = self._rng.choice(PORTS)
            with contextlib.suppress(OSError), _listen(port):
                return port

    async def _until_restart(self) -> None:
        while True:
            await anyio.sleep(self._rng.uniform(*UP_S))
            if not self.is_calm:
                return

    async def _serve(self, wire: Wire) -> None:
        try:
            while await self._serve_one(wire):
                pass
        except (PeerLeft, Broken):
            pass
        finally:
            if self._is_leaving:
                wire.reset()
            wire.close()

    async def _serve_one(self, wire: Wire) -> bool:
        """False where the connection is not to be used again."""
        if not wire.buffer and not await self._await_request(wire):
            return False
        head = await self._heads.read(wire)
        order_id = head.header("x-soak-id")
        if order_id.startswith(FORBIDDEN):
            await read_body(wire, head)
            self._books.accuse(Guilt.WRONG, f"a request that must be refused came to {self.name}: {order_id}")
            return False
        case = self._books.find(order_id)
        if case is None:
            self._books.accuse(Guilt.WRONG, f"a request that nobody sends came to {self.name}: {head.raw!r}")
            return False
        await self._answer(wire, head, case)
        return True

    async def _await_request(self, wire: Wire) -> bool:
        """False where patience ends before a request comes, as it does now and then."""
        if self.is_calm or self._rng.random() >= IDLE_CLOSED_SHARE:
            await wire.receive_more()
            return True
        with anyio.move_on_after(self._rng.uniform(0.0, IDLE_CLOSED_WITHIN_S)):
            await wire.receive_more()
            return True
        self.idle_closed += 1
        if self._rng.random() < 0.3:
            wire.reset()
        return False

    async def _answer(self, wire: Wire, head: Head, case: Case) -> None:
        fault = self._fault_for(head, case)
        attempt = self._books.begin(case, self.name, head.bearer, fault)
        deed = Deed.CUT  # unless something else ends it first
        try:
            await self._receive(wire, head, case, attempt)
            await perform(wire, fault.script(case.order, self._rng))
            deed = Deed.SENT
        except Broken:
            deed = Deed.ENDED
            raise
        except PeerLeft:
            deed = Deed.LEFT
            raise
        finally:
            self._books.end(attempt, deed)

    def _fault_for(self, head: Head, case: Case) -> Fault:
        if head.bearer in self.refused_keys:
            return KEY_REFUSED
        return NO_FAULT if self.is_calm else choose(self._rng, case.order, is_lone=len(self.keys) == 1)

    async def _receive(self, wire: Wire, head: Head, case: Case, attempt: Attempt) -> None:
        """The body, as the fault wants it."""
        fault = attempt.fault
        if fault.reading is Reading.NEVER:
            await anyio.sleep(0.0 if fault.harm is Harm.REFUSES else UNTAKEN_S)
            return
        if fault.reading is Reading.LATE:
            await anyio.sleep(SHORT_S)
        try:
            body = await read_body(wire, head)
        except BadRequest as exc:
            self._books.accuse(Guilt.WRONG, f"broken framing came to {self.name}: {exc}: {case}")
            raise Broken from exc
        if digest_of(body) != case.order.digest:
            self._books.accuse(Guilt.WRONG, f"another body came to {self.name}: {len(body)} bytes: {case}")
        if head.bearer not in self.keys:
            self._books.accuse(Guilt.WRONG, f"another upstream's key came to {self.name}: {case}")
        attempt.is_accepted = fault.harm is not Harm.REFUSES


def _listen(port: int) -> socket.socket:
    listener = listen("127.0.0.1", port, None)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # accepted sockets inherit it
    return listener

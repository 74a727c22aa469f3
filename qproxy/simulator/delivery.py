"""Sends one answer: paced or flat out, held, cut or reset as the scenario says."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from qproxy.simulator.answers import LAST_CHUNK, Answer, EventStream, Reply, chunk, reply_head, stream_head
from qproxy.simulator.scenarios import Ending, Hold, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qproxy.simulator.options import Options
    from qproxy.simulator.scenarios import Scenario
    from qproxy.simulator.wire import Wire

_BATCH_BYTES = 64 * 1024
_BEFORE_HEAD = (Ending.FIN_BEFORE_HEAD, Ending.FIN_INSIDE_HEAD, Ending.RESET_BEFORE_HEAD)


class ConnectionOver(Exception):
    """The scenario ended the connection: nothing may be sent on it any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Everything that decides how an answer goes out. `hold` waits for `Simulator.release()`."""

    wire: Wire
    options: Options
    scenario: Scenario
    request_id: str
    common_headers: bytes
    hold: Callable[[], Awaitable[None]]

    async def send(self, answer: Answer, body_bytes: int) -> None:
        """`body_bytes` is the size of the request, which the prefill depends on. Raises PeerLeft, ConnectionOver."""
        if self.scenario.ending in _BEFORE_HEAD:
            await self._end()
        if self.scenario.hold is Hold.HEAD:
            await self.wire.watched(self.hold)
        prefill_s = self.options.prefill_s_per_mb * body_bytes / 1e6
        if isinstance(answer, Reply):
            await self._wait(prefill_s)
            await self._send_reply(answer)
            return
        head = stream_head(self.common_headers)
        if self.scenario.head_first:
            await self.wire.send(head)
            head = b""
        await self._wait(prefill_s)
        await self._send_stream(head, answer)

    async def _wait(self, delay_s: float) -> None:
        if delay_s > 0:
            await self.wire.watched(lambda: anyio.sleep(delay_s))

    async def _send_reply(self, reply: Reply) -> None:
        data = reply_head(reply, self.common_headers) + reply.body
        if self.scenario.ending is Ending.COMPLETE and self.scenario.hold is not Hold.EVENTS:
            await self.wire.send(data)
            return
        middle = len(data) - len(reply.body) // 2
        await self.wire.send(data[:middle])
        if self.scenario.hold is Hold.EVENTS:
            await self.wire.watched(self.hold)
            await self.wire.send(data[middle:])
            return
        await self._end()

    async def _send_stream(self, head: bytes, stream: EventStream) -> None:
        events = iter(stream.events)
        if self.scenario.edit is not None:
            events = iter(self.scenario.edit(events, Place(self.request_id, self.options.fault_after)))
        if self.scenario.hold is Hold.EVENTS:
            await self._send_events(head, islice(events, self.options.fault_after))
            await self.wire.watched(self.hold)
            head = b""
        await self._send_events(head, events)
        if self.scenario.ending is Ending.FIN_INSIDE_EVENT:
            event = next(iter(stream.events), b"data: {}\n\n")
            await self.wire.send(chunk(event)[: len(event) // 2])
        if self.scenario.ending is not Ending.COMPLETE:
            await self._end()
        await self.wire.send(LAST_CHUNK)

    async def _send_events(self, head: bytes, events: Iterable[bytes]) -> None:
        if self.options.tokens_per_s > 0:
            await self.wire.watched(lambda: self._send_paced(head, events))
        else:
            await self._send_flat_out(head, events)

    async def _send_paced(self, head: bytes, events: Iterable[bytes]) -> None:
        """The first event with the head, each other one when its moment has come, late ones at once."""
        interval_s = 1 / self.options.tokens_per_s
        due = anyio.current_time()
        joined = head
        for event in events:
            await anyio.sleep_until(due)
            await self.wire.send(joined + chunk(event))
            joined = b""
            due += interval_s
        if joined:
            await self.wire.send(joined)

    async def _send_flat_out(self, head: bytes, events: Iterable[bytes]) -> None:
        """Chunk for event as well, but written in batches."""
        batch = bytearray(head)
        for event in events:
            batch += chunk(event)
            if len(batch) >= _BATCH_BYTES:
                await self.wire.send(bytes(batch))
                await anyio.lowlevel.checkpoint()
                batch.clear()
        if batch:
            await self.wire.send(bytes(batch))

    async def _end(self) -> None:
        ending = self.scenario.ending
        if ending is Ending.FIN_INSIDE_HEAD:
            await self.wire.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
        if ending in (Ending.RESET, Ending.RESET_BEFORE_HEAD):
            self.wire.reset()
        else:
            await self.wire.linger()
        raise ConnectionOver

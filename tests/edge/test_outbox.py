"""Short writes wait for the end of the turn where they come in crowds, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.edge.outbox import CROWD, TRIED_EVERY, Outbox
from qproxy.edge.runtime import current_runtime
from qproxy.edge.streams import GATHERED_BYTES, open_stream
from qproxy.simulator.wire import PeerLeft, Wire
from tests.support.leaks import tcp_pair, turns

if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """A loop whose turns end when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def end_turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Sender:
    def __init__(self) -> None:
        self.sent = 0

    def send_gathered(self) -> None:
        self.sent += 1


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def outbox(loop: Loop) -> Outbox:
    return Outbox(lambda call: loop.calls.append(call))


def write(outbox: Outbox, times: int) -> None:
    for _ in range(times):
        outbox.pass_by()


def test_it_is_tried_now_and_then(outbox: Outbox) -> None:
    write(outbox, TRIED_EVERY - 1)
    assert not outbox.gathers
    write(outbox, 1)
    assert outbox.gathers


def test_a_crowd_is_sent_at_the_end_of_its_turn_and_the_next_one_is_gathered_too(outbox: Outbox, loop: Loop) -> None:
    write(outbox, TRIED_EVERY)
    crowd = [Sender() for _ in range(CROWD)]
    for sender in crowd:
        outbox.add(sender)
    assert [sender.sent for sender in crowd] == [0] * CROWD
    assert len(loop.calls) == 1
    loop.end_turn()
    assert [sender.sent for sender in crowd] == [1] * CROWD
    assert outbox.gathers


def test_where_there_is_no_crowd_writes_leave_at_once_again(outbox: Outbox, loop: Loop) -> None:
    write(outbox, TRIED_EVERY)
    lone = Sender()
    outbox.add(lone)
    loop.end_turn()
    assert lone.sent == 1
    assert not outbox.gathers
    write(outbox, TRIED_EVERY)
    assert outbox.gathers


class Broken(Sender):
    def send_gathered(self) -> None:
        raise ZeroDivisionError


def test_one_that_fails_keeps_nobody_else_from_being_sent(outbox: Outbox, loop: Loop) -> None:
    senders = [Sender(), Broken(), Sender(), Sender()]
    for sender in senders:
        outbox.add(sender)
    with pytest.raises(ZeroDivisionError):
        loop.end_turn()
    loop.end_turn()
    assert [sender.sent for sender in senders] == [1, 0, 1, 1]


@pytest.mark.anyio
async def test_what_is_held_back_leaves_in_order_and_before_any_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with anyio.create_task_group() as tasks:
        runtime = current_runtime(tasks)
        monkeypatch.setattr("qproxy.edge.outbox.CROWD", 1)
        for end in ("close", "abort", "end_writing"):
            ours, theirs = tcp_pair()
            stream, wire = await open_stream(runtime, ours), Wire(theirs)
            runtime.outbox.gathers = True
            stream.put(b"a" * 10)
            assert stream.unsent_bytes == 10
            stream.put(memoryview(b"b" * 10))
            stream.put(b"c" * GATHERED_BYTES)  # too much to be held back: all before it goes first
            stream.put(b"d" * 10)
            getattr(stream, end)()
            with pytest.raises(PeerLeft):
                while True:
                    await wire.receive_more()
            assert bytes(wire.buffer) == b"a" * 10 + b"b" * 10 + b"c" * GATHERED_BYTES + b"d" * 10
            stream.abort()
            wire.close()
        await turns()
        tasks.cancel_scope.cancel()

"""Signs of life for a client whose stream has not begun: long prompts take minutes until their first token, and things
in between (browsers, gateways, the user) give up on silence.

The first comment commits the answer, since a comment needs a head before it. From then on an error can only be told as
an event. Comments never stand for the upstream: its own deadlines go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qproxy.core.exchange import Exchange
from qproxy.core.sse import COMMENT
from qproxy.edge.runtime import Runtime, Timer

if TYPE_CHECKING:
    from qproxy.edge.connection import Connection


class KeepAlive:
    """Puts a comment into a stream in chunks every `every_s` seconds that its client waits, until `stop` or until the
    stream has begun."""

    __slots__ = ("_connection", "_every_s", "_exchange", "_has_begun", "_runtime", "_timer", "_was_waiting")

    def __init__(self, connection: Connection, exchange: Exchange, runtime: Runtime, every_s: float) -> None:
        self._connection = connection
        self._exchange = exchange
        self._runtime = runtime
        self._every_s = every_s
        self._has_begun: Callable[[], bool] | None = None
        self._was_waiting = not connection.owes_body
        self._timer: Timer | None = runtime.call_later(every_s, self._fire)

    def until(self, has_begun: Callable[[], bool]) -> None:
        """The answer is on its way: no comment more once `has_begun` says so."""
        self._has_begun = has_begun

    def stop(self) -> None:
        self._has_begun = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        connection = self._connection
        if connection.stream.closing or (self._has_begun is not None and self._has_begun()):
            return
        is_waiting = not connection.owes_body  # not while it still sends
        if is_waiting and self._was_waiting:
            self._comment()
        self._was_waiting = is_waiting
        self._timer = self._runtime.call_later(self._every_s, self._fire)

    def _comment(self) -> None:
        if not self._exchange.committed:
            self._connection.begin_stream(self._exchange)
        stream = self._connection.stream
        if not stream.congested:
            stream.put(COMMENT)

"""The clock of a whole request: from its admission to the last byte of its answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import anyio

from qproxy.edge.runtime import Runtime
from qproxy.errors import UpstreamError

if TYPE_CHECKING:
    from qproxy.edge.connection import Connection

_ENDLESS = nullcontext()


def total_clock(connection: Connection, total_s: float, runtime: Runtime) -> AbstractContextManager[None]:
    """Breaks the block off after `total_s`, with UpstreamError `total_timeout`; 0.0: never."""
    return _within(connection, total_s, runtime) if total_s else _ENDLESS


@contextmanager
def _within(connection: Connection, total_s: float, runtime: Runtime) -> Iterator[None]:
    error = _too_late(total_s)
    scope = anyio.CancelScope()

    def expire() -> None:
        if connection.broken_off is None:
            connection.broken_off = error  # what is being passed on ends with it
            scope.cancel()

    timer = runtime.call_later(total_s, expire)
    try:
        with scope:
            yield
    finally:
        timer.cancel()
        if connection.broken_off is error:
            connection.broken_off = None
    if scope.cancelled_caught:
        raise _too_late(total_s)  # another one: `error` belongs to a frame that the traceback of what is raised holds


def _too_late(total_s: float) -> UpstreamError:
    return UpstreamError(
        "total_timeout",
        f"The answer was not complete after {total_s:g} s. If it may take longer, raise timeouts.total_s.",
    )

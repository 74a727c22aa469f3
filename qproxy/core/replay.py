"""The request body as it arrived: the same bytes, kept as pieces, so that they can be sent, and sent again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from qproxy.core.splice import Buffer
from qproxy.errors import DownstreamError


class ReplayBuffer:
    """Bounded; sealed means that the body is complete and will not change.

    `put` is the sink of a body pump. Raises DownstreamError `body_too_large` with the piece that goes over the limit.
    """

    __slots__ = ("_limit_bytes", "pieces", "sealed", "size")

    congested = False  # memory takes what comes; the limit bounds it

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.pieces: list[bytes] = []
        self.size = 0
        self.sealed = False

    def put(self, piece: Buffer) -> None:
        assert not self.sealed
        self.size += len(piece)
        if self.size > self._limit_bytes:
            raise body_too_large(self._limit_bytes)
        if piece:
            self.pieces.append(bytes(piece))

    def seal(self) -> list[bytes]:
        """The whole body. Nothing is added after this."""
        self.sealed = True
        return self.pieces


class HeldTail:
    """Lets a body through but for its last `window_bytes`, which are held until it is complete and may be edited."""

    __slots__ = ("_edit", "_held", "_held_bytes", "_window_bytes")

    def __init__(self, window_bytes: int, edit: Callable[[bytes], bytes]) -> None:
        self._window_bytes = window_bytes
        self._edit = edit
        self._held: deque[Buffer] = deque()
        self._held_bytes = 0

    def push(self, piece: bytes) -> Sequence[Buffer]:
        """What may go on now, uncopied."""
        self._held.append(piece)
        self._held_bytes += len(piece)
        free: list[Buffer] = []
        while (surplus := self._held_bytes - self._window_bytes) > 0:
            first = self._held.popleft()
            if len(first) > surplus:
                view = memoryview(first)
                self._held.appendleft(view[surplus:])
                first = view[:surplus]
            self._held_bytes -= len(first)
            free.append(first)
        return free

    def finish(self) -> bytes:
        """The body is complete: its end, as `edit` gives it back."""
        return self._edit(b"".join(self._held))


def body_too_large(limit_bytes: int) -> DownstreamError:
    return DownstreamError("body_too_large", f"The request body may have {limit_bytes} bytes at most.")

"""The request body as it arrived: the same bytes, kept as pieces, so that they can be sent, and sent again."""

from __future__ import annotations

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

    def put_all(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            self.put(piece)

    def seal(self) -> list[bytes]:
        """The whole body. Nothing is added after this."""
        self.sealed = True
        return self.pieces


class ReplayBudget:
    """How many bytes all bodies together may hold that are kept to be sent again."""

    __slots__ = ("_limit_bytes", "taken_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.taken_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """False where so much is not left; else it must be given back, once."""
        if self.taken_bytes + size_bytes > self._limit_bytes:
            return False
        self.taken_bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """Raises RuntimeError where more comes back than was taken."""
        if size_bytes > self.taken_bytes:
            raise RuntimeError("more has been given back than was taken")
        self.taken_bytes -= size_bytes


class HeldTail:
    """Lets a body of `body_bytes` through but for its last `window_bytes`, which are held until it is complete and may
    be edited."""

    __slots__ = ("_edit", "_free_bytes", "_held")

    def __init__(self, body_bytes: int, window_bytes: int, edit: Callable[[bytes], bytes]) -> None:
        self._free_bytes = max(body_bytes - window_bytes, 0)
        self._edit = edit
        self._held: list[Buffer] = []

    def push(self, piece: Buffer) -> Buffer:
        """What of it may go on now, uncopied."""
        free_bytes = self._free_bytes
        if len(piece) <= free_bytes:
            self._free_bytes = free_bytes - len(piece)
            return piece
        self._free_bytes = 0
        view = memoryview(piece)
        self._held.append(view[free_bytes:])
        return view[:free_bytes]

    def finish(self) -> bytes:
        """The body is complete: its end, as `edit` gives it back."""
        return self._edit(b"".join(self._held))


def body_too_large(limit_bytes: int) -> DownstreamError:
    return DownstreamError("body_too_large", f"The request body may have {limit_bytes} bytes at most.")

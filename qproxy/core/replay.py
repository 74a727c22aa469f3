"""The request body as it arrived: the same bytes, kept as pieces, so that they can be sent, and sent again."""

from __future__ import annotations

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

    def put(self, piece: bytes) -> None:
        assert not self.sealed
        self.size += len(piece)
        if self.size > self._limit_bytes:
            raise body_too_large(self._limit_bytes)
        if piece:
            self.pieces.append(piece)

    def seal(self) -> list[bytes]:
        """The whole body. Nothing is added after this."""
        self.sealed = True
        return self.pieces


class SizeLimit:
    """For a body that is passed on and not kept. `count` raises DownstreamError `body_too_large`."""

    __slots__ = ("_left_bytes", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = self._left_bytes = limit_bytes

    def count(self, piece: bytes) -> None:
        self._left_bytes -= len(piece)
        if self._left_bytes < 0:
            raise body_too_large(self._limit_bytes)


def body_too_large(limit_bytes: int) -> DownstreamError:
    return DownstreamError("body_too_large", f"The request body may have {limit_bytes} bytes at most.")

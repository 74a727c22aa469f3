"""Request heads that came before, byte for byte but for their length.

A client on a kept connection sends the same head again and again; only Content-Length changes with the body. Parsing
and checking one costs 20 to 40 microseconds, finding it here three (`docs/explanation/performance.md`). A head is
remembered without its length line, and only where nothing else in it speaks of a body, so that what is found here is
what the parser would have said.
"""

from __future__ import annotations

import re

from qproxy.core.http1 import RequestHead, parse_request_head
from qproxy.core.limits import Limits

REMEMBERED = 512
REMEMBERED_BYTES = 4 * 1024  # of one head: an SDK's has 500 to 900

_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,18})(?=\r\n)")


class KnownHeads:
    """One server's memory. Full, it starts anew: what is in use comes back with the next request."""

    __slots__ = ("_heads", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heads: dict[bytes, RequestHead] = {}

    def parse(self, raw: bytes) -> RequestHead:
        """As `parse_request_head`."""
        line = _LENGTH_LINE.search(raw)
        rest = raw if line is None else raw[: line.start()] + raw[line.end() :]
        known = self._heads.get(rest)
        if known is None:
            head = parse_request_head(raw, self._limits)
            if head.content_length == (0 if line is None else int(line[1])):
                self._remember(rest, head)
            return head
        return known if line is None else known.with_length(int(line[1]))

    def _remember(self, rest: bytes, head: RequestHead) -> None:
        # A length in a spelling that is not cut out would hide a second one from the parser.
        if len(rest) > REMEMBERED_BYTES or b"content-length" in rest.lower():
            return
        if len(self._heads) >= REMEMBERED:
            self._heads.clear()
        self._heads[rest] = head.with_length(0)

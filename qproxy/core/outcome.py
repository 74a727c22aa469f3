"""What an upstream's answer means, before anything of it goes down.

Sources: `faults.md` U25, U30, U33; `qwen-wire.md` 6.5.
"""

from __future__ import annotations

from enum import Enum

from qproxy.core.http1 import ResponseHead
from qproxy.errors import UpstreamError


class Verdict(Enum):
    """What to do with an answer."""

    COMMIT = "pass it on as it is"
    WRAP = "keep its status, put our error envelope in place of a body that is no JSON"


def judge(head: ResponseHead) -> Verdict:
    """Raises UpstreamError `upstream_protocol_error` for an answer that must not reach the client."""
    status = head.status
    if 300 <= status < 400 and status != 304:
        raise UpstreamError(
            "upstream_protocol_error",
            f"The upstream answered with a redirect ({status}), which is not followed. Check its base URL.",
        )
    if status >= 500 and b"json" not in head.content_type:
        return Verdict.WRAP
    if status == 200 and head.content_type.startswith(b"text/html"):
        raise UpstreamError(
            "upstream_protocol_error",
            "The upstream answered with a web page. Check its base URL, or whether a gateway in front of it blocks us.",
        )
    return Verdict.COMMIT

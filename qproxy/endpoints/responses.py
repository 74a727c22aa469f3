"""`POST /v1/responses`, for upstreams that speak it."""

from __future__ import annotations

import re

from qproxy.core.route import BodyRule, ForwardEndpoint

_LAST_EVENT = re.compile(
    rb'(?:event:[ \t]*|"type"\s*:\s*")(?:response\.(?:completed|incomplete|failed|cancelled)|error)[\r\n"]'
)
# The last event repeats the whole answer, so its name may be far from the end; its usage, null before, is not.
_FINAL_USAGE = re.compile(rb'"usage"\s*:\s*\{')

RESPONSES = ForwardEndpoint(
    name="responses",
    path=b"/v1/responses",
    methods=(b"POST",),
    body=BodyRule.JSON,
    end_markers=(_LAST_EVENT, _FINAL_USAGE),
)

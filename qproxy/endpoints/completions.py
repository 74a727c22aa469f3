"""`POST /v1/completions`: text in, text out, among it fill-in-the-middle of coder models."""

from __future__ import annotations

from qproxy.core.route import BodyRule, ForwardEndpoint
from qproxy.core.sse import DONE_EVENT, ERROR_EVENT, FINISH_REASON

COMPLETIONS = ForwardEndpoint(
    name="completions",
    path=b"/v1/completions",
    methods=(b"POST",),
    body=BodyRule.JSON,
    end_markers=(DONE_EVENT, FINISH_REASON, ERROR_EVENT),
    hides_errors=True,
)

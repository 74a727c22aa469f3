"""`POST /v1/chat/completions`."""

from __future__ import annotations

from qproxy.core.route import BodyRule, ForwardEndpoint
from qproxy.core.sse import DONE_EVENT, ERROR_EVENT, FINISH_REASON

CHAT_COMPLETIONS = ForwardEndpoint(
    name="chat_completions",
    path=b"/v1/chat/completions",
    methods=(b"POST",),
    body=BodyRule.JSON,
    end_markers=(DONE_EVENT, FINISH_REASON, ERROR_EVENT),
    hides_errors=True,
)

"""`POST /v1/embeddings`."""

from __future__ import annotations

from qproxy.core.route import BodyRule, ForwardEndpoint

EMBEDDINGS = ForwardEndpoint(
    name="embeddings", path=b"/v1/embeddings", methods=(b"POST",), body=BodyRule.JSON, hides_errors=True
)

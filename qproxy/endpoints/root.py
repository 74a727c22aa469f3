"""`GET /`: what this server is, and where to go from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy import __version__
from qproxy.core.local import json_answer
from qproxy.core.route import LocalEndpoint

if TYPE_CHECKING:
    from qproxy.core.local import LocalAnswer, LocalRequest

_LINKS = {
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "models": "/v1/models",
    "health": "/health",
}


async def _root(request: LocalRequest) -> LocalAnswer:
    del request
    return json_answer({"name": "qproxy", "version": __version__, "links": _LINKS})


ROOT = LocalEndpoint("root", b"/", (b"GET",), needs_key=False, answer=_root)

"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from qproxy.core.catalogue import find, model_not_found, render, render_one
from qproxy.core.local import CONTENT_TYPE_JSON, LocalAnswer
from qproxy.core.route import LocalEndpoint

if TYPE_CHECKING:
    from qproxy.core.local import LocalRequest


async def _list(request: LocalRequest) -> LocalAnswer:
    entries = await request.services.catalogue.listing()
    return LocalAnswer(200, (CONTENT_TYPE_JSON,), render(entries))


async def _retrieve(request: LocalRequest) -> LocalAnswer:
    """Ids such as `kimi/kimi-k3` come as they are (curl) or percent-encoded (the SDKs)."""
    model = unquote_to_bytes(request.tail).decode("utf-8", "replace")
    entries = await request.services.catalogue.listing()
    entry = find(entries, model)
    if entry is None:
        raise model_not_found(entries, model)
    return LocalAnswer(200, (CONTENT_TYPE_JSON,), render_one(entry))


MODELS = LocalEndpoint("models", b"/v1/models", (b"GET",), needs_key=True, answer=_list)
MODEL = LocalEndpoint("model", b"/v1/models/*", (b"GET",), needs_key=True, answer=_retrieve)

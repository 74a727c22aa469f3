"""`qproxy check --chat`: one prompt straight to the upstream and once more through the proxy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qproxy import app
from qproxy.cli.chat import HTTP_ERRORS, Headers, Refused, Transcript, chat_body, stream_chat
from qproxy.cli.probe import Finding, http_url
from qproxy.core.upstream import BaseUrl

if TYPE_CHECKING:
    from qproxy.config import Settings

MODEL_MISSING = "no model to ask: set default_model (--default-model)"


async def compare(settings: Settings, name: str, prompt: str) -> list[Finding]:
    """Both answers' first token, length and end. The texts of a model may differ from one time to the next."""
    upstream = settings.upstreams[name].upstream
    credential = app.credentials_of(settings)[name].current()
    base = upstream.base or credential.base
    assert base is not None, "the upstream or its credential says where it is"
    async with app.running(_on_loopback(settings)) as proxy:
        model = settings.default_model or upstream.default_model or await _first_model(proxy.app, name)
        if not model:
            return [Finding("chat", "failed", MODEL_MISSING)]
        straight = _headers(credential.authorization)
        own_key = settings.api_keys[0].reveal().encode() if settings.api_keys else b""
        proxied_headers = _headers(b"Bearer " + own_key if own_key else b"")
        body = chat_body(model, prompt)
        return [
            await _ask(settings, "chat, straight", base, body, straight),
            await _ask(settings, "chat, proxied", BaseUrl.parse(f"{proxy.url}/v1"), body, proxied_headers),
        ]

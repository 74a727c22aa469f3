"""`qproxy check --chat`: one prompt straight to the upstream and once more through the proxy."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from qproxy import app
from qproxy.cli.chat import HTTP_ERRORS, Headers, Refused, Transcript, chat_body, stream_chat
from qproxy.cli.probe import Finding, base_of, http_url
from qproxy.core.upstream import BaseUrl
from qproxy.errors import QProxyError

if TYPE_CHECKING:
    from qproxy.config import Settings


async def compare(settings: Settings, name: str, prompt: str) -> list[Finding]:
    """Both answers' first token, length and end. The texts of a model may differ from one time to the next.

    Raises AccountError where the upstream has no credential.
    """
    upstream = settings.upstreams[name].upstream
    credential = app.credentials_of(settings)[name].current()
    base = base_of(upstream, credential)
    own_key = settings.api_keys[0].reveal().encode() if settings.api_keys else b"none"
    to_proxy: Headers = ((b"authorization", b"Bearer " + own_key), (b"x-qproxy-upstream", name.encode()))
    to_upstream: Headers = ((b"authorization", credential.authorization),) if credential.authorization else ()
    async with app.running(replace(settings, host="127.0.0.1", port=0, access_log="off")) as proxy:
        model = settings.default_model or upstream.default_model or await _first_model(proxy.app, name)
        if not model:
            return [Finding("chat", "failed", "there is no model to ask: set default_model (--default-model)")]
        body = chat_body(model, prompt)
        return [
            await _ask(settings, "chat, straight", base, body, (*upstream.headers, *to_upstream)),
            await _ask(settings, "chat, proxied", BaseUrl.parse(f"{proxy.url}/v1"), body, to_proxy),
        ]


async def _ask(settings: Settings, check: str, base: BaseUrl, body: bytes, headers: Headers) -> Finding:
    async with app.direct_client(settings, base) as client:
        try:
            return _judge(check, await stream_chat(client, http_url(base), body, headers))
        except Refused as exc:
            return Finding(check, "failed", f"refused: {exc}")
        except HTTP_ERRORS as exc:
            return Finding(check, "failed", f"broken off ({exc})")


def _judge(check: str, transcript: Transcript) -> Finding:
    if transcript.first_token_s is None:
        return Finding(check, "failed", "the answer had no text", transcript.total_s * 1000)
    detail = (
        f"first token after {transcript.first_token_s * 1000:.1f} ms, {len(transcript.text)} characters, "
        f"SHA-256 {hashlib.sha256(transcript.text.encode()).hexdigest()[:12]}"
    )
    if not transcript.finished:
        return Finding(check, "failed", f"{detail}; it broke off before its end", transcript.total_s * 1000)
    return Finding(check, "ok", detail, transcript.total_s * 1000)


async def _first_model(proxy: app.App, upstream: str) -> str:
    try:
        listing = await proxy.catalogue.listing()
    except QProxyError:
        return ""
    return next((entry.own_id for entry in listing if entry.upstream == upstream), "")

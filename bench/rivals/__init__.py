"""The table of rivals. A new one is a file beside this and a line here."""

from __future__ import annotations

from bench.rivals import aiohttp_relay, fastapi_relay, haproxy, litellm, nginx, portkey, qwen_proxy
from bench.rivals.base import Rival

RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        nginx.RIVAL,
        haproxy.RIVAL,
        aiohttp_relay.RIVAL,
        fastapi_relay.RIVAL,
        portkey.RIVAL,
        litellm.RIVAL,
        qwen_proxy.RIVAL,
    )
}
RELAYS = (aiohttp_relay.RIVAL.name, fastapi_relay.RIVAL.name)
# Proxies that do a part of the same job: qproxy has to be ahead of them in every row.
GATEWAYS = (portkey.RIVAL.name, litellm.RIVAL.name, qwen_proxy.RIVAL.name)
# As people write them.
LABELS = {
    aiohttp_relay.RIVAL.name: "aiohttp relay",
    fastapi_relay.RIVAL.name: "FastAPI + httpx",
    haproxy.RIVAL.name: "HAProxy",
    litellm.RIVAL.name: "LiteLLM",
    portkey.RIVAL.name: "Portkey",
}

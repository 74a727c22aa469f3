"""Which header fields may cross the proxy, in either direction, as tables.

Raw names keep the spelling they came with; the tables are keyed in lower case. A name that is in no table passes.
Sources: RFC 9110 7.6.1 (Connection, hop-by-hop), RFC 9112 6.1, `qwen-wire.md` 3.3 (what the upstream sets).
"""

from __future__ import annotations

from enum import Enum

RawHeaders = list[tuple[bytes, bytes]]
"""Ordered (name as it came, value) pairs."""


class Rule(Enum):
    """What happens to a field on its way through; a name without a rule passes untouched."""

    DROP = "drop"  # hop-by-hop, or never anyone else's business
    KEEP = "keep"  # the proxy reads it, then drops it
    SINGLE = "single"  # as KEEP, and a second one makes the message ambiguous


HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"http2-settings",
})  # fmt: skip

# What a peer that nobody vouched for says about who is behind it (RFC 7239 8.1).
FORWARDED = frozenset({
    b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port",
    b"x-forwarded-prefix", b"x-forwarded-server", b"x-real-ip", b"via",
})  # fmt: skip

_REQUEST_DROPPED = HOP_BY_HOP | FORWARDED | {b"cookie", b"cookie2", b"referer", b"alt-used"}

REQUEST_RULES: dict[bytes, Rule] = dict.fromkeys(_REQUEST_DROPPED, Rule.DROP) | {
    b"host": Rule.SINGLE,
    b"authorization": Rule.SINGLE,
    b"x-api-key": Rule.SINGLE,
    b"api-key": Rule.DROP,
    b"content-length": Rule.SINGLE,
    b"transfer-encoding": Rule.SINGLE,
    b"origin": Rule.SINGLE,
    b"user-agent": Rule.SINGLE,
    b"connection": Rule.KEEP,
    b"expect": Rule.KEEP,
    b"accept-encoding": Rule.KEEP,
    b"access-control-request-method": Rule.SINGLE,
    b"access-control-request-headers": Rule.KEEP,
    b"x-qproxy-upstream": Rule.SINGLE,
    b"x-qwen-account": Rule.SINGLE,
}

_RESPONSE_DROPPED = HOP_BY_HOP | {
    b"set-cookie", b"set-cookie2", b"alt-svc", b"x-accel-buffering", b"access-control-allow-origin",
    b"access-control-allow-credentials", b"access-control-allow-methods", b"access-control-allow-headers",
    b"access-control-expose-headers", b"access-control-max-age",
}  # fmt: skip

RESPONSE_RULES: dict[bytes, Rule] = dict.fromkeys(_RESPONSE_DROPPED, Rule.DROP) | {
    b"content-length": Rule.KEEP,
    b"transfer-encoding": Rule.KEEP,
    b"connection": Rule.KEEP,
    b"cache-control": Rule.KEEP,
}


def connection_options(value: bytes) -> frozenset[bytes]:
    """The lower-case options of a Connection field (RFC 9110 7.6.1)."""
    return frozenset(option for part in value.lower().split(b",") if (option := part.strip()))

"""Paths that are passed on and nothing else, one line each. A row without a star wins over one with it."""

from __future__ import annotations

from qproxy.core.route import BodyRule, ForwardEndpoint

_POST = (b"POST",)
_COLLECTION = (b"GET", b"POST")
_ANY = (b"GET", b"POST", b"DELETE")

FORWARDED_ONLY: tuple[ForwardEndpoint, ...] = (
    ForwardEndpoint("response", b"/v1/responses/*", _ANY, BodyRule.OPAQUE),
    ForwardEndpoint("rerank", b"/v1/rerank", _POST, BodyRule.JSON),
    ForwardEndpoint("reranks", b"/v1/reranks", _POST, BodyRule.JSON),
    ForwardEndpoint("files", b"/v1/files", _COLLECTION, BodyRule.OPAQUE),
    ForwardEndpoint("file", b"/v1/files/*", (b"GET", b"DELETE"), BodyRule.NONE),
    ForwardEndpoint("batches", b"/v1/batches", _COLLECTION, BodyRule.OPAQUE),
    ForwardEndpoint("batch", b"/v1/batches/*", _COLLECTION, BodyRule.OPAQUE),
    ForwardEndpoint("speech", b"/v1/audio/speech", _POST, BodyRule.JSON),
    ForwardEndpoint("audio", b"/v1/audio/*", _ANY, BodyRule.OPAQUE),
    ForwardEndpoint("image_generation", b"/v1/images/generations", _POST, BodyRule.JSON),
    ForwardEndpoint("images", b"/v1/images/*", _ANY, BodyRule.OPAQUE),
)

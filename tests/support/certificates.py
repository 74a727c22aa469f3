"""A certificate authority of the tests' own, and the contexts of both sides."""

from __future__ import annotations

import functools
import ssl

import trustme


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(*names: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """For a server of these names; `version` is the only one that it speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names).configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def client_context(*, trusting: bool = True) -> ssl.SSLContext:
    """For a client that knows the authority, or knows none at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusting:
        authority().configure_trust(context)
    return context

"""What the inner rooms need from the edge, as Protocols. `app.py` plugs the real things in."""

from __future__ import annotations

from typing import Protocol

from qproxy.core.upstream import Credential


class CredentialSource(Protocol):
    """Where an upstream's credential comes from."""

    def current(self) -> Credential:
        """The credential to use now. Raises AccountError `credentials_unavailable` with what to do about it."""
        ...

    def state(self) -> str:
        """One word or short phrase for people, without secrets: "key set", "no key", "expired", "valid 52 min"."""
        ...


class ModelLister(Protocol):
    """Asks one upstream for its models."""

    async def list_models(self, upstream: str) -> bytes:
        """The body of the upstream's `GET /models`. Raises QProxyError where it cannot be had."""
        ...

"""What the inner rooms need from the edge, as Protocols. `qproxy/app/` plugs the real things in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from qproxy.core.token_answer import TokenReply
from qproxy.core.upstream import Credential


class CredentialSource(Protocol):
    """Where an account's credential comes from."""

    def current(self) -> Credential:
        """The credential to use now, without waiting. Raises AccountError `credentials_unavailable` with what to do
        about it."""
        ...

    async def fresh(self) -> Credential:
        """The credential to use now; waits for a renewal where that is needed. Raises AccountError:
        `no_healthy_account` where waiting does not help."""
        ...

    async def refused(self, credential: Credential) -> Credential:
        """Another credential than this one, to which the API said 401. Raises AccountError where there is none."""
        ...

    def state(self) -> str:
        """One word or short phrase for people, without secrets: "key set", "no key", "expired", "valid 52 min"."""
        ...

    def since_s(self) -> float:
        """Since when this credential is there, in Unix seconds as far as known; 0.0 where it never changes."""
        ...

    def needs_login(self) -> bool:
        """Whether only a person who logs in again can help."""
        ...


class ModelLister(Protocol):
    """Asks one upstream for its models."""

    async def list_models(self, upstream: str) -> bytes:
        """The body of the upstream's `GET /models`. Raises QProxyError where it cannot be had."""
        ...


class TokenPoster(Protocol):
    """Asks the login's server for tokens."""

    async def post(self, form: Mapping[str, str]) -> TokenReply:
        """One form-encoded POST to the token endpoint, never repeated. Raises UpstreamError where no whole answer
        came."""
        ...

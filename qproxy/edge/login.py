"""One login by the device flow, from the first request to the tokens: who waits, and for what."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import anyio

from qproxy.core.device_flow import (
    VERIFIER_BYTES,
    DeviceFlow,
    OAuthClient,
    Pkce,
    Progress,
    device_form,
    parse_device_code,
    poll_form,
)
from qproxy.core.oauth import token_of
from qproxy.core.ports import TokenPoster
from qproxy.core.token_answer import Refusal, TokenReply, login_document, read_answer
from qproxy.edge.token_endpoint import TokenEndpoint
from qproxy.errors import QProxyError, UpstreamError


class LoginServer:
    """Where logins begin and where their tokens come from; `clock` is in seconds and only goes forward.

    Both endpoints are closed by `aclose`.
    """

    def __init__(
        self, client: OAuthClient, device_codes: TokenEndpoint, tokens: TokenEndpoint, clock: Callable[[], float]
    ) -> None:
        self.client = client
        self._device_codes = device_codes
        self.tokens = tokens
        self._clock = clock

    async def begin(self) -> PendingLogin:
        """Ask for a code that a user can approve. Raises UpstreamError."""
        pkce = Pkce.of(secrets.token_bytes(VERIFIER_BYTES))
        reply = await self._device_codes.post(device_form(self.client, pkce))
        return PendingLogin(self.client, self.tokens, self._clock, pkce, reply)

    async def aclose(self) -> None:
        await self._device_codes.aclose()
        await self.tokens.aclose()


class PendingLogin:
    """A login that waits for its user. The verifier never leaves it. Raises UpstreamError where `reply` begins none."""

    def __init__(
        self,
        client: OAuthClient,
        tokens: TokenPoster,
        clock: Callable[[], float],
        pkce: Pkce,
        reply: TokenReply,
    ) -> None:
        self.code = parse_device_code(reply)
        self._form = poll_form(client, pkce, self.code.device_code)
        self._tokens = tokens
        self._clock = clock
        self._flow = DeviceFlow(self.code, clock())

    @property
    def interval_s(self) -> float:
        """The time between two polls, as it stands."""
        return self._flow.interval_s

    def left_s(self) -> float:
        """How long the code can still be used."""
        return self._flow.left_s(self._clock())

    async def finish(self, tell: Callable[[Progress], None]) -> Progress:
        """Poll until the login has ended in one way or another, and `tell` every step before that end."""
        await anyio.sleep(min(self.interval_s, self.left_s()))
        while True:
            progress = await self._poll()
            if not progress.state.is_open:
                return progress
            tell(progress)
            await anyio.sleep(progress.wait_s)

    async def _poll(self) -> Progress:
        try:
            reply = await self._tokens.post(self._form)
        except QProxyError as exc:
            return self._flow.lost(exc.message, self._clock())
        return self._flow.judge(reply, self._clock())


def new_login(reply: TokenReply, now_s: float, allowed_hosts: tuple[str, ...]) -> dict[str, object]:
    """The credentials document of a finished login; `now_s` is Unix time.

    Raises UpstreamError where the answer is not one to rely on, so that nothing of it is kept.
    """
    answer = read_answer(reply)
    if isinstance(answer, Refusal):
        raise _unusable(answer.reason)
    document = login_document(answer, now_s, {})
    try:
        base = token_of(document, allowed_hosts).base
    except ValueError as exc:
        raise _unusable(str(exc)) from exc
    if base.scheme != "https":
        raise _unusable("resource_url is not https")
    return document


def _unusable(reason: str) -> UpstreamError:
    return UpstreamError("upstream_protocol_error", f"The login cannot be used: {reason}.")

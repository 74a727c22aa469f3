"""The device flow (RFC 8628) with PKCE (RFC 7636): what is sent, and what each answer means for the login.

Nothing here waits. `DeviceFlow` takes the answers of the token endpoint one by one and says how the login stands and
how long to wait before the next poll. Odd answers of the login's server: `qwen-wire.md` 1.2 to 1.4.
"""

from __future__ import annotations

import base64
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson

from qproxy.core.oauth import is_loopback_host
from qproxy.core.token_answer import TokenReply
from qproxy.errors import UpstreamError

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
VERIFIER_BYTES = 32
DEFAULT_INTERVAL_S = 5.0  # RFC 8628 3.2
SLOW_DOWN_S = 5.0  # RFC 8628 3.5
LONGEST_PAUSE_S = 30.0
DEFAULT_LIFETIME_S = 600.0
LONGEST_S = 86_400.0
SHOWN_CHARACTERS = 200
MAX_CODE_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """Who we are at the login's server. A public client has no secret."""

    client_id: str
    scope: str
    client_secret: str = field(default="", repr=False)

    def fields(self) -> dict[str, str]:
        """The form fields that identify the client."""
        fields = {"client_id": self.client_id}
        if self.client_secret:
            fields["client_secret"] = self.client_secret
        return fields


@dataclass(frozen=True, slots=True)
class Pkce:
    """The verifier stays here until the token is asked for; the challenge, its hash, begins the login."""

    verifier: str = field(repr=False)
    challenge: str

    @classmethod
    def of(cls, random_bytes: bytes) -> Pkce:
        """Method S256. `random_bytes` are `VERIFIER_BYTES` that nobody can guess."""
        assert len(random_bytes) == VERIFIER_BYTES
        verifier = _base64url(random_bytes)
        return cls(verifier, _base64url(hashlib.sha256(verifier.encode()).digest()))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def device_form(client: OAuthClient, pkce: Pkce) -> dict[str, str]:
    """The form that begins a login."""
    challenge = {"code_challenge": pkce.challenge, "code_challenge_method": "S256"}
    return {**client.fields(), "scope": client.scope, **challenge}


def poll_form(client: OAuthClient, pkce: Pkce, device_code: str) -> dict[str, str]:
    """The form that asks whether the login is done."""
    return {"grant_type": GRANT, **client.fields(), "device_code": device_code, "code_verifier": pkce.verifier}


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A login that waits for its user: the page to open and the code to compare or enter there.

    `page` has the code in it where the server offers that, else it is `bare_page`. Times are in seconds.
    """

    device_code: str = field(repr=False)
    user_code: str
    bare_page: str
    page: str
    expires_in_s: float
    interval_s: float


def parse_device_code(reply: TokenReply) -> DeviceCode:
    """Raises UpstreamError where the answer begins no login. Its status says nothing: a refusal may come with 200."""
    document = _object(reply.body)
    if document is None:
        raise _no_login(f"it answered {reply.status} without JSON")
    device_code = _text(document, "device_code")
    if not device_code or len(device_code) > MAX_CODE_LENGTH:
        raise _no_login(_said(document, reply.status))
    page = _text(document, "verification_uri_complete")
    bare_page = _text(document, "verification_uri") or page
    if not _is_page(bare_page) or not _is_page(page or bare_page):
        raise _no_login("the page to open is no https address")
    return DeviceCode(
        device_code,
        _shown(_text(document, "user_code")),
        bare_page,
        page or bare_page,
        _seconds(document.get("expires_in"), DEFAULT_LIFETIME_S),
        _seconds(document.get("interval"), DEFAULT_INTERVAL_S),
    )


class LoginState(enum.Enum):
    """How a login stands. The values are those of the admin endpoint."""

    PENDING = "pending"
    SLOW_DOWN = "slow_down"
    DONE = "done"
    DENIED = "denied"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def is_open(self) -> bool:
        """Whether polling goes on."""
        return self in (LoginState.PENDING, LoginState.SLOW_DOWN)


@dataclass(frozen=True, slots=True)
class Progress:
    """How the login stands after an answer.

    `wait_s` is the time to the next poll, 0 at an end. `note` is for people: what was odd about the answer, or why the
    login failed. `reply` is the answer with the tokens where the login is done.
    """

    state: LoginState
    wait_s: float = 0.0
    note: str = ""
    reply: TokenReply | None = None


_ENDS = {
    "expired_token": LoginState.EXPIRED,
    "access_denied": LoginState.DENIED,
}
_PASSING = frozenset({"server_error", "temporarily_unavailable"})
_NOT_THERE = (404, 405)


class DeviceFlow:
    """One login from its device code to its end. `now_s` is any clock that only goes forward, in seconds."""

    def __init__(self, code: DeviceCode, now_s: float) -> None:
        self.interval_s = code.interval_s
        self._expires_s = now_s + code.expires_in_s
        self._losses = 0

    def left_s(self, now_s: float) -> float:
        """How long the code can still be used."""
        return max(0.0, self._expires_s - now_s)

    def judge(self, reply: TokenReply, now_s: float) -> Progress:
        """What an answer of the token endpoint means. The token's presence is the success, whatever the status."""
        self._losses = 0
        document = _object(reply.body)
        if document is None:
            return self._judge_foreign(reply.status, now_s)
        if _text(document, "access_token"):
            return Progress(LoginState.DONE, reply=reply)
        error = _text(document, "error")
        if error in _ENDS:
            return Progress(_ENDS[error])
        if error == "authorization_pending":
            return self._goes_on(now_s)
        if error == "slow_down" or reply.status == 429:
            return self._slower(now_s)
        if reply.status == 401:
            return Progress(LoginState.EXPIRED)  # the server no longer knows the code
        if error in _PASSING or reply.status >= 500 or (reply.status == 200 and not error):
            return self._goes_on(now_s, f"The login server answered {_said(document, reply.status)}; still trying.")
        return Progress(LoginState.FAILED, note=f"The login server answered {_said(document, reply.status)}.")

    def lost(self, reason: str, now_s: float) -> Progress:
        """No answer came. Each loss in a row doubles the pause (RFC 8628 3.5)."""
        self._losses += 1
        pause_s = min(self.interval_s * 2**self._losses, max(LONGEST_PAUSE_S, self.interval_s))
        return self._goes_on(now_s, f"{reason} Still trying.", pause_s)

    def _judge_foreign(self, status: int, now_s: float) -> Progress:
        """Something in between answered: a gateway, a firewall, the page of a hotel's network."""
        if status in _NOT_THERE:
            return Progress(LoginState.FAILED, note=f"There is no token endpoint at this address ({status}).")
        if status == 429:
            return self._slower(now_s)
        return self._goes_on(now_s, f"Not the login server but something before it answered ({status}); still trying.")

    def _slower(self, now_s: float) -> Progress:
        self.interval_s += SLOW_DOWN_S
        progress = self._goes_on(now_s)
        return Progress(LoginState.SLOW_DOWN, progress.wait_s) if progress.state.is_open else progress

    def _goes_on(self, now_s: float, note: str = "", pause_s: float | None = None) -> Progress:
        left_s = self.left_s(now_s)
        if not left_s:
            return Progress(LoginState.EXPIRED)
        return Progress(LoginState.PENDING, min(pause_s or self.interval_s, left_s), note)


def _object(body: bytes) -> Mapping[str, object] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _text(document: Mapping[str, object], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _seconds(value: object, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return default
    return float(min(value, LONGEST_S))


def _said(document: Mapping[str, object], status: int) -> str:
    """The server's own words, fit for a terminal."""
    words = [_text(document, name) for name in ("error", "error_description")]
    return _shown(": ".join(word for word in words if word)) or str(status)


def _shown(text: str) -> str:
    """Without what could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text[:SHOWN_CHARACTERS])


def _is_page(url: str) -> bool:
    """Whether a browser may be sent there: https, or http to this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or not all("!" <= character <= "~" for character in url):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(host))


def _no_login(reason: str) -> UpstreamError:
    return UpstreamError("upstream_protocol_error", f"The login server began no login: {reason}.")

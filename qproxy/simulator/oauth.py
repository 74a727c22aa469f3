"""The login side of chat.qwen.ai: device flow with PKCE, single-use refresh tokens.

`POST /api/v1/oauth2/device/code`, `POST /api/v1/oauth2/token`, `GET /authorize?user_code=...`. Faults of these paths
come from the scenario table: `Simulator.fail_next("oauth-slow-down", path="/oauth2/token")`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from qproxy.simulator.answers import HTML, Answer, Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.simulator.call import Call
    from qproxy.simulator.options import Options
    from qproxy.simulator.request import JsonObject

GRANT_PATH = "/api/v1/oauth2/token"
ACCESS_PREFIX = "sim-access-"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(frozen=True, slots=True)
class Login:
    """One pair of tokens. `account` names the user; it stays the same over refreshes."""

    account: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: float

    def credentials(self, resource_url: str, lifetime_s: float = 3600) -> JsonObject:
        """The content of an `oauth_creds.json`, its five keys; a negative lifetime makes one that has expired."""
        return {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": "Bearer",
            "resource_url": resource_url,
            "expiry_date": int((time.time() + lifetime_s) * 1000),
        }


@dataclass(slots=True)
class Device:
    """One login that waits for its user. `account` is set once somebody approved."""

    user_code: str
    challenge: str
    expires_at: float
    account: str = ""
    denied: bool = False


class OAuth:
    """The state of all logins. `now` is the loop's clock; tests move it with `expire` in place of waiting.

    `token_posts` counts every request to the token endpoint, scripted failures included; `refreshes` those that gave
    a new pair. `answer_fields`
    changes successful token answers: a value replaces a field, None removes it.
    """

    def __init__(self, options: Options, url: str) -> None:
        self.token_posts = 0
        self.refreshes = 0
        self.answer_fields: dict[str, object] = {}
        self._options = options
        self._url = url
        self._devices: dict[str, Device] = {}
        self._by_access: dict[str, Login] = {}
        self._by_refresh: dict[str, Login] = {}
        self._dead: set[str] = set()

    # For tests.

    def login(self, account: str, now: float) -> Login:
        """A pair of tokens without the device flow."""
        login = Login(
            account,
            ACCESS_PREFIX + secrets.token_urlsafe(18),
            "sim-refresh-" + secrets.token_urlsafe(18),
            now + self._options.token_lifetime_s,
        )
        self._by_access[login.access_token] = self._by_refresh[login.refresh_token] = login
        return login

    def expire(self, access_token: str) -> None:
        """The API refuses this token from now on."""
        self._dead.add(access_token)

    def revoke(self, account: str) -> None:
        """Every token of the account is dead: only a new login helps."""
        for login in [login for login in self._by_access.values() if login.account == account]:
            self._dead.add(login.access_token)
            self._by_refresh.pop(login.refresh_token, None)

    def approve(self, user_code: str, account: str = "user") -> bool:
        """What the user's click does; False where no login waits under this code."""
        device = self._waiting(user_code)
        if device is not None:
            device.account = account
        return device is not None

    def deny(self, user_code: str) -> bool:
        """The user's other click."""
        device = self._waiting(user_code)
        if device is not None:
            device.denied = True
        return device is not None

    # For the API.

    def account_of(self, bearer: str) -> str:
        """Whose token it is; empty for what is no token of ours."""
        login = self._by_access.get(bearer)
        return login.account if login else ""

    def accepts(self, bearer: str, now: float) -> bool:
        """Whether an access token is alive."""
        login = self._by_access.get(bearer)
        return login is not None and bearer not in self._dead and now < login.expires_at

    # For the login paths.

    def device_code(self, form: Mapping[str, str], now: float) -> Reply:
        """Begins a login."""
        if form.get("client_id") != self._options.client_id:
            return _error("invalid_client", "The client is unknown.")
        if form.get("code_challenge_method") != "S256" or not form.get("code_challenge"):
            return _error("invalid_request", "code_challenge with code_challenge_method S256 is required.")
        code, user_code = secrets.token_urlsafe(24), secrets.token_hex(4).upper()
        lifetime_s = self._options.device_lifetime_s
        self._devices[code] = Device(user_code, form["code_challenge"], now + lifetime_s)
        page = f"{self._url}/authorize"
        return json_reply(
            {
                "device_code": code,
                "user_code": user_code,
                "verification_uri": page,
                "verification_uri_complete": f"{page}?user_code={user_code}&client=qwen-code",
                "expires_in": lifetime_s,
                "interval": self._options.poll_interval_s,
            }
        )

    def token(self, form: Mapping[str, str], now: float) -> Reply:
        """Poll and refresh."""
        if form.get("client_id") != self._options.client_id:
            return _error("invalid_client", "The client is unknown.")
        if form.get("grant_type") == DEVICE_GRANT:
            return self._poll(form, now)
        if form.get("grant_type") == "refresh_token":
            return self._refresh(form.get("refresh_token", ""), now)
        return _error("unsupported_grant_type", "The grant type is not supported.")

    def _poll(self, form: Mapping[str, str], now: float) -> Reply:
        code = form.get("device_code", "")
        device = self._devices.get(code)
        if device is None:
            return _error("invalid_request", "The device code is invalid.", 401)
        if now >= device.expires_at:
            return _error("expired_token", "The device code has expired.")
        if challenge_of(form.get("code_verifier", "")) != device.challenge:
            return _error("invalid_grant", "The code verifier does not match the challenge.")
        if device.denied:
            return _error("access_denied", "The user denied the request.")
        if not device.account:
            return _error("authorization_pending", "The user has not approved yet.")
        del self._devices[code]
        return self._granted(self.login(device.account, now))

    def _refresh(self, refresh_token: str, now: float) -> Reply:
        """A refresh token works once; whoever comes with a spent one is told `invalid_grant`."""
        login = self._by_refresh.pop(refresh_token, None)
        if login is None:
            return _error("invalid_grant", "The refresh token is invalid or was used before.")
        self.refreshes += 1
        if "refresh_token" in self.answer_fields:
            self._by_refresh[refresh_token] = login
        return self._granted(self.login(login.account, now))

    def _granted(self, login: Login) -> Reply:
        answer: JsonObject = {
            "access_token": login.access_token,
            "refresh_token": login.refresh_token,
            "token_type": "Bearer",
            "expires_in": self._options.token_lifetime_s,
            "scope": "openid profile email model.completion",
            "resource_url": self._options.resource_url or None,
            **self.answer_fields,
        }
        return json_reply({name: value for name, value in answer.items() if value is not None})

    def _waiting(self, user_code: str) -> Device | None:
        return next((device for device in self._devices.values() if device.user_code == user_code), None)


def challenge_of(verifier: str) -> str:
    """PKCE S256."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def device_code(call: Call) -> Answer:
    """`POST /api/v1/oauth2/device/code`, form-encoded."""
    return call.oauth.device_code(_form(call), call.now)


def token(call: Call) -> Answer:
    """`POST /api/v1/oauth2/token`, form-encoded."""
    return call.oauth.token(_form(call), call.now)


def authorize(call: Call) -> Answer:
    """`GET /authorize?user_code=...`: opening the page is the approval."""
    if call.oauth.approve(call.request.head.query.get("user_code", "")):
        return Reply(200, b"<html><body><h1>Approved</h1>You may close this page.</body></html>", HTML)
    return Reply(404, b"<html><body><h1>No login waits under this code</h1></body></html>", HTML)


def _form(call: Call) -> dict[str, str]:
    if not call.request.header("content-type").startswith("application/x-www-form-urlencoded"):
        return {}
    return dict(parse_qsl(call.request.body.decode("latin-1"), keep_blank_values=True))


def _error(code: str, description: str, status: int = 400) -> Reply:
    return json_reply({"error": code, "error_description": description}, status)

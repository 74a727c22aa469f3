"""The login of the Qwen CLI as bytes and rules: what its credentials file holds and where its token may be sent.

The file is written by another program and read while that program writes it, so every field is checked before use.
`resource_url` decides which host gets the token: it is normalised (`qwen-wire.md` 3.1) and held against a list of exact
hosts, because whoever can change that one string would otherwise be sent the token.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from qproxy.core.jsonscan import can_be_written
from qproxy.core.upstream import BaseUrl

DEFAULT_ACCOUNT = "default"  # the login that the CLI knows too
DEFAULT_RESOURCE = "portal.qwen.ai"  # without resource_url; a DashScope host refuses OAuth tokens
EXPIRY_MARGIN_MS = 30_000  # the CLI itself stops using a token this long before its end
MAX_TOKEN_LENGTH = 16 * 1024  # no request head has room for more

TOKEN_HOSTS = (
    "portal.qwen.ai",
    "dashscope.aliyuncs.com",
    "dashscope-intl.aliyuncs.com",
    "dashscope-us.aliyuncs.com",
    "*.maas.aliyuncs.com",
)
"""Hosts that may get a token: exact names, or any name below a `*.` suffix."""

FREE_TIER_ENDED = (
    "The free tier behind this login ended on 2026-04-15: use a DashScope key (DASHSCOPE_API_KEY), a Token Plan key "
    "(BAILIAN_TOKEN_PLAN_API_KEY), a Coding Plan key (BAILIAN_CODING_PLAN_API_KEY) or a server of your own instead."
)
LOG_IN = (
    "Log in with `qproxy auth login` or with the official Qwen Code CLI; the new login is picked up without a restart."
)
NOT_LOGGED_IN = f"There is no Qwen login to use. {LOG_IN} {FREE_TIER_ENDED}"
LOGIN_EXPIRED = f"The Qwen login has expired. {LOG_IN} {FREE_TIER_ENDED}"
LOGIN_ENDED = f"The Qwen login has ended: its server does not renew it any more. {LOG_IN} {FREE_TIER_ENDED}"
TOKEN_REFUSED = f"The Qwen API refuses the login although it is new. {FREE_TIER_ENDED}"


def unusable_login(reason: str) -> str:
    """The message for a credentials file that is there but cannot be used."""
    return f"The Qwen login cannot be used: {reason}. {LOG_IN} {FREE_TIER_ENDED}"


def login_command(account: str) -> str:
    """What a person types to log this account in again."""
    return "qproxy auth login" if account == DEFAULT_ACCOUNT else f"qproxy auth login --account {account}"


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """What one version of the credentials file says. `expires_ms` is Unix time in milliseconds.

    `document` is all of it, with the keys that only other programs know.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_ms: float
    base: BaseUrl
    document: Mapping[str, object] = field(repr=False, compare=False, default_factory=dict)

    def is_valid_at(self, now_ms: float) -> bool:
        """Whether the token may still be used: not within the last 30 s of its life."""
        return now_ms < self.expires_ms - EXPIRY_MARGIN_MS


def parse_token_file(data: bytes, extra_hosts: tuple[str, ...] = ()) -> OAuthToken:
    """The token in the bytes of `oauth_creds.json`.

    Raises ValueError whose text is a reason for people ("the file is empty"), never a part of the file. A half-written
    file is an error like any other: the caller keeps what it had.
    """
    return token_of(json_object(data), extra_hosts)


def token_of(document: Mapping[str, object], extra_hosts: tuple[str, ...] = ()) -> OAuthToken:
    """The token that a credentials document describes. Raises ValueError like `parse_token_file`."""
    expires_ms = document.get("expiry_date")
    if isinstance(expires_ms, bool) or not isinstance(expires_ms, int | float) or not expires_ms > 0:
        raise ValueError("expiry_date is not a time in milliseconds")
    token_type = _optional_text(document, "token_type") or "Bearer"
    if token_type.lower() != "bearer":
        raise ValueError("token_type is not Bearer")
    return OAuthToken(
        access_token=_access_token(document),
        refresh_token=_optional_text(document, "refresh_token") or None,
        expires_ms=expires_ms,
        base=base_from_resource_url(_optional_text(document, "resource_url"), extra_hosts),
        document=document,
    )


def json_object(data: bytes) -> dict[str, object]:
    """The object in a file's bytes. Raises ValueError with a reason for people."""
    if not data.strip():
        raise ValueError("the file is empty")
    if data.startswith(b"\xef\xbb\xbf"):
        raise ValueError("the file starts with a byte order mark")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise ValueError(f"the file is not JSON (line {exc.lineno}, column {exc.colno})") from None
    if not can_be_written(document):  # a renewed login is written back with all that stood beside it
        raise ValueError("the file nests too deep")
    if isinstance(document, dict):
        return document
    raise ValueError("the file holds no JSON object")


def base_from_resource_url(resource_url: str | None, extra_hosts: tuple[str, ...] = ()) -> BaseUrl:
    """Where the API of a token is. Raises ValueError with the reason where the token must not be sent there.

    A missing scheme is https, a missing `/v1` is added, trailing slashes go. Only https to a listed host is accepted,
    or plain http to this machine.
    """
    url = (resource_url or "").strip() or DEFAULT_RESOURCE
    if not url.isascii() or "\\" in url:
        raise ValueError("resource_url is not a plain URL")
    if "://" not in url:
        url = f"https://{url}"
    url = url.rstrip("/")
    if not url.lower().endswith("/v1"):
        url = f"{url}/v1"
    try:
        base = BaseUrl.parse(url)
    except ValueError as exc:
        raise ValueError(f"resource_url is not usable: {exc}") from exc
    if not may_get_token(base, extra_hosts):
        raise ValueError("resource_url names a host that is not on the list of hosts that may get a token")
    return base


def may_get_token(base: BaseUrl, extra_hosts: tuple[str, ...] = ()) -> bool:
    """Whether an account's token may be sent to `base`; `extra_hosts` are written like `TOKEN_HOSTS`."""
    if base.socket_path is not None:
        return False
    if base.scheme == "http":
        return is_loopback_host(base.host)
    return any(_host_matches(base.host, allowed) for allowed in (*TOKEN_HOSTS, *extra_hosts))


def is_loopback_host(host: str) -> bool:
    """Whether `host` (a name or an address without brackets) can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:]) and len(host) > len(allowed[1:])
    return host == allowed


def is_sendable(token: str) -> bool:
    """Whether a token can stand in a header."""
    return 0 < len(token) <= MAX_TOKEN_LENGTH and all("!" <= character <= "~" for character in token)


def _access_token(document: Mapping[str, object]) -> str:
    token = _optional_text(document, "access_token")
    if not token:
        raise ValueError("access_token is missing")
    if not is_sendable(token):
        raise ValueError("access_token cannot be sent in a header")
    return token


def _optional_text(document: Mapping[str, object], name: str) -> str | None:
    value = document.get(name)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"{name} is not text")

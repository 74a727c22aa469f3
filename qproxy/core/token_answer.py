"""What is said to a token endpoint to renew a login, and what its answer means (`qwen-wire.md` 1.4, 1.5).

Success is the presence of an access token, never the status: gateways answer 200 with errors, and errors with pages.
Whatever the answer leaves out is kept from the login before it: some answers have no `refresh_token`, some have no
`resource_url`.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from qproxy.core.oauth import is_sendable

SHORTEST_LIFE_S = 60.0
LONGEST_LIFE_S = 86_400.0
USUAL_LIFE_S = 3600.0  # where the answer does not say
SKEW_S = 30.0  # clocks may differ by this much: a token is left alone in its last 30 s anyway

_PLAIN_CODE = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class TokenReply:
    """One answer of a token endpoint, whatever its status. `date_s` is its Date header as Unix seconds, if it had one.

    The body holds tokens: it stays out of the repr.
    """

    status: int
    date_s: float | None
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """New tokens. None: the answer did not say. `resource_url` is as it came and still to be checked."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    resource_url: str | None
    lifetime_s: float


class Denial(enum.Enum):
    """What an answer without tokens means for the login."""

    FINAL = "only a new login helps"
    PASSING = "try again later"


@dataclass(frozen=True, slots=True)
class Refusal:
    """No new tokens. `reason` is for people."""

    denial: Denial
    reason: str


_FINAL_STATUSES = (400, 401)
_FINAL_CODE = "invalid_grant"  # whatever the status
_PASSING_CODES = frozenset({"slow_down", "temporarily_unavailable", "server_error", "authorization_pending"})


def refresh_form(client: Mapping[str, str], refresh_token: str) -> dict[str, str]:
    """The form that asks for new tokens. `client` are the fields that say who we are."""
    return {"grant_type": "refresh_token", "refresh_token": refresh_token, **client}


def read_answer(reply: TokenReply) -> Grant | Refusal:
    """What the answer gives, or why it gives nothing."""
    document = _object(reply.body)
    if document is None:
        return Refusal(Denial.PASSING, f"the login server answered {reply.status} with something that is no answer")
    token = document.get("access_token")
    if isinstance(token, str) and is_sendable(token):
        return Grant(
            access_token=token,
            refresh_token=_text(document, "refresh_token"),
            resource_url=_text(document, "resource_url") or _text(document, "endpoint"),
            lifetime_s=lifetime_s(document.get("expires_in")),
        )
    code = _code(document)
    final = code == _FINAL_CODE or (reply.status in _FINAL_STATUSES and code not in _PASSING_CODES)
    return Refusal(
        Denial.FINAL if final else Denial.PASSING, f"the login server answered {reply.status} {code}".strip()
    )


def lifetime_s(expires_in: object) -> float:
    """Seconds that a token lives, from what the answer says of it: 60 s to 24 h, an hour where that is no number."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float | str):
        return USUAL_LIFE_S
    try:
        stated_s = float(expires_in)
    except (ValueError, OverflowError):
        return USUAL_LIFE_S
    return USUAL_LIFE_S if math.isnan(stated_s) else min(max(stated_s, SHORTEST_LIFE_S), LONGEST_LIFE_S)


def skew_s(date_s: float | None, now_s: float) -> float:
    """How far the server's clock is ahead of ours, 0.0 where that does not matter or is not known."""
    if date_s is None or date_s <= 0 or abs(date_s - now_s) <= SKEW_S:
        return 0.0
    return date_s - now_s


def login_document(grant: Grant, now_s: float, before: Mapping[str, object]) -> dict[str, object]:
    """A credentials document with the new tokens; everything else is as in the one `before`, which may be empty.
    `resource_url` is taken over unchecked.
    """
    document = {
        **before,
        "access_token": grant.access_token,
        "refresh_token": grant.refresh_token or before.get("refresh_token"),
        "token_type": before.get("token_type") or "Bearer",  # without it the CLI takes the file for none
        "resource_url": grant.resource_url or before.get("resource_url"),
        "expiry_date": int((now_s + grant.lifetime_s) * 1000),
    }
    return {name: value for name, value in document.items() if value is not None or name in before}


def _object(body: bytes) -> Mapping[str, object] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _text(document: Mapping[str, object], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) and value else None


def _code(document: Mapping[str, object]) -> str:
    """The server's own word for it, where that is a plain one. Descriptions stay out: nobody knows what they hold."""
    code = _text(document, "error") or ""
    return code if _PLAIN_CODE.fullmatch(code) else ""

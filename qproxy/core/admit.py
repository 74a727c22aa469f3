"""Who may talk to this server: client keys, or without them hosts and origins that no web page can forge; CORS.

Without a key a browser on the same machine is the danger: a page may send requests to loopback (its Origin tells), or
have its own name resolve to it (DNS rebinding: the Host tells). Rules: `decisions.md`, "Who may talk to us"; WHATWG
Fetch 3.2 for CORS.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Protocol

from qproxy.core.headers import RawHeaders
from qproxy.core.local import LocalAnswer
from qproxy.errors import DownstreamError

if TYPE_CHECKING:
    from collections.abc import Iterable

Fields = tuple[tuple[bytes, bytes], ...]

PREFLIGHT_MAX_AGE_S = 7200  # the most that Chromium keeps
REMEMBERED_HOSTS = 256

_ALLOWED_METHODS = b"GET, HEAD, POST, DELETE"
_EXPOSED_HEADERS = b"retry-after, x-request-id, x-should-retry"
_ALLOWED_HEADER = re.compile(
    rb"accept|authorization|cache-control|content-type|idempotency-key|user-agent|x-api-key|x-qproxy-upstream"
    rb"|(?:openai|x-dashscope|x-request|x-stainless)-[a-z0-9-]+"
)
_BARE_NAME = re.compile(rb"[a-z0-9_-]+")
_AUTHORITY = re.compile(rb"(\[[0-9a-f:.]+\]|[^\[\]:/?#@]+)(?::[0-9]*)?")
_ORIGIN = re.compile(rb"[a-z][a-z0-9+.-]*://(" + _AUTHORITY.pattern + rb")")
_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9!#$&^_.+-]+\+)?json[ \t]*(?:;.*)?", re.IGNORECASE)
_OWN_SITES = (b"none", b"same-origin")
_SEND_KEY = "Send one of this server's keys as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'."


class RequestFacts(Protocol):
    """The part of a request head that admission looks at: field values, None where a field is absent.

    `host` is the authority the client believes it is talking to: the Host field, or that of an absolute-form target.
    `request_method` and `request_headers` are the Access-Control-Request fields of a preflight.
    """

    @property
    def host(self) -> bytes | None: ...
    @property
    def authorization(self) -> bytes | None: ...
    @property
    def x_api_key(self) -> bytes | None: ...
    @property
    def origin(self) -> bytes | None: ...
    @property
    def request_method(self) -> bytes | None: ...
    @property
    def request_headers(self) -> bytes | None: ...


class AdminFacts(RequestFacts, Protocol):
    """What admission looks at as well where a request is for an administrator.

    `is_forwarded`: a field says that somebody else stands behind the peer. `passed` are the fields without a rule.
    """

    @property
    def is_forwarded(self) -> bool: ...
    @property
    def passed(self) -> RawHeaders: ...


class Gate:
    """Admission by the settings of one server.

    `keys` and `admin_key` are opaque. `allowed_hosts` are names, or names with a port. `cors_origins` are origins such
    as `https://app.example`, or `*` for all. Raises ValueError for an empty key, which any request would match.
    """

    def __init__(
        self,
        keys: Iterable[bytes],
        allowed_hosts: Iterable[str],
        cors_origins: Iterable[str],
        admin_key: bytes | None = None,
    ) -> None:
        keys = tuple(keys)
        if not all(keys) or admin_key == b"":
            raise ValueError("a key must not be empty")
        self._key_digests = tuple(map(_digest, keys))
        self._admin_digests = () if admin_key is None else (_digest(admin_key),)
        self._allowed_hosts = frozenset(host.lower().encode() for host in allowed_hosts)
        self._cors_origins = frozenset(origin.encode() for origin in cors_origins)
        self._known_hosts: dict[bytes, None] = {}

    def check(self, facts: RequestFacts, *, needs_key: bool) -> int | None:
        """Let a request in, or raise DownstreamError `invalid_api_key`, `host_not_allowed`, `origin_not_allowed`.

        `needs_key` is the endpoint's: where keys are configured, those without the need are open to all. Returns the
        place of the client's key among the keys; None where none was looked at.
        """
        if not self._key_digests:
            self._check_host(facts.host)
            if facts.origin is not None:
                self._check_origin(facts.origin, facts.host)
            return None
        return _check_key(facts, self._key_digests) if needs_key else None

    def check_admin(self, facts: AdminFacts, peer: str) -> None:
        """Let a request of the administrator's in: with the admin key, or without one from this machine, not through
        another proxy and not from a web page. `peer` is an address.

        Raises DownstreamError `invalid_api_key`, `admin_not_allowed`.
        """
        if self._admin_digests:
            _check_key(facts, self._admin_digests)
        elif not _is_from_here(facts, peer):
            message = (
                "Without an admin key this path answers to this machine alone: set one with --admin-key or "
                "QPROXY_ADMIN_KEY, and send it as 'Authorization: Bearer <key>'."
            )
            raise DownstreamError("admin_not_allowed", message)

    def cors_headers(self, origin: bytes | None) -> Fields:
        """The CORS fields of an answer to `origin`; none where no origin is allowed."""
        if not self._cors_origins:
            return ()
        vary = (b"vary", b"Origin")
        if origin is None or not self._may_read(origin):
            return (vary,)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED_HEADERS),
            vary,
        )

    def preflight(self, facts: RequestFacts) -> LocalAnswer:
        """The answer to a preflight (`is_preflight`), whose real request comes later with its key.

        Raises DownstreamError `origin_not_allowed`, and without keys `host_not_allowed`.
        """
        if not self._key_digests:
            self._check_host(facts.host)
        if facts.origin is None or not self._may_read(facts.origin):
            raise _origin_not_allowed()
        headers = (
            (b"access-control-allow-origin", facts.origin),
            (b"access-control-allow-methods", _ALLOWED_METHODS),
            (b"access-control-allow-headers", _allowed_of(facts.request_headers or b"")),
            (b"access-control-max-age", b"%d" % PREFLIGHT_MAX_AGE_S),
            (b"vary", b"Origin, Access-Control-Request-Headers"),
        )
        return LocalAnswer(204, headers, b"")

    def _check_host(self, host: bytes | None) -> None:
        if host in self._known_hosts:
            return
        if not host or not self._is_our_host(host):
            message = (
                "Without a client key this server answers only to localhost, loopback addresses and bare names. "
                "Add the host to allowed_hosts, or set a key with --api-key."
            )
            raise DownstreamError("host_not_allowed", message)
        if len(self._known_hosts) >= REMEMBERED_HOSTS:
            self._known_hosts.clear()
        self._known_hosts[host] = None

    def _is_our_host(self, host: bytes) -> bool:
        host = host.lower()
        parts = _AUTHORITY.fullmatch(host)
        if parts is None:
            return False
        name = parts[1]
        if _is_loopback(name) or _BARE_NAME.fullmatch(name):
            return True
        return name in self._allowed_hosts or host in self._allowed_hosts

    def _check_origin(self, origin: bytes, host: bytes | None) -> None:
        if self._may_read(origin):
            return
        parts = _ORIGIN.fullmatch(origin.lower())
        if parts is None:
            raise _origin_not_allowed()
        authority, name = parts[1], parts[2]
        is_own = host is not None and authority == host.lower()
        if not is_own and not _is_loopback(name):
            raise _origin_not_allowed()

    def _may_read(self, origin: bytes) -> bool:
        return origin in self._cors_origins or b"*" in self._cors_origins


def is_preflight(method: bytes, facts: RequestFacts) -> bool:
    """Whether a request is a CORS preflight (WHATWG Fetch 3.2.2)."""
    return method == b"OPTIONS" and facts.origin is not None and facts.request_method is not None


def check_json_content_type(content_type: bytes | None, content_encoding: bytes | None) -> None:
    """Let a JSON body through, or raise DownstreamError `unsupported_media_type`.

    Types that a web page may send without a preflight, such as text/plain, must not pass as JSON.
    """
    if content_type != b"application/json":
        _check_unusual_type(content_type)
    if content_encoding is not None and content_encoding.lower() not in (b"", b"identity"):
        raise DownstreamError("unsupported_media_type", "Send the body uncompressed, without Content-Encoding.")


def _check_unusual_type(content_type: bytes | None) -> None:
    if content_type is None:
        raise DownstreamError("unsupported_media_type", "Send the header 'Content-Type: application/json'.")
    if not _JSON_TYPE.fullmatch(content_type):
        hint = "This endpoint takes JSON: send 'Content-Type: application/json', not another type."
        raise DownstreamError("unsupported_media_type", hint)


def _check_key(facts: RequestFacts, digests: tuple[bytes, ...]) -> int:
    """The place of the key that matched. Raises DownstreamError."""
    presented = [key for key in (_bearer(facts.authorization), facts.x_api_key) if key]
    if not presented:
        raise DownstreamError("invalid_api_key", f"No API key was sent. {_SEND_KEY}")
    known = None
    for key in presented:
        digest = _digest(key)
        for place, own in enumerate(digests):  # all of them, so that the time does not tell which one matched
            if hmac.compare_digest(own, digest):
                known = place
    if known is None:
        raise DownstreamError("invalid_api_key", f"The API key is none of this server's. {_SEND_KEY}")
    return known


def _is_from_here(facts: AdminFacts, peer: str) -> bool:
    """A browser on this machine is not enough: the pages in it come from elsewhere (Fetch metadata tells)."""
    if facts.is_forwarded or facts.origin is not None or not _is_loopback(peer.encode()):
        return False
    if any(name.lower() == b"sec-fetch-site" and value not in _OWN_SITES for name, value in facts.passed):
        return False
    authority = _AUTHORITY.fullmatch((facts.host or b"").lower())
    return authority is not None and _is_loopback(authority[1])


def _digest(key: bytes) -> bytes:
    """What is compared in place of a key: of one length, so that the time does not tell how long a key is."""
    return hashlib.sha256(key).digest()


def _bearer(authorization: bytes | None) -> bytes | None:
    if authorization is None or authorization[:7].lower() != b"bearer ":
        return None
    return authorization[7:].strip()


def _is_loopback(name: bytes) -> bool:
    if name == b"localhost":
        return True
    address = name[1:-1] if name.startswith(b"[") else name
    try:
        found = ip_address(address.decode("ascii"))
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None  # a peer of a socket for both families
    return (mapped or found).is_loopback


def _allowed_of(requested: bytes) -> bytes:
    names = (name.strip().lower() for name in requested.split(b","))
    return b", ".join(name for name in names if _ALLOWED_HEADER.fullmatch(name))


def _origin_not_allowed() -> DownstreamError:
    message = "Web pages of this origin may not use this server. Allow the origin with --cors-origin."
    return DownstreamError("origin_not_allowed", message)

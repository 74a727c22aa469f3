"""What the core knows of an upstream: where it is, how it is addressed, what it is given to identify itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """`scheme://host:port/path`, or a unix socket: `http+unix:///path.sock` with the API at `/v1`.

    `path` has no trailing slash. `socket_path` is None for TCP.
    """

    scheme: str
    host: str
    port: int
    path: str
    socket_path: str | None = None

    @classmethod
    def parse(cls, url: str) -> BaseUrl:
        """Raises ValueError with a message for the user where the URL is unusable."""
        parts, port = _split(url.strip())
        scheme = parts.scheme.lower()
        if scheme == "http+unix":
            socket_path = unquote(parts.netloc + parts.path)
            if not socket_path.startswith("/"):
                raise ValueError("a unix socket URL looks like http+unix:///run/model.sock")
            return cls("http", "localhost", 80, "/v1", socket_path)
        if scheme not in ("http", "https"):
            raise ValueError("the URL must start with http://, https:// or http+unix://")
        if not parts.hostname:
            raise ValueError("the URL has no host")
        if parts.username or parts.password:
            raise ValueError("the URL must not carry credentials; set the key beside it")
        if parts.query or parts.fragment:
            raise ValueError("the URL must end with its path: no query, no fragment")
        if any(c <= " " or c == "\x7f" for c in url.strip()):
            raise ValueError("the URL must not contain spaces or control characters")
        if port is None:
            port = 443 if scheme == "https" else 80
        if not 1 <= port <= 65535:
            raise ValueError("the port must be between 1 and 65535")
        try:
            host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
        except UnicodeError as exc:
            raise ValueError("the host name cannot be encoded") from exc
        return cls(scheme, host, port, parts.path.rstrip("/"), None)

    @property
    def authority(self) -> str:
        """The Host header: the port is left out where it is the scheme's own (RFC 9110 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    def __str__(self) -> str:
        if self.socket_path is not None:
            return f"http+unix://{self.socket_path}"
        return f"{self.scheme}://{self.authority}{self.path}"


def _split(url: str) -> tuple[SplitResult, int | None]:
    """Its parts and its port. The ValueErrors of `urllib` have a part of the URL in their text; these have not."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("the URL has no valid host") from None
    try:
        return parts, parts.port
    except ValueError:
        raise ValueError("the port must be between 1 and 65535") from None


@dataclass(frozen=True, slots=True)
class Credential:
    """What identifies us to an upstream; replaced whole, never changed. The secret stays out of repr and errors.

    `base` is set where the credential itself says where it is valid (OAuth `resource_url`).
    """

    secret: str = field(repr=False)
    base: BaseUrl | None = None

    @property
    def authorization(self) -> bytes:
        """The value of the Authorization header; empty where there is no key."""
        return b"Bearer " + self.secret.encode() if self.secret else b""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One configured upstream.

    `base` is None where it comes with the credential. `warm` connections are open ahead of requests; `max_exchanges`
    may be under way at once, and `max_per_account` with each account; 0: no limit. `models` are the ids of the built-in
    table, for upstreams without a list of their own (`GET /models` answers 404); empty: the upstream is asked.
    `cache_markers`: requests get markers for its prompt cache.
    """

    name: str
    kind: str
    base: BaseUrl | None
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)  # some gateways want keys there
    forward_user_agent: bool = False
    keepalive_s: float = 4.0
    max_connections: int = 8192
    warm: int = 0
    max_exchanges: int = 0
    max_per_account: int = 0
    cache_markers: bool = False
    default_model: str = ""
    models: tuple[str, ...] = ()
    has_model_list: bool = True

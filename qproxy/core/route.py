"""From method and path to the endpoint that answers: an exact-match table, then a few prefixes.

Paths are compared as they came: nothing is decoded or normalised, so `%2f` and dot segments never match a row.
"""

from __future__ import annotations

import difflib
import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qproxy.errors import DownstreamError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qproxy.core.limits import Limits
    from qproxy.core.local import LocalAnswer, LocalRequest

API_ROOT = b"/v1"
UPSTREAM_ROOT = b"/u/"
LOCAL_BODY_BYTES = 64 * 1024  # what is answered here takes a few fields at most

_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_SHOWN_PATH_BYTES = 100  # of a path that stands in a message or is compared with the known ones
_SEGMENT = rb"(?!\.\.?(?:/|\Z))(?:[a-z0-9._~!$&'()*+,;=:@-]|%(?!2[ef]|5c|[01]|7f)[0-9a-f]{2})+"
_PATH_TAIL = re.compile(_SEGMENT + rb"(?:/" + _SEGMENT + rb")*", re.IGNORECASE)
_NAME_TAIL = re.compile(rb".+", re.DOTALL)


class BodyRule(enum.Enum):
    """What may be done with the request body of a forwarded endpoint."""

    JSON = "examined for the model, and edited where an edit is declared"
    OPAQUE = "streamed as it comes, whatever it is"
    NONE = "not expected; one that comes is streamed as it is"


@dataclass(frozen=True, slots=True)
class ForwardEndpoint:
    """A path that an upstream answers.

    A `path` that ends in `/*` stands for every path below it. `end_markers` are patterns of which one must occur near
    the end of a complete event stream (`TailWatch.is_complete`); empty: the end is taken as it comes. `hides_errors`: a
    200 of it may be an error (`qwen-wire.md` 6.5). Elsewhere an `error` is part of an object that was asked for.
    """

    name: str
    path: bytes
    methods: tuple[bytes, ...]
    body: BodyRule
    end_markers: tuple[re.Pattern[bytes], ...] = ()
    hides_errors: bool = False
    needs_key: ClassVar[bool] = True
    needs_admin: ClassVar[bool] = False

    def most_body_bytes(self, limits: Limits) -> int:
        uploads = limits.upload_bytes or limits.body_bytes
        return limits.body_bytes if self.body is BodyRule.JSON else uploads

    def upstream_path(self, tail: bytes = b"") -> bytes:
        """The path to put behind the upstream's base URL, which ends in a `/v1` of its own."""
        return self.path.removeprefix(API_ROOT).removesuffix(b"*") + tail


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A path that this server answers itself. `answer` may raise QProxyError in place of answering. `needs_admin`: only
    for whoever administers this server, whatever the client keys are. `body_bytes` is the most that a body may be;
    None: as much as one that is forwarded.

    What stands in place of a star is a name to look up, not a path: it may hold anything, `%2f` of `vendor%2fmodel`
    included, and is never forwarded.
    """

    name: str
    path: bytes
    methods: tuple[bytes, ...]
    needs_key: bool
    answer: Callable[[LocalRequest], Awaitable[LocalAnswer]]
    needs_admin: bool = False
    body_bytes: int | None = LOCAL_BODY_BYTES

    def most_body_bytes(self, limits: Limits) -> int:
        return limits.body_bytes if self.body_bytes is None else min(self.body_bytes, limits.body_bytes)


Endpoint = ForwardEndpoint | LocalEndpoint


@dataclass(frozen=True, slots=True)
class Route:
    """A match. `tail` is what stands in place of the star of a prefix row, else empty; it is not decoded. `upstream` is
    the one that the path itself names: `/u/<upstream>/v1/...`."""

    endpoint: Endpoint
    tail: bytes
    upstream: bytes | None = None


class RouteTable:
    """All rows of one server. HEAD is served where GET is.

    Raises ValueError for two rows with the same method and path.
    """

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._exact: dict[tuple[bytes, bytes], Route] = {}
        self._rows: dict[bytes, dict[bytes, Endpoint]] = {}
        for endpoint in endpoints:
            row = self._rows.setdefault(endpoint.path, {})
            for method in _served(endpoint.methods):
                if method in row:
                    raise ValueError(f"{endpoint.name}: {method.decode()} {endpoint.path.decode()} has a row already")
                row[method] = endpoint
                if not endpoint.path.endswith(b"/*"):
                    self._exact[method, endpoint.path] = Route(endpoint, b"")
        stars = sorted((path for path in self._rows if path.endswith(b"/*")), key=len, reverse=True)
        self._prefixes = [(star[:-1], _tail_rule(self._rows[star]), self._rows[star]) for star in stars]

    def match(self, method: bytes, path: bytes) -> Route:
        """The row for a raw path without its query.

        Raises DownstreamError `unknown_route` with the nearest path, or `method_not_allowed` with `Allow`.
        """
        route = self._exact.get((method, path))
        if route is not None:
            return route
        if path.startswith(UPSTREAM_ROOT):
            return self._match_pinned(method, path)
        return self._match_row(method, path)

    def allow(self, path: bytes) -> bytes:
        """The value of `Allow` for a path, OPTIONS included. Raises DownstreamError `unknown_route`."""
        found = self._find_row(_split_pinned(path)[1] if path.startswith(UPSTREAM_ROOT) else path)
        if found is None:
            raise self._unknown_route(path)
        return _listed(found[0])

    def _match_pinned(self, method: bytes, path: bytes) -> Route:
        upstream, rest = _split_pinned(path)
        route = self._match_row(method, rest)
        if not upstream or isinstance(route.endpoint, LocalEndpoint):
            raise self._unknown_route(path)
        return Route(route.endpoint, route.tail, upstream)

    def _match_row(self, method: bytes, path: bytes) -> Route:
        found = self._find_row(path)
        if found is None:
            raise self._unknown_route(path) if method in _METHODS else _method_not_allowed(self._every_method())
        row, tail = found
        if method not in row:
            raise _method_not_allowed(_listed(row))
        return Route(row[method], tail)

    def _find_row(self, path: bytes) -> tuple[dict[bytes, Endpoint], bytes] | None:
        """The endpoints by method of the row for a path, and the tail of a prefix row."""
        if path in self._rows and not path.endswith(b"/*"):
            return self._rows[path], b""
        for prefix, tail_rule, row in self._prefixes:
            if path.startswith(prefix) and tail_rule.fullmatch(path, len(prefix)):
                return row, path[len(prefix) :]
        return None

    def _every_method(self) -> bytes:
        return _listed({method for row in self._rows.values() for method in row})

    def _unknown_route(self, path: bytes) -> DownstreamError:
        shown = path[:_SHOWN_PATH_BYTES].decode("ascii", "backslashreplace")
        return DownstreamError("unknown_route", f"There is nothing at {shown}. {self._advice(path, shown)}")

    def _advice(self, path: bytes, shown: str) -> str:
        if API_ROOT + path in self._rows:
            return f"The base URL of a client ends in /v1; the path is {(API_ROOT + path).decode()}."
        if path.startswith(API_ROOT * 2):
            return "The client adds /v1 to a base URL that ends in it: name it once."
        known = [row.decode() for row in self._rows]
        nearest = difflib.get_close_matches(shown, known, n=1)
        return f"The nearest path is {nearest[0]}." if nearest else "GET / lists the paths of this server."


def _split_pinned(path: bytes) -> tuple[bytes, bytes]:
    upstream, _, rest = path.removeprefix(UPSTREAM_ROOT).partition(b"/")
    return upstream, b"/" + rest


def _served(methods: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (*methods, b"HEAD") if b"GET" in methods and b"HEAD" not in methods else methods


def _tail_rule(row: dict[bytes, Endpoint]) -> re.Pattern[bytes]:
    return _NAME_TAIL if all(isinstance(endpoint, LocalEndpoint) for endpoint in row.values()) else _PATH_TAIL


def _listed(methods: Iterable[bytes]) -> bytes:
    return b", ".join(sorted({*methods, b"OPTIONS"}))


def _method_not_allowed(allow: bytes) -> DownstreamError:
    message = f"This path does not have that method. It has: {allow.decode()}."
    return DownstreamError("method_not_allowed", message, headers=((b"allow", allow),))

"""Which row answers which method and path, and what is said where none does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.local import json_answer
from qproxy.core.route import BodyRule, ForwardEndpoint, LocalEndpoint, Route, RouteTable
from qproxy.endpoints import ENDPOINTS
from qproxy.errors import DownstreamError

if TYPE_CHECKING:
    from qproxy.core.local import LocalAnswer, LocalRequest


async def _answer(request: LocalRequest) -> LocalAnswer:
    return json_answer(request.path.decode())


CHAT = ForwardEndpoint("chat", b"/v1/chat/completions", (b"POST",), BodyRule.JSON)
FILES = ForwardEndpoint("files", b"/v1/files", (b"GET", b"POST"), BodyRule.OPAQUE)
FILE = ForwardEndpoint("file", b"/v1/files/*", (b"GET", b"DELETE"), BodyRule.NONE)
SPEECH = ForwardEndpoint("speech", b"/v1/audio/speech", (b"POST",), BodyRule.JSON)
AUDIO = ForwardEndpoint("audio", b"/v1/audio/*", (b"GET", b"POST"), BodyRule.OPAQUE)
VOICE = ForwardEndpoint("voice", b"/v1/audio/voices/*", (b"POST",), BodyRule.JSON)
MODEL = LocalEndpoint("model", b"/v1/models/*", (b"GET",), True, _answer)
ROOT = LocalEndpoint("root", b"/", (b"GET",), False, _answer)
TABLE = RouteTable((CHAT, FILES, FILE, AUDIO, VOICE, SPEECH, MODEL, ROOT))


def refusal(method: bytes, path: bytes) -> DownstreamError:
    with pytest.raises(DownstreamError) as caught:
        TABLE.match(method, path)
    return caught.value


def route_or_code(method: bytes, path: bytes) -> Route | str:
    try:
        return TABLE.match(method, path)
    except DownstreamError as error:
        return error.code


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "tail"),
    [
        (b"POST", b"/v1/chat/completions", CHAT, b""),
        (b"GET", b"/v1/files", FILES, b""),
        (b"HEAD", b"/v1/files", FILES, b""),
        (b"DELETE", b"/v1/files/file-1", FILE, b"file-1"),
        (b"HEAD", b"/v1/files/file-1", FILE, b"file-1"),
        (b"GET", b"/v1/files/file-1/content", FILE, b"file-1/content"),
        (b"GET", b"/v1/files/a%20b", FILE, b"a%20b"),
        (b"POST", b"/v1/audio/speech", SPEECH, b""),
        (b"POST", b"/v1/audio/transcriptions", AUDIO, b"transcriptions"),
        (b"POST", b"/v1/audio/voices/anna", VOICE, b"anna"),
        (b"GET", b"/v1/models/qwen%2Fqwen3", MODEL, b"qwen%2Fqwen3"),
        (b"GET", b"/v1/models/qwen/qwen3:8b", MODEL, b"qwen/qwen3:8b"),
        (b"GET", b"/", ROOT, b""),
    ],
)
def test_a_known_path_finds_its_row(method: bytes, path: bytes, endpoint: object, tail: bytes) -> None:
    route = TABLE.match(method, path)
    assert route.endpoint is endpoint
    assert route.tail == tail


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/files/",
        b"/v1/files/*/",
        b"/v1/files//x",
        b"/v1/files/x//y",
        b"/v1/files/x/",
        b"/v1/files/.",
        b"/v1/files/..",
        b"/v1/files/../chat/completions",
        b"/v1/files/x/../../chat/completions",
        b"/v1/files/%2e%2e/chat/completions",
        b"/v1/files/x%2fy",
        b"/v1/files/x%2Fy",
        b"/v1/files/x%5cy",
        b"/v1/files/x\\y",
        b"/v1/files/x%00",
        b"/v1/files/x%0d%0ay",
        b"/v1/files/x%7f",
        b"/v1/files/x%",
        b"/v1/files/x%2",
        b"/v1/files/x%zz",
        b"/v1/files/x\xc3\xa9",
        b"/v1/%66iles",
        b"/V1/files",
        b"//v1/files",
        b"/v1/./files",
        b"/v1/chat/completions/",
        b"/v1/chat%2fcompletions",
        b"",
    ],
)
def test_no_path_is_normalised_into_a_row(path: bytes) -> None:
    assert refusal(b"GET", path).code == "unknown_route"


def test_a_dot_inside_a_segment_is_no_dot_segment() -> None:
    assert TABLE.match(b"GET", b"/v1/files/..a/.b/c..").tail == b"..a/.b/c.."


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        (b"/v1/chat/completion", "/v1/chat/completions"),
        (b"/v1/chat/completions/", "/v1/chat/completions"),
        (b"/chat/completions", "base URL of a client ends in /v1"),
        (b"/v1/v1/chat/completions", "name it once"),
        (b"/wp-admin/setup.php?", "GET / lists"),
        (b"/\xff" + b"a" * 8000, "There is nothing at /\\xffaaa"),
    ],
)
def test_an_unknown_path_is_answered_with_advice(path: bytes, advice: str) -> None:
    error = refusal(b"POST", path)
    assert (error.code, error.kind.status) == ("unknown_route", 404)
    assert advice in error.message
    assert len(error.message) < 600


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        (b"GET", b"/v1/chat/completions", b"OPTIONS, POST"),
        (b"PATCH", b"/v1/files", b"GET, HEAD, OPTIONS, POST"),
        (b"POST", b"/v1/files/file-1", b"DELETE, GET, HEAD, OPTIONS"),
        (b"GET", b"/v1/audio/speech", b"OPTIONS, POST"),
        (b"OPTIONS", b"/", b"GET, HEAD, OPTIONS"),
        (b"TRACE", b"/nowhere", b"DELETE, GET, HEAD, OPTIONS, POST"),
        (b"CONNECT", b"/", b"GET, HEAD, OPTIONS"),
        (b"post", b"/v1/chat/completions", b"OPTIONS, POST"),
        (b"BREW", b"/v1/files/file-1", b"DELETE, GET, HEAD, OPTIONS"),
    ],
)
def test_a_method_that_is_not_served_is_answered_with_those_that_are(method: bytes, path: bytes, allow: bytes) -> None:
    error = refusal(method, path)
    assert (error.code, error.kind.status) == ("method_not_allowed", 405)
    assert error.headers == ((b"allow", allow),)


def test_allow_names_the_methods_of_a_path() -> None:
    assert TABLE.allow(b"/v1/files/file-1") == b"DELETE, GET, HEAD, OPTIONS"
    with pytest.raises(DownstreamError, match="There is nothing at /nowhere"):
        TABLE.allow(b"/nowhere")


def test_two_rows_for_one_request_are_refused() -> None:
    with pytest.raises(ValueError, match="GET /v1/files has a row already"):
        RouteTable((FILES, ForwardEndpoint("again", b"/v1/files", (b"GET",), BodyRule.NONE)))


def test_rows_may_share_a_path_where_their_methods_differ() -> None:
    read = ForwardEndpoint("read", b"/v1/x", (b"GET",), BodyRule.NONE)
    write = ForwardEndpoint("write", b"/v1/x", (b"POST",), BodyRule.JSON)
    table = RouteTable((read, write))
    assert table.match(b"HEAD", b"/v1/x").endpoint is read
    assert table.match(b"POST", b"/v1/x").endpoint is write


def test_a_star_with_a_forwarded_row_takes_no_encoded_slash() -> None:
    table = RouteTable((MODEL, ForwardEndpoint("tune", b"/v1/models/*", (b"DELETE",), BodyRule.NONE)))
    assert table.match(b"GET", b"/v1/models/a").endpoint is MODEL
    with pytest.raises(DownstreamError):
        table.match(b"GET", b"/v1/models/a%2fb")


@pytest.mark.parametrize(
    ("endpoint", "tail", "path"),
    [(CHAT, b"", b"/chat/completions"), (FILE, b"a/content", b"/files/a/content")],
)
def test_the_upstream_gets_the_path_behind_v1(endpoint: ForwardEndpoint, tail: bytes, path: bytes) -> None:
    assert endpoint.upstream_path(tail) == path


@given(st.lists(st.sampled_from([b"/", b".", b"..", b"%2f", b"%2E", b"\\", b"a", b"%00", b"%20", b"?", b" "])))
def test_a_forwarded_tail_never_climbs(parts: list[bytes]) -> None:
    path = b"/v1/files/" + b"".join(parts)
    route = route_or_code(b"GET", path)
    if isinstance(route, str):
        assert route == "unknown_route"
        return
    segments = route.tail.split(b"/")
    assert not {b"", b".", b".."} & set(segments)
    assert not any(part in route.tail.lower() for part in (b"%2f", b"%2e", b"\\", b"%00", b"?", b" "))
    assert isinstance(route.endpoint, ForwardEndpoint)
    assert b"/v1" + route.endpoint.upstream_path(route.tail) == path


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_every_request_is_routed_or_refused(path: bytes, method: bytes) -> None:
    found = route_or_code(method, path)
    assert isinstance(found, Route) or found in ("unknown_route", "method_not_allowed")


class TestUpstreamInThePath:
    TABLE = RouteTable(ENDPOINTS)

    def test_the_rest_is_an_ordinary_path(self) -> None:
        route = self.TABLE.match(b"POST", b"/u/mine/v1/chat/completions")
        assert (route.endpoint.name, route.upstream) == ("chat_completions", b"mine")
        tail = self.TABLE.match(b"GET", b"/u/mine/v1/files/abc")
        assert (tail.endpoint.name, tail.tail, tail.upstream) == ("file", b"abc", b"mine")

    @pytest.mark.parametrize(
        "path", [b"/u/mine/health", b"/u//v1/chat/completions", b"/u/a/u/b/v1/chat/completions", b"/u/mine", b"/u/"]
    )
    def test_what_is_no_path_of_an_upstream(self, path: bytes) -> None:
        with pytest.raises(DownstreamError) as caught:
            self.TABLE.match(b"GET" if path.endswith(b"health") else b"POST", path)
        assert caught.value.code in ("unknown_route", "method_not_allowed")

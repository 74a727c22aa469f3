"""Who is let in: keys, hosts, origins, preflights, content types."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.admit import REMEMBERED_HOSTS, Gate, check_json_content_type, is_preflight
from qproxy.errors import DownstreamError

KEYED = Gate((b"key-one", b"key-two", b"\xff\x00bin"), (), ())
OPEN = Gate((), ("proxy.example", "other.example:8443", "API.Example"), ("https://app.example",))


@dataclass(frozen=True)
class Facts:
    host: bytes | None = b"localhost"
    authorization: bytes | None = None
    x_api_key: bytes | None = None
    origin: bytes | None = None
    request_method: bytes | None = None
    request_headers: bytes | None = None


def refusal(gate: Gate, facts: Facts, *, needs_key: bool = True) -> DownstreamError:
    with pytest.raises(DownstreamError) as caught:
        gate.check(facts, needs_key=needs_key)
    return caught.value


@pytest.mark.parametrize(
    "facts",
    [
        Facts(authorization=b"Bearer key-one"),
        Facts(authorization=b"bearer key-two"),
        Facts(authorization=b"BEARER   key-two "),
        Facts(authorization=b"Bearer \xff\x00bin"),
        Facts(x_api_key=b"key-two"),
        Facts(authorization=b"Bearer placeholder", x_api_key=b"key-one"),
        Facts(authorization=b"Basic abc", x_api_key=b"key-one"),
        Facts(host=b"evil.example", origin=b"https://evil.example", x_api_key=b"key-one"),
        Facts(host=None, x_api_key=b"key-one"),
    ],
)
def test_a_right_key_opens_from_anywhere(facts: Facts) -> None:
    KEYED.check(facts, needs_key=True)


@pytest.mark.parametrize(
    ("facts", "place"),
    [
        (Facts(authorization=b"Bearer key-one"), 0),
        (Facts(x_api_key=b"key-two"), 1),
        (Facts(authorization=b"Bearer placeholder", x_api_key=b"key-one"), 0),
        (Facts(authorization=b"Bearer \xff\x00bin"), 2),
    ],
)
def test_which_key_it_was_is_told_by_its_place(facts: Facts, place: int) -> None:
    assert KEYED.check(facts, needs_key=True) == place


def test_where_no_key_is_looked_at_none_is_told() -> None:
    assert KEYED.check(Facts(authorization=b"Bearer key-one"), needs_key=False) is None
    assert OPEN.check(Facts(authorization=b"Bearer key-one"), needs_key=True) is None


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(authorization=b""),
        Facts(authorization=b"Bearer"),
        Facts(authorization=b"Bearer "),
        Facts(authorization=b"key-one"),
        Facts(authorization=b"Basic key-one"),
        Facts(authorization=b"Bearerkey-one"),
        Facts(x_api_key=b""),
    ],
)
def test_without_a_key_the_answer_says_what_to_send(facts: Facts) -> None:
    error = refusal(KEYED, facts)
    assert (error.code, error.kind.status) == ("invalid_api_key", 401)
    assert "No API key was sent" in error.message
    assert "Authorization: Bearer" in error.message
    assert "X-API-Key" in error.message


@pytest.mark.parametrize("key", [b"key-on", b"key-onee", b"KEY-ONE", b"key-one,key-two", b"key one", b"\xff"])
def test_a_wrong_key_is_refused_and_not_repeated(key: bytes) -> None:
    for facts in (Facts(authorization=b"Bearer " + key), Facts(x_api_key=key)):
        error = refusal(KEYED, facts)
        assert "none of this server's" in error.message
        assert key.decode("latin-1") not in error.message


def test_an_endpoint_without_need_of_a_key_is_open_where_keys_are_set() -> None:
    KEYED.check(Facts(host=b"10.0.0.5:8080"), needs_key=False)


def test_an_empty_key_cannot_be_configured() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Gate((b"a", b""), (), ())


def test_the_gate_does_not_show_its_keys() -> None:
    assert "key-one" not in repr(KEYED)


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=5), st.binary(min_size=1, max_size=8))
def test_exactly_the_configured_keys_open(keys: list[bytes], presented: bytes) -> None:
    gate = Gate(keys, (), ())
    facts = Facts(x_api_key=presented)
    if presented in keys:
        gate.check(facts, needs_key=True)
    else:
        refusal(gate, facts)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost", b"LOCALHOST:8080", b"127.0.0.1", b"127.9.8.7:1", b"[::1]", b"[::1]:8080", b"mybox", b"my_box:80",
        b"proxy.example", b"Proxy.Example:9999", b"other.example:8443", b"api.example", b"localhost:",
    ],
)  # fmt: skip
@pytest.mark.parametrize("needs_key", [True, False])
def test_our_own_names_open_without_a_key(host: bytes, needs_key: bool) -> None:
    OPEN.check(Facts(host=host), needs_key=needs_key)
    OPEN.check(Facts(host=host), needs_key=needs_key)  # and when it is remembered


@pytest.mark.parametrize(
    "host",
    [
        None, b"", b":8080", b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example", b"0.0.0.0",
        b"10.0.0.5:8080", b"[::]", b"[fe80::1]", b"[::1].evil.example", b"[::1", b"evil.example:127.0.0.1",
        b"localhost:80@evil.example", b"other.example", b"other.example:80", b"127.1.evil", b"sub.proxy.example",
        b"bare name", b"a/b",
    ],
)  # fmt: skip
@pytest.mark.parametrize("needs_key", [True, False])
def test_foreign_names_are_refused_without_a_key(host: bytes | None, needs_key: bool) -> None:
    error = refusal(OPEN, Facts(host=host, authorization=b"Bearer x"), needs_key=needs_key)
    assert (error.code, error.kind.status) == ("host_not_allowed", 403)
    assert "allowed_hosts" in error.message


def test_the_memory_of_hosts_is_bounded() -> None:
    gate = Gate((), (), ())
    for number in range(3 * REMEMBERED_HOSTS):
        gate.check(Facts(host=b"box%d" % number), needs_key=True)
        assert len(gate._known_hosts) <= REMEMBERED_HOSTS
    refusal(gate, Facts(host=b"evil.example"))


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost", b"http://localhost:3000", b"https://127.0.0.1:9", b"http://[::1]:5173",
        b"tauri://localhost", b"https://app.example", b"http://proxy.example:8080",
    ],
)  # fmt: skip
def test_near_origins_are_let_in(origin: bytes) -> None:
    OPEN.check(Facts(host=b"proxy.example:8080", origin=origin), needs_key=True)


@pytest.mark.parametrize(
    "origin",
    [
        b"", b"null", b"https://evil.example", b"http://app.example", b"https://app.example:444",
        b"http://localhost.evil.example", b"http://evil.example/://localhost", b"http://localhost:80@evil.example",
        b"http://proxy.example", b"http://mybox", b"localhost", b"http://[::1].evil.example", b"http://0.0.0.0",
        b"chrome-extension://abcdef",
    ],
)  # fmt: skip
def test_foreign_origins_are_refused_without_a_key(origin: bytes) -> None:
    error = refusal(OPEN, Facts(host=b"proxy.example:8080", origin=origin))
    assert (error.code, error.kind.status) == ("origin_not_allowed", 403)
    assert "--cors-origin" in error.message


def test_cors_is_off_by_default() -> None:
    gate = Gate((), (), ())
    assert gate.cors_headers(b"http://localhost") == ()
    with pytest.raises(DownstreamError) as caught:
        gate.preflight(Facts(origin=b"http://localhost", request_method=b"POST"))
    assert caught.value.code == "origin_not_allowed"


def test_cors_fields_go_to_allowed_origins_only() -> None:
    allowed = dict(OPEN.cors_headers(b"https://app.example"))
    assert allowed[b"access-control-allow-origin"] == b"https://app.example"
    assert b"x-request-id" in allowed[b"access-control-expose-headers"]
    assert allowed[b"vary"] == b"Origin"
    assert OPEN.cors_headers(b"https://evil.example") == ((b"vary", b"Origin"),)
    assert OPEN.cors_headers(None) == ((b"vary", b"Origin"),)


def test_a_star_allows_every_origin() -> None:
    gate = Gate((), (), ("*",))
    gate.check(Facts(origin=b"https://any.example"), needs_key=True)
    assert dict(gate.cors_headers(b"null"))[b"access-control-allow-origin"] == b"null"


def test_a_preflight_of_an_sdk_in_a_browser_is_answered_without_a_key() -> None:
    gate = Gate((b"key",), (), ("https://app.example",))
    requested = b"authorization,content-type, X-Stainless-Retry-Count ,x-evil,cookie,x-api-key,"
    facts = Facts(
        host=b"proxy.example", origin=b"https://app.example", request_method=b"POST", request_headers=requested
    )
    answer = gate.preflight(facts)
    headers = dict(answer.headers)
    assert (answer.status, answer.body) == (204, b"")
    assert headers[b"access-control-allow-origin"] == b"https://app.example"
    assert (
        headers[b"access-control-allow-headers"] == b"authorization, content-type, x-stainless-retry-count, x-api-key"
    )
    assert b"POST" in headers[b"access-control-allow-methods"]
    assert int(headers[b"access-control-max-age"]) > 0
    assert b"Origin" in headers[b"vary"]


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (Facts(origin=b"https://evil.example"), "origin_not_allowed"),
        (Facts(origin=None), "origin_not_allowed"),
        (Facts(host=b"evil.example", origin=b"https://app.example"), "host_not_allowed"),
    ],
)
def test_a_foreign_preflight_is_refused(facts: Facts, code: str) -> None:
    with pytest.raises(DownstreamError) as caught:
        OPEN.preflight(facts)
    assert caught.value.code == code


def test_what_a_preflight_is() -> None:
    facts = Facts(origin=b"https://app.example", request_method=b"POST")
    assert is_preflight(b"OPTIONS", facts)
    assert not is_preflight(b"POST", facts)
    assert not is_preflight(b"OPTIONS", Facts(origin=b"https://app.example"))
    assert not is_preflight(b"OPTIONS", Facts(request_method=b"POST"))


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json", b"application/json; charset=utf-8", b"Application/JSON;charset=UTF-8",
        b"application/json ;x=y", b"application/vnd.api+json", b"application/problem+json; a=b",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", [None, b"", b"identity", b"Identity"])
def test_json_types_pass(content_type: bytes, encoding: bytes | None) -> None:
    check_json_content_type(content_type, encoding)


@pytest.mark.parametrize(
    "content_type",
    [
        None, b"", b"text/plain", b"text/plain; application/json", b"application/jsonp", b"application/x-json",
        b"application/json, text/plain", b"multipart/form-data; boundary=x", b"application/+json", b"text/json",
        b"application/x-www-form-urlencoded", b"json", b"application/a b+json",
    ],
)  # fmt: skip
def test_other_types_do_not(content_type: bytes | None) -> None:
    with pytest.raises(DownstreamError, match="'Content-Type: application/json'") as caught:
        check_json_content_type(content_type, None)
    assert (caught.value.code, caught.value.kind.status) == ("unsupported_media_type", 415)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"identity, gzip", b"zstd"])
def test_a_compressed_body_is_refused(encoding: bytes) -> None:
    with pytest.raises(DownstreamError, match="uncompressed") as caught:
        check_json_content_type(b"application/json", encoding)
    assert caught.value.code == "unsupported_media_type"

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.oauth import (
    FREE_TIER_ENDED,
    LOGIN_EXPIRED,
    NOT_LOGGED_IN,
    base_from_resource_url,
    is_loopback_host,
    parse_token_file,
    unusable_login,
)

DOCUMENT: dict[str, object] = {
    "access_token": "at-1",
    "refresh_token": "rt-1",
    "token_type": "Bearer",
    "resource_url": "portal.qwen.ai",
    "expiry_date": 1_700_000_000_000,
}


def file_with(**changes: object) -> bytes:
    return json.dumps(DOCUMENT | changes, indent=2).encode()


def test_a_file_as_the_cli_writes_it() -> None:
    token = parse_token_file(file_with())
    assert (token.access_token, token.refresh_token, token.expires_ms) == ("at-1", "rt-1", 1_700_000_000_000)
    assert str(token.base) == "https://portal.qwen.ai/v1"


@pytest.mark.parametrize("resource_url", ["https://portal.qwen.ai:hidden", "https://[hidden]/v1", "https://[hidden"])
def test_no_part_of_an_address_in_the_reason(resource_url: str) -> None:
    with pytest.raises(ValueError, match="resource_url is not usable: the ") as caught:
        parse_token_file(file_with(resource_url=resource_url))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("field", ["refresh_token", "token_type", "resource_url"])
def test_fields_that_a_valid_token_can_do_without(field: str) -> None:
    assert parse_token_file(file_with(**{field: None})).access_token == "at-1"


def test_no_secret_in_the_repr() -> None:
    shown = repr(parse_token_file(file_with()))
    assert "at-1" not in shown
    assert "rt-1" not in shown


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xef\xbb\xbf" + file_with(), "byte order mark"),
        (file_with()[:40], "not JSON"),
        (b"[]", "no JSON object"),
        (b"\xff\xfe", "not JSON"),
        (file_with(access_token=""), "access_token is missing"),
        (file_with(access_token=7), "access_token is not text"),
        (file_with(access_token="a\r\nb"), "cannot be sent"),
        (file_with(access_token="clé"), "cannot be sent"),
        (file_with(access_token="a" * 20_000), "cannot be sent"),
        (file_with(refresh_token=[]), "refresh_token is not text"),
        (file_with(token_type="mac"), "token_type"),
        (file_with(expiry_date="soon"), "expiry_date"),
        (file_with(expiry_date=True), "expiry_date"),
        (file_with(expiry_date=0), "expiry_date"),
        (file_with(expiry_date=None), "expiry_date"),
        (file_with(resource_url=1), "resource_url is not text"),
        (file_with(resource_url="evil.example"), "not on the list"),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "nests too deep"),
    ],
)
def test_an_unusable_file_gives_a_reason_without_its_contents(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_token_file(data)
    assert "at-1" not in str(caught.value)


@given(st.binary(max_size=60) | st.integers(0, len(file_with())).map(lambda end: file_with()[:end]))
def test_any_bytes_are_a_token_or_a_reason(data: bytes) -> None:
    try:
        token = parse_token_file(data)
    except ValueError:
        return
    assert token.access_token == "at-1"


@pytest.mark.parametrize(("now_ms", "valid"), [(0, True), (69_999, True), (70_000, False), (100_000, False)])
def test_a_token_is_left_alone_in_its_last_30_seconds(now_ms: int, valid: bool) -> None:
    assert parse_token_file(file_with(expiry_date=100_000)).is_valid_at(now_ms) is valid


@pytest.mark.parametrize(
    ("resource_url", "base"),
    [
        (None, "https://portal.qwen.ai/v1"),
        ("", "https://portal.qwen.ai/v1"),
        ("portal.qwen.ai", "https://portal.qwen.ai/v1"),
        ("  portal.qwen.ai/ ", "https://portal.qwen.ai/v1"),
        ("portal.qwen.ai/v1", "https://portal.qwen.ai/v1"),
        ("portal.qwen.ai/v1///", "https://portal.qwen.ai/v1"),
        ("HTTPS://Portal.Qwen.AI/V1/", "https://portal.qwen.ai/V1"),
        ("https://portal.qwen.ai:443", "https://portal.qwen.ai/v1"),
        ("dashscope-intl.aliyuncs.com/compatible-mode/v1", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
        ("ws1.cn-beijing.maas.aliyuncs.com", "https://ws1.cn-beijing.maas.aliyuncs.com/v1"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/v1"),
        ("http://localhost:9000/v1/", "http://localhost:9000/v1"),
        ("http://[::1]:9000", "http://[::1]:9000/v1"),
    ],
)
def test_resource_url_is_normalised(resource_url: str | None, base: str) -> None:
    assert str(base_from_resource_url(resource_url)) == base


@pytest.mark.parametrize(
    "resource_url",
    [
        "http://portal.qwen.ai",
        "https://evil.example",
        "https://portal.qwen.ai.evil.example",
        "https://evilportal.qwen.ai",
        "https://portal.qwen.ai@evil.example",
        "https://evil.example\\@portal.qwen.ai",
        "https://evil.example#portal.qwen.ai",
        "https://portal.qwen.ai.",
        "https://maas.aliyuncs.com",
        "https://.maas.aliyuncs.com",
        "https://xmaas.aliyuncs.com",
        "ftp://portal.qwen.ai",
        "http+unix:///run/portal.qwen.ai.sock",
        "https://pоrtal.qwen.ai",  # noqa: RUF001 - a Cyrillic letter, on purpose
        "https://portal.qwen.ai/a b",
        "https://portal.qwen.ai:0",
        "https://portal.qwen.ai:port",
        "http://127.0.0.1.evil.example",
        "http://0.0.0.0:9000",
        "https://[portal.qwen.ai",
        "/",
    ],
)
def test_a_token_goes_nowhere_else(resource_url: str) -> None:
    with pytest.raises(ValueError, match="resource_url"):
        base_from_resource_url(resource_url)


def test_a_setting_adds_hosts() -> None:
    extra = ("gate.example", "*.corp.example")
    assert base_from_resource_url("gate.example", extra).host == "gate.example"
    assert base_from_resource_url("a.corp.example", extra).host == "a.corp.example"
    for refused in ("x.gate.example", "corp.example", "http://gate.example"):
        with pytest.raises(ValueError, match="list"):
            base_from_resource_url(refused, extra)


@given(st.text(max_size=30) | st.from_regex(r"(https?://)?[a-z.@:/\\#?\[\]0-9]{1,30}", fullmatch=True))
def test_whatever_is_accepted_is_https_to_a_listed_host_or_this_machine(resource_url: str) -> None:
    try:
        base = base_from_resource_url(resource_url)
    except ValueError:
        return
    listed = base.host == "portal.qwen.ai" or base.host.endswith(".aliyuncs.com")
    assert (base.scheme == "https" and listed) or (base.scheme == "http" and is_loopback_host(base.host))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.example", "128.0.0.1", "", "127.1"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback_host(host)


@pytest.mark.parametrize("message", [NOT_LOGGED_IN, LOGIN_EXPIRED, unusable_login("the file is empty")])
def test_messages_say_how_to_log_in_and_what_to_use_instead(message: str) -> None:
    assert "Log in" in message
    assert FREE_TIER_ENDED in message
    assert "2026-04-15" in FREE_TIER_ENDED
    assert "DASHSCOPE_API_KEY" in FREE_TIER_ENDED

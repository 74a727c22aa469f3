"""The tables of header fields that may cross the proxy."""

from __future__ import annotations

import pytest

from qproxy.core.headers import HOP_BY_HOP, REQUEST_RULES, RESPONSE_RULES, Rule, connection_options


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (b"", set()),
        (b"close", {b"close"}),
        (b"Keep-Alive", {b"keep-alive"}),
        (b" keep-alive ,\tX-Foo , ", {b"keep-alive", b"x-foo"}),
        (b",,close,,Close", {b"close"}),
        (b"not a token, close", {b"not a token", b"close"}),
    ],
)
def test_the_options_of_a_connection_field(value: bytes, options: set[bytes]) -> None:
    assert connection_options(value) == options


@pytest.mark.parametrize("rules", [REQUEST_RULES, RESPONSE_RULES], ids=["request", "response"])
def test_tables_are_keyed_in_lower_case(rules: dict[bytes, Rule]) -> None:
    assert all(name == name.lower() and name.strip() == name for name in rules)


@pytest.mark.parametrize("rules", [REQUEST_RULES, RESPONSE_RULES], ids=["request", "response"])
def test_no_hop_by_hop_field_passes(rules: dict[bytes, Rule]) -> None:
    """RFC 9110 7.6.1 and the older ones that are still sent."""
    assert rules.keys() >= HOP_BY_HOP


CREDENTIALS_OF_A_CLIENT = [b"authorization", b"x-api-key", b"api-key", b"cookie", b"proxy-authorization"]


@pytest.mark.parametrize("name", CREDENTIALS_OF_A_CLIENT)
def test_credentials_of_a_client_never_reach_an_upstream(name: bytes) -> None:
    assert name in REQUEST_RULES


@pytest.mark.parametrize("name", [b"set-cookie", b"set-cookie2", b"alt-svc", b"connection", b"keep-alive"])
def test_what_an_upstream_tells_about_its_own_connection_never_reaches_a_client(name: bytes) -> None:
    assert name in RESPONSE_RULES


@pytest.mark.parametrize("name", [b"content-type", b"accept", b"openai-organization", b"x-dashscope-sse", b"x-custom"])
def test_unknown_fields_pass(name: bytes) -> None:
    assert name not in REQUEST_RULES

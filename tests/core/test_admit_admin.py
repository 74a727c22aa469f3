"""Who may administer a server, by real request heads."""

from __future__ import annotations

import pytest

from qproxy.core.admit import Gate
from qproxy.core.headers import FORWARDED
from qproxy.core.http1 import RequestHead, parse_request_head
from qproxy.core.limits import Limits
from qproxy.errors import DownstreamError

OPEN = Gate([], [], [])


def head(*lines: bytes, host: bytes = b"127.0.0.1:8080", target: bytes = b"/auth/poll") -> RequestHead:
    raw = b"\r\n".join((b"POST %b HTTP/1.1" % target, b"Host: " + host, *lines, b"", b""))
    return parse_request_head(raw, Limits())


def refused(gate: Gate, request: RequestHead, peer: str = "127.0.0.1") -> str:
    with pytest.raises(DownstreamError) as caught:
        gate.check_admin(request, peer)
    return caught.value.code


@pytest.mark.parametrize(
    "host", [b"127.0.0.1", b"127.0.0.1:8080", b"127.9.9.9", b"localhost:1", b"LocalHost", b"[::1]:80"]
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may(host: bytes, peer: str) -> None:
    OPEN.check_admin(head(host=host), peer)


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "unix", "", "127.0.0.1.evil.example"])
def test_others_may_not(peer: str) -> None:
    assert refused(OPEN, head(), peer) == "admin_not_allowed"


@pytest.mark.parametrize(
    "host", [b"box", b"evil.example", b"127.0.0.1.evil.example", b"localhost.evil.example", b"[::2]"]
)
def test_a_name_that_leads_here_is_not_enough(host: bytes) -> None:
    assert refused(Gate([], ["evil.example", "box"], []), head(host=host)) == "admin_not_allowed"
    assert refused(OPEN, head(target=b"http://%b/auth/poll" % host)) == "admin_not_allowed"


@pytest.mark.parametrize("origin", [b"http://127.0.0.1:8080", b"https://evil.example", b"null"])
def test_a_web_page_may_not(origin: bytes) -> None:
    assert refused(Gate([], [], ["*"]), head(b"Origin: " + origin)) == "admin_not_allowed"


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b""])
def test_a_picture_in_a_web_page_may_not(site: bytes) -> None:
    assert refused(OPEN, head(b"Sec-Fetch-Site: " + site)) == "admin_not_allowed"


@pytest.mark.parametrize("site", [b"none", b"same-origin"])
def test_an_address_that_a_person_typed_may(site: bytes) -> None:
    OPEN.check_admin(head(b"sec-fetch-site: " + site), "127.0.0.1")


@pytest.mark.parametrize("name", sorted(FORWARDED))
def test_whoever_comes_through_another_proxy_may_not(name: bytes) -> None:
    assert refused(OPEN, head(name.upper() + b": 127.0.0.1")) == "admin_not_allowed"
    assert refused(OPEN, head(name + b": ")) == "admin_not_allowed"


def test_other_fields_that_are_dropped_do_not_matter() -> None:
    OPEN.check_admin(head(b"Cookie: a=b", b"Connection: close", b"TE: trailers"), "127.0.0.1")


def test_a_client_key_is_no_admin_key() -> None:
    gate = Gate([b"client"], [], [], b"admin")
    assert refused(gate, head(b"Authorization: Bearer client")) == "invalid_api_key"
    assert refused(gate, head()) == "invalid_api_key"
    gate.check_admin(head(b"Authorization: Bearer admin"), "127.0.0.1")
    with pytest.raises(DownstreamError):
        gate.check(head(b"Authorization: Bearer admin"), needs_key=True)


@pytest.mark.parametrize("line", [b"Authorization: Bearer admin", b"X-API-Key: admin"])
def test_with_an_admin_key_everybody_who_has_it_may(line: bytes) -> None:
    gate = Gate([], [], [], b"admin")
    far_away = head(line, b"X-Forwarded-For: 10.0.0.1", b"Origin: https://a.example", host=b"box.example")
    gate.check_admin(far_away, "10.0.0.2")


def test_without_an_admin_key_client_keys_change_nothing() -> None:
    gate = Gate([b"client"], [], [])
    gate.check_admin(head(), "127.0.0.1")
    assert refused(gate, head(b"Authorization: Bearer client"), "10.0.0.1") == "admin_not_allowed"


def test_an_empty_admin_key_is_none() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Gate([], [], [], b"")

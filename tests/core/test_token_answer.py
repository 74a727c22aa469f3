"""What is sent to renew a login, and what any answer to it means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.oauth import token_of
from qproxy.core.token_answer import (
    Denial,
    Grant,
    Refusal,
    TokenReply,
    lifetime_s,
    login_document,
    read_answer,
    refresh_form,
    skew_s,
)

NOW_S = 1_700_000_000.0
ANSWER: dict[str, object] = {
    "access_token": "at-2",
    "refresh_token": "rt-2",
    "token_type": "Bearer",
    "expires_in": 3600,
    "resource_url": "portal.qwen.ai",
}
BEFORE: dict[str, object] = {
    "access_token": "at-1",
    "refresh_token": "rt-1",
    "token_type": "Bearer",
    "resource_url": "dashscope.aliyuncs.com",
    "expiry_date": 5,
    "id_token": "kept",
    "nested": {"kept": [1, None, "ü"]},
}
HTML = b"<html><body>504</body></html>"


def answer(status: int = 200, **changes: object) -> Grant | Refusal:
    document = {name: value for name, value in (ANSWER | changes).items() if value is not None}
    return read_answer(TokenReply(status, None, json.dumps(document).encode()))


def refusal(status: int, body: bytes) -> Refusal:
    given = read_answer(TokenReply(status, None, body))
    assert isinstance(given, Refusal)
    return given


def grant(**changes: object) -> Grant:
    given = answer(200, **changes)
    assert isinstance(given, Grant)
    return given


def test_the_form_of_a_refresh() -> None:
    form = refresh_form({"client_id": "me", "client_secret": "hush"}, "rt-1")
    assert form == {
        "grant_type": "refresh_token", "refresh_token": "rt-1", "client_id": "me", "client_secret": "hush",
    }  # fmt: skip


@pytest.mark.parametrize("status", [200, 201, 400, 401, 500])
def test_tokens_are_success_whatever_the_status(status: int) -> None:
    assert answer(status) == Grant("at-2", "rt-2", "portal.qwen.ai", 3600.0)


def test_what_an_answer_may_leave_out() -> None:
    assert grant(refresh_token=None, resource_url=None, expires_in=None) == Grant("at-2", None, None, 3600.0)


def test_the_other_name_of_resource_url() -> None:
    assert grant(resource_url=None, endpoint="portal.qwen.ai").resource_url == "portal.qwen.ai"


@pytest.mark.parametrize("name", ["refresh_token", "resource_url"])
@pytest.mark.parametrize("value", ["", 7, [], {}, False])
def test_a_field_of_a_wrong_type_is_none(name: str, value: object) -> None:
    assert getattr(grant(**{name: value}), name) is None


@pytest.mark.parametrize(
    ("status", "body", "denial", "reason"),
    [
        (400, b'{"error":"invalid_grant","error_description":"rt-1"}', Denial.FINAL, "400 invalid_grant"),
        (401, b'{"error":"invalid_token"}', Denial.FINAL, "401 invalid_token"),
        (400, b"{}", Denial.FINAL, "400"),
        (401, b'{"message":"no"}', Denial.FINAL, "401"),
        (200, b'{"error":"invalid_grant"}', Denial.FINAL, "200 invalid_grant"),
        (400, b'{"error":"slow_down"}', Denial.PASSING, "400 slow_down"),
        (400, b'{"error":"temporarily_unavailable"}', Denial.PASSING, "400 temporarily_unavailable"),
        (200, b'{"error":"server_error"}', Denial.PASSING, "200 server_error"),
        (200, b"{}", Denial.PASSING, "200"),
        (200, b'{"access_token":""}', Denial.PASSING, "200"),
        (200, b'{"access_token":7}', Denial.PASSING, "200"),
        (200, b'{"access_token":"a\\r\\nb"}', Denial.PASSING, "200"),
        (403, b'{"error":"access_denied"}', Denial.PASSING, "403 access_denied"),
        (429, b'{"error":"rate_limited"}', Denial.PASSING, "429 rate_limited"),
        (500, b'{"error":{"code":1}}', Denial.PASSING, "500"),
        (400, HTML, Denial.PASSING, "400"),
        (401, HTML, Denial.PASSING, "401"),
        (504, HTML, Denial.PASSING, "504"),
        (200, b"", Denial.PASSING, "200"),
        (200, b"[]", Denial.PASSING, "200"),
        (200, b'{"access_token": "half a', Denial.PASSING, "200"),
        (200, b"\xff\xfe", Denial.PASSING, "200"),
    ],
)
def test_answers_without_tokens(status: int, body: bytes, denial: Denial, reason: str) -> None:
    given = refusal(status, body)
    assert given.denial is denial
    assert reason in given.reason


@pytest.mark.parametrize("code", ["sim-refresh-abc", "x" * 41, "A b", "e\x1b[2J", 7])
def test_a_code_that_is_no_plain_word_is_not_shown(code: object) -> None:
    assert refusal(400, json.dumps({"error": code}).encode()).reason == "the login server answered 400"


def test_no_secret_in_any_repr() -> None:
    body = json.dumps(ANSWER).encode()
    shown = repr(TokenReply(200, None, body)) + repr(grant()) + repr(refusal(400, b'{"error":"rt-1"}'))
    assert not any(secret in shown for secret in ("at-2", "rt-2", "rt-1"))


@pytest.mark.parametrize(
    ("expires_in", "expected_s"),
    [
        (3600, 3600), (3600.5, 3600.5), ("7200", 7200), (60, 60), (86_400, 86_400),
        (0, 60), (-1, 60), (59.9, 60), ("-5", 60), (float("-inf"), 60),
        (1e12, 86_400), (10**400, 3600), ("1e12", 86_400), (float("inf"), 86_400), (86_401, 86_400),
        (None, 3600), ("", 3600), ("soon", 3600), (True, 3600), ([], 3600), (float("nan"), 3600), ("nan", 3600),
    ],
)  # fmt: skip
def test_the_life_of_a_token_is_between_a_minute_and_a_day(expires_in: object, expected_s: float) -> None:
    assert lifetime_s(expires_in) == expected_s


@pytest.mark.parametrize(
    ("date_s", "expected_s"),
    [(None, 0), (NOW_S, 0), (NOW_S + 30, 0), (NOW_S - 30, 0), (NOW_S + 31, 31), (NOW_S - 7200, -7200), (0, 0), (-9, 0)],
)
def test_clocks_that_differ(date_s: float | None, expected_s: float) -> None:
    assert skew_s(date_s, NOW_S) == expected_s


def test_new_tokens_replace_the_old_and_all_else_stays() -> None:
    document = login_document(grant(resource_url="portal.qwen.ai"), NOW_S, BEFORE)
    assert document == BEFORE | {
        "access_token": "at-2",
        "refresh_token": "rt-2",
        "resource_url": "portal.qwen.ai",
        "expiry_date": 1_700_003_600_000,
    }
    assert list(document) == list(BEFORE)


def test_what_the_answer_lacks_is_kept() -> None:
    document = login_document(grant(refresh_token=None, resource_url=None), NOW_S, BEFORE)
    assert (document["refresh_token"], document["resource_url"]) == ("rt-1", "dashscope.aliyuncs.com")


@pytest.mark.parametrize("kept", [{}, {"token_type": None}, {"token_type": ""}])
def test_a_document_that_the_cli_takes_for_a_login(kept: dict[str, object]) -> None:
    """Its validator: three texts that are not empty, and a number that is not zero."""
    document = login_document(grant(resource_url=None), NOW_S, kept)
    assert all(document[name] for name in ("access_token", "refresh_token", "token_type", "expiry_date"))
    assert "resource_url" not in document


@given(
    st.integers(100, 599),
    st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from([*ANSWER, "error"]),
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
        ).map(lambda document: json.dumps(document).encode()),
    ),
)
def test_any_answer_is_tokens_or_a_refusal(status: int, body: bytes) -> None:
    given = read_answer(TokenReply(status, None, body))
    if isinstance(given, Grant):
        document = login_document(given, NOW_S, {"resource_url": "portal.qwen.ai"})
        document["resource_url"] = "portal.qwen.ai"
        assert NOW_S * 1000 + 60_000 <= token_of(document).expires_ms <= NOW_S * 1000 + 86_400_000
    else:
        assert given.reason.isprintable()

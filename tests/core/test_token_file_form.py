"""A login as bytes: as the CLI writes it, and as other proxies keep it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.oauth import parse_token_file, token_of
from qproxy.core.token_file import imported_document, parse_rfc3339, token_file

JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


def test_the_cli_would_write_the_same_bytes() -> None:
    document = {"access_token": "at", "refresh_token": "rt", "token_type": "Bearer", "expiry_date": 1_700_000_000_000}
    assert token_file(document) == (
        b'{\n  "access_token": "at",\n  "refresh_token": "rt",\n  "token_type": "Bearer",\n'
        b'  "expiry_date": 1700000000000\n}'
    )


@given(st.dictionaries(st.text(max_size=10), JSON_VALUES, max_size=5))
def test_unknown_keys_come_back_as_they_were(others: dict[str, object]) -> None:
    document = {**others, "access_token": "at", "token_type": "Bearer", "resource_url": None, "expiry_date": 5}
    data = token_file(document)
    assert parse_token_file(data).document == document
    assert list(parse_token_file(data).document) == list(document)
    assert json.loads(data) == document


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-04-15T12:00:00Z", 1_776_254_400),
        ("2026-04-15t12:00:00z", 1_776_254_400),
        ("2026-04-15T20:00:00+08:00", 1_776_254_400),
        ("2026-04-15T08:30:00-03:30", 1_776_254_400),
        ("2026-04-15T12:00:00.250Z", 1_776_254_400.25),
        ("2026-04-15T12:00:00.123456789+00:00", 1_776_254_400.123456789),
        ("2024-02-29T00:00:00Z", 1_709_164_800),
        (" 2026-04-15 12:00:00Z\n", 1_776_254_400),
    ],
)
def test_times_as_rfc_3339_has_them(text: str, expected_s: float) -> None:
    assert parse_rfc3339(text) == pytest.approx(expected_s, abs=1e-6)


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001 - hypothesis wants them without
    st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_every_time_is_that_of_the_library(moment: datetime, zone: timezone) -> None:
    moment = moment.replace(tzinfo=UTC).astimezone(zone)
    assert parse_rfc3339(moment.isoformat()) == pytest.approx(moment.timestamp(), abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "2026-04-15", "2026-04-15T12:00:00", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z", "2026-04-15T24:00:00Z", "2026-04-15T12:60:00Z", "2026-04-15T12:00:61Z",
        "0000-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2026-04-00T00:00:00Z", "٢٠٢٦-04-15T12:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="expired is not"):
        parse_rfc3339(text)


def test_the_form_of_another_proxy() -> None:
    data = json.dumps(
        {
            "access_token": "at", "refresh_token": "rt", "resource_url": "portal.qwen.ai", "type": "qwen",
            "email": "somebody", "last_refresh": "2026-04-15T11:00:00Z", "expired": "2026-04-15T12:00:00Z",
        }
    ).encode()  # fmt: skip
    document = imported_document(data)
    assert document == {
        "access_token": "at",
        "refresh_token": "rt",
        "resource_url": "portal.qwen.ai",
        "token_type": "Bearer",
        "expiry_date": 1_776_254_400_000,
    }
    assert token_of(document).access_token == "at"


def test_the_clis_own_form_is_taken_as_it_is() -> None:
    document = {"access_token": "at", "expiry_date": 5, "expired": "whatever", "other": 1}
    assert imported_document(json.dumps(document).encode()) == document


@pytest.mark.parametrize("expired", [7, None, [], "soon"])
def test_another_form_with_a_bad_time(expired: object) -> None:
    with pytest.raises(ValueError, match="expired is not"):
        imported_document(json.dumps({"access_token": "at", "expired": expired}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xef\xbb\xbf{}"])
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(ValueError, match="the file"):
        imported_document(data)

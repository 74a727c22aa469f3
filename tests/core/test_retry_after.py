"""How long the upstream wants to be left alone, out of whatever stands in its headers."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.retry_after import MAX_RETRY_AFTER_S, http_date_s, retry_after_s

NOW_S = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (b"0", 0.0),
        (b"7", 7.0),
        (b" 7\t", 7.0),
        (b"1.5", 1.5),
        (b"604801", MAX_RETRY_AFTER_S),
        (b"9" * 5000, MAX_RETRY_AFTER_S),
        (b"Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        (b"Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        (b"Sun Nov  6 08:50:37 1994", 60.0),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        (b"Sat, 05 Nov 1994 08:49:37 GMT", 0.0),
        (b"Wed, 21 Oct 2099 07:28:00 GMT", MAX_RETRY_AFTER_S),
    ],
)
def test_seconds_and_dates(value: bytes, wait_s: float) -> None:
    assert retry_after_s([(b"Retry-After", value)], NOW_S) == wait_s


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b"-1",
            b"+1",
            b"soon",
            b"1s",
            b"1e3",
            b"0x10",
            b"nan",
            b"inf",
            b".5",
            b"1,5",
            b"1 2",
            b"\xd9\xa1",
            b"\x00",
        ),
        *(b"Sun, 06 Nov 1994 08:50:37", b"Sun, 06 Nox 1994 08:50:37 GMT", b"Sun, 06 Nov 1994 08:50:37 +0100"),
        *(b"Sun, 06 Nov 0000 08:50:37 GMT", b"1994-11-06T08:50:37Z", b"Sun, 6 Nov 1994 08:50:37 GMT"),
    ],
)
def test_garbage_is_left_out(value: bytes) -> None:
    assert retry_after_s([(b"retry-after", value)], NOW_S) is None
    assert retry_after_s([(b"retry-after-ms", value)], NOW_S) is None


def test_milliseconds_come_first_if_they_are_any() -> None:
    assert retry_after_s([(b"retry-after", b"3"), (b"retry-after-ms", b"1500")], NOW_S) == 1.5
    assert retry_after_s([(b"retry-after-ms", b"soon"), (b"retry-after", b"3")], NOW_S) == 3.0
    assert retry_after_s([(b"retry-after-ms", b"99999999999")], NOW_S) == MAX_RETRY_AFTER_S


def test_without_the_header() -> None:
    assert retry_after_s([], NOW_S) is None
    assert retry_after_s([(b"x-retry-after", b"3"), (b"date", b"Sun, 06 Nov 1994 08:50:37 GMT")], NOW_S) is None


@given(st.integers(0, 4_102_444_800))
def test_every_date_that_the_standard_library_writes(at_s: int) -> None:
    assert http_date_s(formatdate(at_s, usegmt=True).encode()) == at_s


@given(
    st.one_of(st.binary(max_size=40), st.from_regex(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\Z"))
)
def test_no_value_is_an_exception(value: bytes) -> None:
    wait_s = retry_after_s([(b"retry-after", value)], NOW_S)
    assert wait_s is None or 0 <= wait_s <= MAX_RETRY_AFTER_S

"""When the upstream wants to be asked again: `Retry-After` and `retry-after-ms`, bounded, garbage left out.

No such header is documented for Qwen (`qwen-wire.md` 7.3); gateways in front of it and self-hosted servers send them.
"""

from __future__ import annotations

import re
from calendar import timegm
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_RETRY_AFTER_S = (
    7 * 24 * 3600.0
)  # of a plan's windows only a month is longer; whoever says more is asked again after it

_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]*)?")
_TIME = rb"(?P<hour>[0-2][0-9]):(?P<minute>[0-5][0-9]):(?P<second>[0-6][0-9])"
_DATES = (
    re.compile(
        rb"[A-Za-z]{3,9}, (?P<day>[0-3][0-9])[ -](?P<month>[A-Za-z]{3})[ -](?P<year>[0-9]{4}|[0-9]{2}) "
        + _TIME
        + rb" GMT"
    ),
    re.compile(rb"[A-Za-z]{3} (?P<month>[A-Za-z]{3}) (?P<day>[ 0-3][0-9]) " + _TIME + rb" (?P<year>[0-9]{4})"),
)
"""RFC 9110 5.6.7: the date of today, that of RFC 850, and that of asctime; all must be read."""

_MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")


def retry_after_s(headers: Iterable[tuple[bytes, bytes]], now_s: float) -> float | None:
    """Seconds from `now_s` (Unix time) until the upstream wants to be asked again: 0 to 7 days; None if it names none.

    `retry-after-ms`, the finer one, comes first. Values that are neither a number nor a date, negative ones among
    them, are left out; a date that has passed is 0.
    """
    found = {name.lower(): value.strip() for name, value in headers}
    waits_s = (_number(found.get(b"retry-after-ms"), 1000.0), _number(found.get(b"retry-after"), 1.0))
    wait_s = next((wait_s for wait_s in waits_s if wait_s is not None), None)
    if wait_s is None:
        at_s = http_date_s(found.get(b"retry-after", b""))
        wait_s = None if at_s is None else at_s - now_s
    return None if wait_s is None else min(max(0.0, wait_s), MAX_RETRY_AFTER_S)


def http_date_s(value: bytes) -> float | None:
    """The Unix time of an HTTP date in any of its three forms; None where it is none."""
    found = next((match for pattern in _DATES if (match := pattern.fullmatch(value))), None)
    if found is None or found["month"].lower() not in _MONTHS:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        year += 2000 if year < 70 else 1900  # RFC 850's years; nothing on HTTP is older than Unix time
    month = _MONTHS.index(found["month"].lower()) + 1
    clock = (int(found["hour"]), int(found["minute"]), int(found["second"]))
    try:
        return float(timegm((year, month, int(found["day"]), *clock)))
    except ValueError:  # year 0000
        return None


def _number(value: bytes | None, per_second: float) -> float | None:
    return float(value) / per_second if value is not None and _NUMBER.fullmatch(value) else None

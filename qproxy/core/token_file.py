"""A login as the bytes of a file: how it is written, and the other proxies' form that `qproxy auth import` reads."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping

import orjson

from qproxy.core.oauth import json_object

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def token_file(document: Mapping[str, object]) -> bytes:
    """The document as the CLI writes it: two spaces of indentation, no newline at the end."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def imported_document(data: bytes) -> dict[str, object]:
    """The credentials document in a file of another program: the CLI's own form, or CLIProxyAPI's, whose `expired` is
    an RFC 3339 time where the CLI has `expiry_date`.

    Raises ValueError with a reason for people. What the document says is still to be checked: see `oauth.token_of`.
    """
    document = json_object(data)
    if "expiry_date" in document or "expired" not in document:
        return document
    kept = ("access_token", "refresh_token", "resource_url")
    return {
        **{name: document[name] for name in kept if name in document},
        "token_type": "Bearer",
        "expiry_date": int(parse_rfc3339(str(document["expired"])) * 1000),
    }


def parse_rfc3339(text: str) -> float:
    """Unix seconds. Raises ValueError."""
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise ValueError("expired is not a time like 2026-04-15T12:00:00Z")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if year < 1970 or not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise ValueError("expired is not a day of the calendar")
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("expired is not a time of the day")
    return calendar.timegm((year, month, day, hour, minute, second)) + float(match[7] or 0) - _offset_s(match)


def _offset_s(match: re.Match[str]) -> int:
    if match[9] is None:
        return 0
    offset_s = int(match[10]) * 3600 + int(match[11]) * 60
    return -offset_s if match[9] == "-" else offset_s

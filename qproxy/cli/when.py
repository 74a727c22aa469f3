"""Points in time and spans of it, in the words of the command line."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(time_s: float) -> str:
    """Unix time as `2026-11-21T10:00:00Z`; a time that no calendar has is `unknown`."""
    try:
        return datetime.fromtimestamp(int(time_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "unknown"


def span(duration_s: float) -> str:
    """`3 h 5 min`, `5 min` or `40 s`."""
    minutes, seconds = divmod(max(0, int(duration_s)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds} s"

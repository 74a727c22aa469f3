"""Typed looks at the fields of a request body that nobody has checked yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from qproxy.simulator.request import JsonObject


def as_object(value: object) -> JsonObject:
    """The value where it is an object, else an empty one."""
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    """The value where it is an array, else an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The value where it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def as_count(value: object, default: int) -> int:
    """The value where it is an integer, else the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default

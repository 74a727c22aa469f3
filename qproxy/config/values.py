"""What a setting may hold: the types of values, each with the words that an error uses for it."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from datetime import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from urllib.parse import urlsplit

from qproxy.core.login_files import is_account_id
from qproxy.core.oauth import is_loopback_host
from qproxy.core.upstream import BaseUrl

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
TIME_OF_DAY = re.compile(r"[0-9]{2}:[0-9]{2}([+-][0-9]{2}:[0-9]{2})?")
SWITCH_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class ConfigError(Exception):
    """The configuration cannot be used. The text is one line: the key, its value (never a secret), what is allowed."""


class Secret:
    """A key. Its value comes out of `reveal()` alone, never out of repr, str, format or a pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


@dataclass(frozen=True, slots=True)
class ValueType(Generic[T]):
    """One type of value. `allowed` completes "must be …".

    `parse` takes a value of TOML's own types and raises ValueError where it does not fit, with a text where `allowed`
    does not say enough. `from_text` makes such a value from the text of a flag or a variable, or leaves the text as it
    is for `parse` to refuse.
    """

    allowed: str
    parse: Callable[[object], T]
    from_text: Callable[[str], object] = str
    is_secret: bool = False


def whole_number(minimum: int, maximum: int) -> ValueType[int]:
    def parse(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        raise ValueError

    return ValueType(f"a whole number from {minimum} to {maximum}", parse, _number_from_text)


def seconds(maximum: float) -> ValueType[float]:
    def parse(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= maximum:
            return float(value)
        raise ValueError

    return ValueType(f"a number of seconds above 0, at most {maximum:g}", parse, _number_from_text)


def seconds_or_zero(maximum: float) -> ValueType[float]:
    """For clocks that have a meaning at 0."""

    def parse(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= maximum:
            return float(value)
        raise ValueError

    return ValueType(f"a number of seconds from 0 to {maximum:g}", parse, _number_from_text)


def switch() -> ValueType[bool]:
    def parse(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise ValueError

    return ValueType("true or false", parse, lambda text: SWITCH_WORDS.get(text.strip().lower(), text))


def text(allowed: str, parse_text: Callable[[str], str]) -> ValueType[str]:
    """One string; `parse_text` returns its normal form or raises ValueError."""

    def parse(value: object) -> str:
        if isinstance(value, str):
            return parse_text(value)
        raise ValueError

    return ValueType(allowed, parse)


def texts(allowed: str, parse_text: Callable[[str], str]) -> ValueType[tuple[str, ...]]:
    """A list of strings; comma separated in a variable."""

    def parse(value: object) -> tuple[str, ...]:
        return tuple(parse_text(item) for item in _list_of_text(value))

    return ValueType(f"a list; each must be {allowed}", parse, _split_commas)


def secret(allowed: str = "a key, env:NAME or file:PATH") -> ValueType[Secret]:
    """A key as it was given; `env:` and `file:` references are followed by `qproxy.config.keys`."""

    def parse(value: object) -> Secret:
        if isinstance(value, str) and value:
            return Secret(value)
        raise ValueError

    return ValueType(allowed, parse, is_secret=True)


def secrets() -> ValueType[tuple[Secret, ...]]:
    def parse(value: object) -> tuple[Secret, ...]:
        return tuple(Secret(item) for item in _list_of_text(value))

    return ValueType("a list of keys, each a key, env:NAME or file:PATH", parse, _split_commas, is_secret=True)


def bind_host(value: str) -> str:
    """Where to listen: an address, a name, or `unix:/path.sock`."""
    if value.startswith("unix:"):
        if value.startswith("unix:/") and "\0" not in value:
            return value
        raise ValueError("a unix socket is written unix:/path.sock")
    return host_name(value)


def host_name(value: str) -> str:
    """A name or an address without port and brackets, in lower case."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if HOST_NAME.fullmatch(value) and len(value) <= 253:
        return value.lower()
    raise ValueError


def authority(value: str) -> str:
    """A Host as clients send it: a name or an address, IPv6 in brackets, with a port or without, in lower case."""
    if value.count(":") == 1:
        name, _, port = value.partition(":")
        return f"{host_name(name)}:{_port(port)}"
    if value.startswith("[") and "]:" in value:
        address, _, port = value.partition("]:")
        return f"[{host_name(address[1:])}]:{_port(port)}"
    host = host_name(value)
    return f"[{host}]" if ":" in host else host


def token_host(value: str) -> str:
    """A host name, or `*.` and a suffix of at least two labels."""
    if value.startswith("*."):
        if "." not in value[2:]:
            raise ValueError
        return "*." + host_name(value[2:])
    return host_name(value)


def origin(value: str) -> str:
    """An Origin as browsers send it, `scheme://host[:port]` in lower case, or `*`."""
    if value == "*":
        return value
    parts = urlsplit(value)
    if parts.scheme and parts.hostname and value.lower() == f"{parts.scheme}://{parts.netloc}".lower():
        return value.lower()
    raise ValueError


def login_url(value: str) -> str:
    """Where a login is made: https, or plain http to this machine."""
    base = BaseUrl.parse(value)
    if base.scheme == "https" or (base.socket_path is None and is_loopback_host(base.host)):
        return str(base)
    raise ValueError


def account_id(value: str) -> str:
    """The id of an account, or empty for none."""
    if not value or is_account_id(value):
        return value
    raise ValueError


def time_of_day(value: str) -> str:
    """`HH:MM`, and the offset from UTC where it has one."""
    if not TIME_OF_DAY.fullmatch(value):
        raise ValueError
    try:
        return time.fromisoformat(value).isoformat("minutes")
    except ValueError:
        raise ValueError from None  # its text speaks to programmers


def model_name(value: str) -> str:
    """Any printable name; empty switches the setting off."""
    if value.isprintable():
        return value
    raise ValueError


def non_empty(value: str) -> str:
    if value.strip() and value.isprintable():
        return value.strip()
    raise ValueError


def _list_of_text(value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        raise ValueError  # noqa: TRY004 - a wrong type is told like any other wrong value
    items = [item for item in value if isinstance(item, str) and item]
    if len(items) != len(value):
        raise ValueError
    return items


def _port(value: str) -> int:
    if value.isascii() and value.isdecimal() and 1 <= int(value) <= 65535:
        return int(value)
    raise ValueError


def _number_from_text(value: str) -> object:
    for number_type in (int, float):
        try:
            number = number_type(value.strip())
        except ValueError:
            continue
        return number if math.isfinite(number) else value
    return value


def _split_commas(value: str) -> object:
    return [item for part in value.split(",") if (item := part.strip())]

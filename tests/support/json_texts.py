"""Random JSON objects as text: odd spacing, escapes, lone surrogates and look-alikes of the keys that are edited."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

SPACES = st.sampled_from(["", "", " ", "\n", "\t\r\n  "])
KEYS = st.sampled_from(
    [
        '"model"',
        '"model"',
        r'"\u006dodel"',
        r'"mod\u0065L"',
        '"stream"',
        r'"str\u0065am"',
        '"messages"',
        r'"say \"model"',
        r'"model\\"',
        r'"\"model\":\"x\","',
        '""',
        '"ключ"',
        r'"\ud800"',
    ]
)
ODD_LEAVES = [
    *(
        '"model"',
        '"stream"',
        r'"\"model\":\"x\""',
        r'"say \"model"',
        '"qwen3-max"',
        '""',
        '"{"',
        '"}],"',
        '","',
        "[]",
        "{}",
    ),
    *(r'"\\"', r'"\\\""', r'"\ud800"', r'"\\ud800"', r'"\udc00\ud800\udc00"', r'"\ud83d\ude00 \u00e9 é"', r'"\u0000"'),
    *("0", "-0.0", "1E+2", "1e-400", "12345678901234567890123", "true", "false", "null"),
]
LEAVES = st.one_of(
    st.sampled_from(ODD_LEAVES),
    st.text(max_size=8).map(json.dumps),
    st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
)


def _in_brackets(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.builds("{}{}:{}{}".format, KEYS, SPACES, SPACES, values)
    return st.one_of(
        st.builds("[{}{}{}]".format, SPACES, st.lists(values, max_size=3).map(" ,".join), SPACES),
        st.builds("{{{}{}{}}}".format, SPACES, st.lists(pair, max_size=3).map(", ".join), SPACES),
    )


VALUES = st.recursive(LEAVES, _in_brackets, max_leaves=8)
MEMBERS = st.builds("{}{}:{}{}{}".format, KEYS, SPACES, SPACES, VALUES, SPACES)
OBJECTS = st.builds("{0}{{{1}{2}}}{0}".format, SPACES, SPACES, st.lists(MEMBERS, max_size=5).map(",".join))


Document: TypeAlias = tuple[tuple[str, object], ...]


class Entry(NamedTuple):
    """A member as it is written: the quoted key, the colon and the white space around it, the value, white space."""

    key: str
    colon: str
    value: str
    rest: str


def entries(keys: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[Entry]:
    """Members with one of the quoted `keys`."""
    return st.builds(Entry, st.sampled_from(keys), st.sampled_from([":", ": ", " :", "\n:\t"]), values, SPACES)


OTHER_ENTRIES = st.builds(Entry, KEYS, st.just(":"), VALUES, SPACES).filter(
    lambda entry: json.loads(entry.key) not in ("model", "stream")
)


def written(members: Sequence[Entry], space: str = "", first: str = "") -> str:
    """The text of an object with the members, `first` in front of them."""
    return "{" + first + space + ",".join(map("".join, members)) + "}"


def pairs(text: bytes | str) -> Document:
    """The members in order, repeated ones included, numbers as they are written, objects as tuples."""
    decoded = json.loads(text, object_pairs_hook=tuple, parse_float=str, parse_int=str, parse_constant=_refused)
    assert isinstance(decoded, tuple)
    return decoded


def cut(data: st.DataObject, body: bytes) -> list[bytes]:
    """The body in random pieces, some of them empty."""
    at = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4), label="cuts"))
    return [body[first:last] for first, last in zip([0, *at], [*at, len(body)], strict=True)]


def _refused(constant: str) -> NoReturn:
    raise ValueError(constant)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(number)
    return value


def _strictly(text: bytes) -> object:
    """The standard library's parse with all its liberties taken away. Raises ValueError."""
    return json.loads(text.decode(), parse_constant=_refused, parse_float=_finite, parse_int=_finite)


def accepts(text: bytes) -> bool:
    try:
        _strictly(text)
    except ValueError:
        return False
    return True


JUNK = [
    *(
        b"",
        b"",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"0",
        b"1e400",
        b"-",
        b".",
        b"NaN",
        b"-Infinity",
        b"'",
    ),
    *(b"\x00", b"\n", b"\x1f", b"\x7f", b"\x0c", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xef\xbb\xbf", b"\xc2\xa0"),
    *(b"\\ud800", b"\\u12", b"\\x", b"/**/", b"tru", b"model", b"null"),
]


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """An object with some of its bytes replaced or removed; it may happen to stay valid."""
    text = draw(OBJECTS).encode()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(JUNK)) + text[at + draw(st.integers(0, 2)) :]
    return text


DAMAGED = _damaged()

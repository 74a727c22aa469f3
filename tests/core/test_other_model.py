"""A second model at the end of a long body: found where it stands at the top level, and nowhere else."""

from __future__ import annotations

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.jsonscan import CANDIDATES
from qproxy.core.splice import WINDOW_BYTES, refuse_other_model
from qproxy.errors import DownstreamError

NAMES = frozenset({"a", "default:a"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "x", '"model":']), inner),
    max_leaves=6,
)


def is_refused(*pieces: bytes) -> bool:
    try:
        refuse_other_model(pieces, NAMES)
    except DownstreamError as refusal:
        return (refusal.code, refusal.param) == ("duplicate_key", "model")
    return False


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (b'"x"],"model":"b"}', True),
        (b'"x"],"model" : "b" ,"n":1}\n', True),
        (b'"x"],"model":null}', True),
        (b'"x"],"model":7}', True),
        (b'"x"],"model":{"a":1}}', True),
        (b'"x"],"model":"b","model":"a"}', False),
        (b'"x"],"model":"a","model":"b"}', True),
        (b'"x"],"model":"a"}', False),
        (rb'"x"],"model":"\u0061"}', False),
        (b'"x"],"model":"default:a"}', False),
        (b'"x"],"n":{"model":"b"}}', False),
        (b'"x",{"model":"b"}]}', False),
        (rb'"x","{\"model\":\"b\"}"]}', False),
        (b'"x"]}', False),
        (b"", False),
    ],
)
def test_what_is_another_model(end: bytes, expected: bool) -> None:
    assert is_refused(b'{"model":"a","messages":["', end) is expected


@given(VALUES, VALUES, st.lists(st.integers(0, 200), max_size=4))
def test_at_the_top_level_alone(other: object, value: object, cuts: list[int]) -> None:
    """Whatever stands around it, and however it came."""
    rest = orjson.dumps({"x": other, "y": [other]})[1:]
    for body, second in (
        (b'{"model":"a",' + rest, "a"),
        (b'{"model":"a","z":0,"model":%b,' % orjson.dumps(value) + rest, value),
    ):
        offsets = [0, *sorted({cut % len(body) for cut in cuts}), len(body)]
        pieces = [body[first:last] for first, last in pairwise(offsets)]
        if body.count(b'"model"') <= CANDIDATES:  # more look-alikes are not tried
            assert is_refused(*pieces) is not (isinstance(second, str) and second in NAMES)


def test_only_the_end_is_looked_at() -> None:
    padding = b"x" * WINDOW_BYTES
    assert not is_refused(b'{"model":"b","x":"%b"}' % padding)
    assert is_refused(b'{"model":"b","x":"%b"}' % padding[100:])

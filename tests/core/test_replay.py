"""Bodies that are kept, and ends that are held."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.replay import HeldTail, ReplayBudget, ReplayBuffer
from qproxy.core.splice import rename_in_tail
from qproxy.errors import DownstreamError


@given(st.lists(st.binary(max_size=40)), st.integers(min_value=1, max_value=30))
def test_all_but_the_end_goes_on_at_once(pieces: list[bytes], window_bytes: int) -> None:
    whole = b"".join(pieces)
    held = HeldTail(len(whole), window_bytes, bytes.upper)
    gone = b"".join(bytes(held.push(piece)) for piece in pieces)
    assert len(whole) - len(gone) == min(window_bytes, len(whole))
    assert gone + held.finish() == whole[: len(gone)] + whole[len(gone) :].upper()


def test_a_replay_buffer_keeps_the_pieces() -> None:
    replay = ReplayBuffer(5)
    replay.put(b"ab")
    replay.put(b"")
    replay.put(b"cde")
    assert replay.seal() == [b"ab", b"cde"]


def test_one_byte_too_many() -> None:
    replay = ReplayBuffer(5)
    replay.put(b"abcde")
    with pytest.raises(DownstreamError) as caught:
        replay.put(b"f")
    assert caught.value.code == "body_too_large"


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b'...}],"model":"x:abc"}', b'...}],"model":"abc"  }'),
        (b'...}],"model" : "x:abc" ,"n":1}', b'...}],"model" : "abc"   ,"n":1}'),
        (b'...}],"model":"abc"}', b'...}],"model":"abc"}'),
        (b'...}],"model":7}', b'...}],"model":7}'),
        (b'...}],"n":{"model":"x:abc"}}', b'...}],"n":{"model":"x:abc"}}'),
        (b"no model here", b"no model here"),
    ],
)
def test_a_shorter_name_takes_the_place_of_a_longer_one(tail: bytes, expected: bytes) -> None:
    assert rename_in_tail(tail, lambda name: name.removeprefix("x:")) == expected


def test_a_longer_name_does_not_fit() -> None:
    assert rename_in_tail(b'{"model":"a"}', lambda _: "abc") == b'{"model":"a"}'


@given(st.text(max_size=20))
def test_the_length_stays(name: str) -> None:
    tail = b'"x"],"model":' + orjson.dumps("up:" + name) + b"}"
    renamed = rename_in_tail(tail, lambda model: model.removeprefix("up:"))
    assert len(renamed) == len(tail)
    assert orjson.loads(b'{"m":["a",' + renamed)["model"] == name


def test_a_budget_lends_what_it_has() -> None:
    budget = ReplayBudget(10)
    assert budget.take(6)
    assert not budget.take(5)
    assert budget.take(4)
    assert budget.taken_bytes == 10
    budget.give_back(6)
    assert budget.take(5)


def test_more_cannot_come_back_than_was_taken() -> None:
    budget = ReplayBudget(10)
    assert budget.take(6)
    budget.give_back(6)
    with pytest.raises(RuntimeError):
        budget.give_back(1)
    assert budget.taken_bytes == 0


def test_what_is_held_may_be_views() -> None:
    held = HeldTail(6, 3, bytes.upper)
    assert held.push(memoryview(b"ab")) == b"ab"
    assert held.push(memoryview(b"cd")) == b"c"
    assert held.push(b"ef") == b""
    assert held.finish() == b"DEF"

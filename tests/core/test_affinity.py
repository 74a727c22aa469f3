"""The key of a conversation, from real request bodies; and the memory of where conversations went."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core.affinity import (
    BLOCK_BYTES,
    NO_CONVERSATION,
    WINDOW_BYTES,
    Conversation,
    Home,
    Homes,
    Known,
    conversation_of,
)

COMPACT = (",", ":")
SPACED = (", ", ": ")

Message = dict[str, str]


def message(role: str, size: int, seed: int = 0) -> Message:
    letters = random.Random(f"{role} {seed}").choices('abcdefg hijk\n"\\é', k=997)
    return {"role": role, "content": ("".join(letters) * (size // 997 + 1))[:size]}


def body(messages: Sequence[object], *, separators: tuple[str, str] = COMPACT, **others: object) -> bytes:
    return json.dumps({"model": "qwen", "messages": messages, **others}, separators=separators).encode()


def shared(one: Conversation, other: Conversation) -> int:
    """How many hashes both begin with."""
    pairs = zip(one.chain, other.chain, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one.chain), len(other.chain)))


def cut(whole: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(whole[:size])
        whole = whole[size:]
    return [*pieces, whole]


@given(
    st.integers(0, 200_000),
    st.lists(st.integers(0, 70_000), max_size=6),
    st.sampled_from([COMPACT, SPACED]),
)
def test_the_cuts_between_pieces_do_not_matter(size: int, sizes: list[int], separators: tuple[str, str]) -> None:
    whole = body([message("system", 10), message("user", size)], separators=separators)
    assert conversation_of(cut(whole, sizes)) == conversation_of([whole])


SIZES = st.lists(st.integers(0, 6_000), min_size=1, max_size=6)


@given(SIZES, SIZES, st.sampled_from([COMPACT, SPACED]), st.booleans())
def test_a_conversation_that_grew_begins_with_its_earlier_self(
    before: list[int], added: list[int], separators: tuple[str, str], has_tools: bool
) -> None:
    others = {"tools": [{"name": "t" * 3000}], "stream": True} if has_tools else {}
    earlier = [message("user", size, at) for at, size in enumerate(before)]
    later = [*earlier, *(message("user", size, -at) for at, size in enumerate(added, 1))]
    was = conversation_of([body(earlier, separators=separators, **others)])
    now = conversation_of([body(later, separators=separators, temperature=1)])
    bytes_in_common = len(json.dumps(earlier, separators=separators)) - len("]")
    blocks_in_common = min(bytes_in_common // BLOCK_BYTES, WINDOW_BYTES // BLOCK_BYTES)
    assert shared(was, now) >= blocks_in_common
    assert was.settled <= blocks_in_common
    assert now.settled <= len(now.chain)


@given(st.integers(0, 80_000), st.text(max_size=20), st.text(max_size=20))
def test_two_share_what_they_have_in_common_and_no_more(size: int, one: str, other: str) -> None:
    opening = message("system", size)
    bodies = [json.dumps([opening, {"role": "user", "content": text + "x" * 3000}]) for text in (one, other)]
    left, right = (conversation_of([b'{"messages":' + text.encode() + b"}"]) for text in bodies)
    common = next((at for at, (a, b) in enumerate(zip(*bodies, strict=False)) if a != b), None)
    if common is None:
        assert left == right
    else:
        assert shared(left, right) == min(common // BLOCK_BYTES, WINDOW_BYTES // BLOCK_BYTES)


def test_what_comes_after_a_difference_is_different() -> None:
    """Or an account would be sought for the text of a file that was read in another conversation."""
    before, behind = (conversation_of([body([{"role": role}, message("user", 10_000)])]) for role in ("user", "tool"))
    assert len(before.chain) == len(behind.chain) > 8
    assert not set(before.chain) & set(behind.chain)


def test_users_of_one_agent_part_within_a_block_of_their_own_words() -> None:
    opening = message("system", 20_000)
    one, other = (conversation_of([body([opening, message("user", 2_000, seed)])]) for seed in (1, 2))
    assert len(json.dumps(opening)) // BLOCK_BYTES <= shared(one, other) < len(one.chain)


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"{}",
        b'{"messages":[]}',
        b'{"messages"',
        b'{"messages":',
        body([message("user", 500)]),
        b'{"messages of mine":"' + b"x" * 3000 + b'"}',
        b'{"a":"' + b"x" * WINDOW_BYTES + b'","messages":"' + b"x" * 3000 + b'"}',
        b"\xff" * 3000,
    ],
)
def test_no_key(whole: bytes) -> None:
    assert conversation_of([whole]) == NO_CONVERSATION


def test_no_pieces() -> None:
    assert conversation_of([]) == NO_CONVERSATION


@pytest.mark.parametrize("field", ["messages", "input", "prompt"])
@pytest.mark.parametrize("space", ["", " ", "\r\n\t "])
def test_the_value_begins_behind_the_colon(field: str, space: str) -> None:
    text = '"' + "x" * 3000
    key = conversation_of([f'{{"model":"m","{field}"{space}:{space}{text}'.encode()])
    assert len(key.chain) == len(text) // BLOCK_BYTES
    assert key == conversation_of([f'{{"{field}":{text}'.encode()])


def test_the_field_may_come_late() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 20_000, "required": ["messages"]}}]
    late = json.dumps({"model": "m", "tools": tools, "messages": [message("user", 3000)]}).encode()
    early = json.dumps({"messages": [message("user", 3000)]}).encode()
    assert len(conversation_of([late]).chain) >= 3
    assert shared(conversation_of([late]), conversation_of([early])) >= 3


def test_a_look_alike_moves_the_start_and_nothing_else() -> None:
    """A tool with a parameter called `messages`, in front of the real ones."""
    schema = {"properties": {"messages": {"type": "string", "description": "d" * 2000}}}
    first, second = message("user", 3000, 1), message("user", 3000, 2)

    def key(messages: list[Message]) -> Conversation:
        return conversation_of([json.dumps({"tools": [schema], "messages": messages}).encode()])

    assert shared(key([first]), key([first, second])) >= 4


def test_the_first_64_kib_of_the_value_count() -> None:
    long, longer = (conversation_of([body([message("user", 100_000), message("user", size)])]) for size in (1, 90_000))
    assert len(long.chain) == WINDOW_BYTES // BLOCK_BYTES
    assert long == longer


class Pieces(Sequence[bytes]):
    """A body of which nobody may touch the end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces) + 1

    def __getitem__(self, at: int) -> bytes:  # type: ignore[override]
        if at >= len(self.pieces):
            raise AssertionError("the end of the body was touched")
        return self.pieces[at]

    def __iter__(self) -> Iterator[bytes]:
        return (self[at] for at in range(len(self)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_more_than_128_kib_are_looked_at(count: int) -> None:
    whole = body([message("user", 2 * WINDOW_BYTES)])[: 2 * WINDOW_BYTES]
    step = -(-len(whole) // count)
    pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert conversation_of(Pieces(pieces)) == conversation_of([whole])


@pytest.mark.parametrize("separators", [COMPACT, SPACED])
def test_what_stands_before_the_last_message_is_settled(separators: tuple[str, str]) -> None:
    system, question = message("system", 5000), message("user", 9000)
    tools = [{"parameters": {"properties": {"role": {"type": "string"}, "x": {"description": "d" * 4000}}}}]
    key = conversation_of([body([system, question], separators=separators, tools=tools)])
    assert key.settled == (len(json.dumps([system], separators=separators)) + 1) // BLOCK_BYTES
    assert key.settled < len(key.chain)


def test_one_message_alone_is_not_settled() -> None:
    assert conversation_of([body([message("user", 9000)])]).settled == 0
    assert conversation_of([b'{"input":"' + b"x" * 9000 + b'"}']).settled == 0


def chain(*blocks: int, settled: int = 0) -> Conversation:
    """Hashes as `conversation_of` makes them: each stands for itself and all before it."""
    return Conversation(tuple(hash(blocks[: at + 1]) for at in range(len(blocks))), settled)


class TestHomes:
    def test_nothing_is_known_at_first(self) -> None:
        assert Homes().find(chain(1, 2)) == Known(0, None, expired=False)
        assert Homes().find(NO_CONVERSATION) == Known(0, None, expired=False)

    def test_the_longest_known_beginning_counts(self) -> None:
        homes = Homes()
        homes.keep(chain(1, 2, 3, settled=2), "a", 0)
        homes.keep(chain(1, 2, 4, settled=2), "b", 2)
        assert homes.find(chain(1, 2, 3, 5)) == Known(3, Home("a", 2), expired=False)
        assert homes.find(chain(1, 2, 4, 5)) == Known(3, Home("b", 2), expired=False)
        assert homes.find(chain(1, 2, 5)) == Known(2, Home("a", 2), expired=False)
        assert homes.find(chain(2)) == Known(0, None, expired=False)

    def test_blocks_move_from_the_given_one_on(self) -> None:
        homes = Homes()
        homes.keep(chain(1, 2, 3, settled=3), "a", 0)
        homes.keep(chain(1, 2, 3, 4, settled=1), "b", 2)
        assert homes.find(chain(1, 2)).home == Home("a", 3)
        assert homes.find(chain(1, 2, 3)).home == Home("b", 1)
        assert homes.find(chain(1, 2, 3, 4)).home == Home("b", 1)

    def test_a_later_request_does_not_settle_more_of_a_shared_opening(self) -> None:
        homes = Homes()
        homes.keep(chain(1, settled=1), "a", 0)
        homes.keep(chain(1, 2, 3, settled=3), "b", 0)
        assert homes.find(chain(1)).home == Home("b", 1)

    def test_what_is_not_used_expires(self) -> None:
        homes = Homes(limit=8)
        homes.keep(chain(1, 2), "a", 0)
        for other in range(10, 16):
            homes.keep(chain(other), "b", 0)
        assert homes.find(chain(1, 2)) == Known(0, None, expired=True)
        for other in range(20, 28):
            homes.keep(chain(other), "b", 0)
        assert homes.find(chain(1, 2)) == Known(0, None, expired=False)

    def test_what_is_used_stays(self) -> None:
        homes = Homes(limit=8)
        homes.keep(chain(1, 2), "a", 0)
        for other in range(10, 40):
            homes.keep(chain(other), "b", 0)
            homes.keep(chain(1, 2), "a", 2)
        assert homes.find(chain(1, 2)).home == Home("a", 0)

    def test_an_opening_outlives_the_conversation_behind_it(self) -> None:
        homes = Homes(limit=8)
        homes.keep(chain(1, 2), "a", 0)
        for other in range(10, 15):
            homes.keep(chain(1, other), "b", 1)
        assert homes.find(chain(1, 2)) == Known(1, Home("a", 0), expired=True)

    @settings(max_examples=200)
    @given(
        st.integers(1, 40),
        st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=6), st.sampled_from("abc"), st.integers(-1, 6))),
    )
    def test_it_is_bounded_and_a_known_block_has_known_ones_before_it(
        self, limit: int, kept: list[tuple[list[int], str, int]]
    ) -> None:
        homes = Homes(limit)
        for blocks, account_id, moved_from in kept:
            homes.keep(chain(*blocks), account_id, moved_from)
            assert len(homes) <= limit + 12
            depths = [homes.find(chain(*blocks[:stop])).depth for stop in range(len(blocks) + 1)]
            assert depths == list(range(len(blocks) + 1)) or limit < 12
        for blocks, _, _ in kept:
            depth = homes.find(chain(*blocks)).depth
            assert [homes.find(chain(*blocks[:stop])).depth for stop in range(depth + 1)] == list(range(depth + 1))

"""Rows of counts and their sum."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.counts import (
    MAX_NAME_CHARS,
    MAX_NAMES,
    OTHER_MODELS,
    CountKey,
    CountRow,
    Tally,
    one_request,
)
from qproxy.core.usage import Usage

KEY = CountKey("2026-11-21", "dashscope", "key-1", "qwen-plus")


def tallied(rows: Iterable[CountRow]) -> Tally:
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally


def test_a_request_with_usage() -> None:
    row = one_request(KEY, Usage(10, 4, 14, 8, 3))
    assert row == CountRow(*KEY, 1, 0, 10, 4, 14, 8)
    assert row.key == KEY


def test_a_request_without_usage_counts_all_the_same() -> None:
    assert one_request(KEY, None, errors=1) == CountRow(*KEY, requests=1, errors=1)


def test_rows_of_one_key_are_added_up() -> None:
    tally = tallied([CountRow(*KEY, 1, 0, 10, 4, 14, 8), CountRow(*KEY, 2, 1, 30, 5, 35, 0)])
    assert tally.take() == [CountRow(*KEY, 3, 1, 40, 9, 49, 8)]


def test_a_row_is_taken_once() -> None:
    tally = tallied([one_request(KEY, None)])
    assert tally
    assert len(tally.take()) == 1
    assert not tally
    assert tally.take() == []


keys = st.builds(CountKey, *(st.sampled_from(["a", "b"]) for _ in CountKey._fields))
numbers = st.integers(0, 1000)
rows = st.builds(
    lambda key, counts: CountRow(*key, *counts), keys, st.tuples(numbers, numbers, numbers, numbers, numbers, numbers)
)


@given(st.lists(st.one_of(rows, st.none()), max_size=30))
def test_nothing_is_lost_or_counted_twice(story: list[CountRow | None]) -> None:
    """None: somebody takes what is there."""
    tally, taken = Tally(), []
    for row in story:
        if row is None:
            taken += tally.take()
        else:
            tally.add(row)
    taken += tally.take()
    noted = [row for row in story if row is not None]
    for key in {row.key for row in noted}:
        sums = [sum(column) for column in zip(*(row[4:] for row in noted if row.key == key), strict=True)]
        assert sums == [sum(column) for column in zip(*(row[4:] for row in taken if row.key == key), strict=True)]
    assert {row.key for row in taken} == {row.key for row in noted}


def invented(count: int, day: str = KEY.day) -> list[CountRow]:
    return [one_request(KEY._replace(day=day, model=f"model-{number}"), None) for number in range(count)]


def test_too_many_names_are_counted_together() -> None:
    rows = tallied(invented(MAX_NAMES + 500)).take()
    assert len(rows) == MAX_NAMES + 1
    assert rows[-1] == CountRow(*KEY._replace(model=OTHER_MODELS), requests=500)


def test_the_limit_is_one_of_the_day_and_not_of_what_waits() -> None:
    tally = tallied(invented(MAX_NAMES))
    tally.take()
    tally.add(one_request(KEY._replace(model="one more"), None))
    tally.add(one_request(KEY._replace(model="model-0"), None))
    assert [row.model for row in tally.take()] == [OTHER_MODELS, "model-0"]


def test_a_new_day_knows_no_names() -> None:
    tally = tallied(invented(MAX_NAMES))
    tally.take()
    tally.add(one_request(KEY._replace(day="2026-11-22", model="one more"), None))
    assert [row.model for row in tally.take()] == ["one more"]


def test_what_waits_is_bounded_over_many_days() -> None:
    days = [f"2026-11-{day}" for day in range(10, 20)]
    tally = tallied(row for day in days for row in invented(MAX_NAMES // 2, day))
    assert len(tally.take()) <= MAX_NAMES + len(days)


def test_a_long_name_is_cut() -> None:
    tally = tallied(one_request(KEY._replace(model="x" * length), None) for length in (MAX_NAME_CHARS, 100_000))
    assert tally.take() == [CountRow(*KEY._replace(model="x" * MAX_NAME_CHARS), requests=2)]

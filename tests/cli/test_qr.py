"""The QR code in half blocks, read back by a scanner."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.cli.qr import can_show, coloured, qr_code
from tests.support.tty import decoded

PAGE = "https://chat.qwen.ai/authorize?user_code=ABCD1234&client=qwen-code"


@pytest.mark.parametrize(("columns", "lines", "size"), [(80, 24, (41, 21)), (80, 20, (37, 19)), (37, 60, (37, 19))])
def test_it_is_as_large_as_there_is_room(columns: int, lines: int, size: tuple[int, int]) -> None:
    rows = qr_code(PAGE, columns, lines)
    assert rows is not None
    assert ({len(row) for row in rows}, len(rows)) == ({size[0]}, size[1])
    assert decoded(rows) == [PAGE]


@pytest.mark.parametrize(("columns", "lines"), [(36, 60), (80, 18), (0, 0)])
def test_where_there_is_no_room_there_is_none(columns: int, lines: int) -> None:
    assert qr_code(PAGE, columns, lines) is None


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300))
def test_every_address_can_be_read_back(text: str) -> None:
    rows = qr_code(text, 1000, 1000)
    assert rows is not None
    assert decoded(rows) == [text]


def test_with_colours_of_its_own_it_can_be_read_on_a_light_terminal_too() -> None:
    rows = qr_code(PAGE, 80, 24)
    assert rows is not None
    assert decoded(rows, light_terminal=True) == []
    assert decoded([coloured(row) for row in rows], light_terminal=True) == [PAGE]


@pytest.mark.parametrize(
    ("encoding", "answer"), [("utf-8", True), ("cp437", True), ("ascii", False), ("latin-1", False), (None, False)]
)
def test_not_every_terminal_has_the_blocks(encoding: str | None, answer: bool) -> None:
    assert can_show(encoding) == answer

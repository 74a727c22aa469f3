"""Cuts change no count, and no piece is too long."""

from __future__ import annotations

import random
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import qproxy.errors
from qproxy.core.tokens import Unencodable
from qproxy.core.tokens.cutting import MOST_CHARACTERS, Tally, TallyState, count_text, last_cut
from qproxy.core.tokens.estimate import EstimatedVocabulary, estimate
from tests.support.vocabulary import ByWords, qwen

AWKWARD = st.sampled_from(
    [" ", "  ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "a", "word", "'s", "'S", "don't", "\u017f", "1", "12", "½",
     "²", "(", ")", "...", "=", "://", "_", "-", "\u3000", "\xa0", "\x1c", "\u2028", "é", "e\u0301", "\u0301",
     "\u0338", "=\u0338", "中文", "\uff0c", "。", "“", "한글", "\u1100", "\u1161", "가\u11a8", "ไทย", "🙂",
     "👨\u200d👩", "\u2000", "Å", "\u212b", "ﬁ", "\u0f71", "\u0345", "\ud83d", "<|im_end|>"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(AWKWARD, st.text(max_size=3)), max_size=40).map("".join)


@settings(deadline=None, max_examples=400)
@given(TEXTS, st.integers(0, 200))
@example("a \u0301b", 1)
@example("=\n\n  x", 3)
@example("x's", 1)
def test_a_cut_changes_no_count(text: str, stop: int) -> None:
    """Wherever one is allowed: nothing but the whole text's own count comes out."""
    whole = count_text(text, qwen()).tokens
    cut = last_cut(text, 0, min(stop, len(text)))
    assert 0 <= cut <= stop
    assert count_text(text[:cut], qwen()).tokens + count_text(text[cut:], qwen()).tokens == whole


@settings(deadline=None, max_examples=200)
@given(TEXTS, st.lists(st.integers(0, 120), max_size=8))
def test_a_text_in_parts_counts_as_a_whole(text: str, places: list[int]) -> None:
    tally = Tally(qwen(), TallyState())
    for start, stop in pairwise([0, *sorted(places), len(text) + 120]):
        tally.text(text[start:stop])
        tally.settle()
        tally = Tally(qwen(), tally.state())
    tally.flush()
    assert tally.state() == count_text(text, qwen())


def test_a_long_text_is_cut_where_that_changes_nothing() -> None:
    random.seed(1)
    words = [
        "def",
        "f(x):",
        "\n",
        "    ",
        "return",
        "x",
        "中文\uff0c",
        "测试。",
        "12,345",
        '"a"',
        "\r\n\r\n",
        "  ",
        "it's",
    ]
    text = "".join(random.choice(words) for _ in range(80_000))
    vocabulary = qwen()
    assert len(text) > 3 * MOST_CHARACTERS
    assert count_text(text, vocabulary) == TallyState(vocabulary.count(text), is_exact=True)


@pytest.mark.parametrize("run", [" ", "a", "=", "\n", "\t", "7", "中", "🙂", "\u0301", "\u0301\u0323", "\ud800"])
def test_a_run_without_an_end_is_counted_in_pieces(run: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A million spaces make the tokenizer panic, where it gets them at once."""
    total = count_text(run * 1_000_000, qwen())
    assert 0 < total.tokens <= 4_000_000
    assert capfd.readouterr().err == ""


def test_no_piece_is_longer_than_allowed() -> None:
    vocabulary = ByWords()
    count_text("x" * 200_000 + " y" * 200_000, vocabulary)
    assert sum(map(len, vocabulary.seen)) == 600_000
    assert max(map(len, vocabulary.seen)) == MOST_CHARACTERS


def test_a_place_to_cut_is_looked_for_far_back() -> None:
    assert last_cut("ab cd" + "x" * 20_000, 0, 20_000) == 2
    assert last_cut("ab cd" + "x" * 20_000, 2, 20_000) == 2
    assert last_cut("x" * 20_000, 0, 19_000) == 0


def test_what_was_cut_inside_a_run_is_no_exact_count() -> None:
    assert count_text("word " * 100_000, qwen()).is_exact
    assert not count_text("x" * 100_000, qwen()).is_exact


class Stubborn(ByWords):
    def count(self, text: str) -> int:
        raise Unencodable


def test_what_the_tokenizer_gives_up_on_is_estimated() -> None:
    total = count_text("some words", Stubborn())
    assert (total.tokens, total.is_exact) == (estimate("some words"), False)


def test_an_estimate_is_near_the_count() -> None:
    """Without a tokenizer: within a third, for prose, code and Chinese."""
    code = Path(qproxy.errors.__file__).read_text(encoding="utf-8")
    for text in (code, qproxy.errors.__doc__ or "", "机器学习模型可以处理大量的文本数据。" * 50):
        estimated = count_text(text, EstimatedVocabulary("no ranks"))
        assert not estimated.is_exact
        assert 0.66 < estimated.tokens / count_text(text, qwen()).tokens < 1.5


def test_a_character_with_more_marks_than_any_language_has() -> None:
    """To bring it to NFC would take the square of their number."""
    few, many = "a" + "\u0301\u0323" * 7, "a" + "\u0323\u0301" * 16_000
    assert count_text(few, qwen()) == TallyState(qwen().count(unicodedata.normalize("NFC", few)))
    assert not count_text(many, qwen()).is_exact

"""Counting long texts in pieces that no input can make too long for the tokenizer.

Qwen's tokenizer splits a text before it encodes the parts (`qwen-wire.md` 9.2): contractions; an optional sign and
letters; one digit; an optional space, signs and the line ends behind them; white space up to its last line end; other
white space, without its last character where a word follows. The split looks ahead by one character and never back, so
a cut changes nothing where some part always ends, whatever stands around it:

- between a character that is no white space and a space or tab: only the first character of a part can be one of them,
  but for white space alone;
- between a line end and something that is no white space: a part that holds a line end ends with the last one of a run;
- between a letter or number and a sign, a space or a line end: no part goes on from one to the other.

Signs are those that have been signs in every version of Unicode, and that nothing before them combines with, so that
the pieces can be brought to NFC one by one. Python's idea of white space is wider than the tokenizer's, its letters are
fewer: both only make cuts rarer.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import NamedTuple

import orjson

from qproxy.core.tokens import Unencodable, Vocabulary
from qproxy.core.tokens.estimate import estimate

MOST_CHARACTERS = 32 * 1024
"""Of one piece: a few ms of encoding, during which other threads run, and up to 1 ms of making the list of ids, during
which they do not. A run of a million spaces makes the tokenizer panic (`qwen-wire.md` 9.3)."""

WINDOW_CHARACTERS = 4 * 1024
"""Of one search for a place to cut, which in a run without any takes 60 ns a character."""

_SIGNS = (
    r"!-/:-@\[-`{-~\u3001\u3002\u3008-\u3011\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f\u2014\u201c\u201d\u2026"
)
_CUT = re.compile(rf".*(?:\S(?=[ \t])|\n(?=\S)|[^\W_](?=[\s{_SIGNS}]))", re.DOTALL)  # greedy: the last place


def last_cut(text: str, start: int, stop: int) -> int:
    """The last place in `text[start:stop]` where a cut changes no count, as an offset in `text`; `start` where there is
    none. What stands at `stop` must be there to be looked at."""
    while stop > start:
        window = max(start, stop - WINDOW_CHARACTERS)
        found = _CUT.match(text, window, stop + 1)
        if found is not None:
            return found.end()
        stop = window
    return start


@functools.cache
def _many_marks() -> re.Pattern[str]:
    """More combining marks in a row than any language has. To sort them takes the time of their square, in which
    nothing else runs: minutes for a megabyte."""
    marks = [chr(code) for code in range(0x300, 0x10000) if unicodedata.combining(chr(code))]
    # Three that fall apart into marks; and one range beyond the first plane, where re would look at each of many.
    return re.compile("[" + "".join(marks) + "\u0f73\u0f75\u0f81\U000101fd-\U0001e94a]{16}")


class TallyState(NamedTuple):
    """How far a `Tally` has come."""

    tokens: int = 0
    is_exact: bool = True
    rest: str = ""


class Tally:
    """The tokens of a text that comes in parts, with special tokens in between. `ids`, where given, takes the ids as
    pieces of a JSON array's text: a list of a million numbers would take the interpreter for too long."""

    def __init__(self, vocabulary: Vocabulary, state: TallyState, ids: list[bytes] | None = None) -> None:
        self._vocabulary = vocabulary
        self._tokens, self._is_exact, self._rest = state
        self._ids = ids
        self.has_unknown_ids = False

    def state(self) -> TallyState:
        """What a new tally needs to go on from here."""
        return TallyState(self._tokens, self._is_exact, self._rest)

    def text(self, part: str) -> None:
        """The text goes on with `part`. White space at its end may belong to what follows: nothing is counted early."""
        rest = self._rest + part if self._rest else part
        start = 0
        while len(rest) - start > MOST_CHARACTERS:
            limit = start + MOST_CHARACTERS
            stop = last_cut(rest, start, limit)
            if stop == start:
                self._is_exact = False  # one run without an end: two parts in place of one, a token or so too many
                stop = limit
            self._count(rest[start:stop])
            start = stop
        self._rest = rest[start:] if start else rest

    def special(self, name: str) -> None:
        """A special token follows, such as `<|im_end|>`. No text goes on across it."""
        self.flush()
        self._tokens += 1
        if self._ids is not None:
            self._ids.append(b"%d" % self._vocabulary.special_id(name))

    def settle(self) -> None:
        """Count what can be counted whatever follows, so that little has to be kept."""
        stop = last_cut(self._rest, 0, len(self._rest) - 1) if self._rest else 0
        if stop:
            self._count(self._rest[:stop])
            self._rest = self._rest[stop:]

    def flush(self) -> None:
        """The text ends here."""
        if self._rest:
            self._count(self._rest)
            self._rest = ""

    def known(self, tokens: int) -> None:
        """So many ids follow that are given as such."""
        self.flush()
        self._tokens += tokens
        self.has_unknown_ids = True

    def guess(self, tokens: int) -> None:
        """Something that is no text, such as an image, takes about so many."""
        self.flush()
        self._tokens += tokens
        self._is_exact = False
        self.has_unknown_ids = True

    def doubt(self) -> None:
        """What was or will be counted is not quite what the model gets."""
        self._is_exact = False

    def _count(self, piece: str) -> None:
        text = piece
        if not piece.isascii():
            if _many_marks().search(piece) is None:
                text = unicodedata.normalize("NFC", piece)
            else:
                self._is_exact = False
        try:
            self._tokens += self._encoded(text)
        except Unencodable:
            self._tokens += estimate(text)
            self._is_exact = False

    def _encoded(self, text: str) -> int:
        if self._ids is None:
            return self._vocabulary.count(text)
        ids = self._vocabulary.ids(text)
        if ids:
            self._ids.append(orjson.dumps(ids)[1:-1])
        return len(ids)


def count_text(text: str, vocabulary: Vocabulary) -> TallyState:
    """The tokens of one text, without a template."""
    tally = Tally(vocabulary, TallyState(is_exact=vocabulary.is_exact))
    for start in range(0, len(text), 4 * MOST_CHARACTERS):
        tally.text(text[start : start + 4 * MOST_CHARACTERS])
    tally.flush()
    return tally.state()

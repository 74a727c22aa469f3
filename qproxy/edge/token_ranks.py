"""Qwen's own tokenizer: its published ranks, which come with the package, in tiktoken's encoder.

The file `qproxy/data/qwen.tiktoken.xz` is checked against its check-sum before anything is counted with it. Where it,
or tiktoken, is missing or broken, counts are estimates and `obstacle` says why.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from qproxy.core.tokens import Unencodable, Vocabulary
from qproxy.core.tokens.estimate import EstimatedVocabulary
from qproxy.core.tokens.template import SPECIAL_IDS

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import tiktoken

RANKS = 151_643
SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"  # of the file before it was compressed

# How a text is split before its parts are encoded (`qwen-wire.md` 9.2); `core/tokens/cutting.py` rests on it.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


class RanksUnusable(Exception):
    """The ranks, or what reads them, cannot be used; the message says why."""


class QwenVocabulary:
    """Counts as the models from Qwen 2 to Qwen 3 do; text is never taken for a special token."""

    is_exact = True
    obstacle = ""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def count(self, text: str) -> int:
        return len(self.ids(text))

    def ids(self, text: str) -> list[int]:
        try:
            return self._encoding.encode_ordinary(text)
        except BaseException as exc:
            if type(exc).__name__ != "PanicException":  # Rust's, which is no Exception and has no public name
                raise
            raise Unencodable from exc

    def special_id(self, name: str) -> int:
        return SPECIAL_IDS[name]


def load_vocabulary() -> Vocabulary:
    """Takes about 0.3 s. Never raises: without the ranks an estimate serves."""
    try:
        return QwenVocabulary(encoding_of(default_ranks()))
    except RanksUnusable as exc:
        return EstimatedVocabulary(str(exc))


def default_ranks() -> Traversable:
    """The file that comes with the package."""
    return resources.files("qproxy") / "data" / "qwen.tiktoken.xz"


def encoding_of(file: Traversable) -> tiktoken.Encoding:
    try:
        import tiktoken
    except ImportError as exc:
        raise RanksUnusable("tiktoken cannot be imported; reinstall qproxy with its dependencies") from exc
    ranks = read_ranks(file)
    encoding = tiktoken.Encoding("qwen", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=SPECIAL_IDS)
    ranks.clear()  # it keeps them, has made tables of its own from them, and would hold 18 MB for nothing
    return encoding


def read_ranks(file: Traversable) -> dict[bytes, int]:
    """The ranks by their bytes. Raises `RanksUnusable`."""
    try:
        import lzma

        packed = file.read_bytes()
        text = lzma.decompress(packed)
    except ImportError as exc:
        raise RanksUnusable("this Python was built without lzma") from exc
    except OSError as exc:
        raise RanksUnusable(f"the ranks of the tokenizer cannot be read ({exc.strerror}); reinstall qproxy") from exc
    except (lzma.LZMAError, EOFError) as exc:
        raise RanksUnusable("the ranks of the tokenizer are damaged; reinstall qproxy") from exc
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise RanksUnusable("the ranks of the tokenizer have a wrong check-sum; reinstall qproxy")
    pairs = (line.split() for line in text.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}

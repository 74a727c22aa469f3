"""Qwen's tokenizer for tests, built once: it takes a while."""

from __future__ import annotations

import functools
from typing import Any

from qproxy.core.tokens import Counted, Shape
from qproxy.core.tokens.body import count_body
from qproxy.core.tokens.memo import Memo
from qproxy.edge.token_ranks import QwenVocabulary, default_ranks, encoding_of


@functools.cache
def qwen() -> QwenVocabulary:
    return QwenVocabulary(encoding_of(default_ranks()))


@functools.cache
def encoder() -> Any:
    return encoding_of(default_ranks())


def ids_of_rendered(text: str) -> list[int]:
    """The ids of a rendered prompt, in which every special token that is spelled is one."""
    ids: list[int] = encoder().encode(text, allowed_special="all")
    return ids


def counted(
    body: bytes, model: str | None = "qwen3-8b", shape: Shape = Shape.OPENAI, memo: Memo | None = None
) -> Counted:
    """With the real tokenizer."""
    return count_body(body, shape, qwen(), model=model, memo=memo)


class ByWords:
    """A vocabulary whose counts anybody can check: one token a word."""

    is_exact = True
    obstacle = ""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def count(self, text: str) -> int:
        self.seen.append(text)
        return len(text.split())

    def ids(self, text: str) -> list[int]:
        return list(range(self.count(text)))

    def special_id(self, name: str) -> int:
        return len(name)

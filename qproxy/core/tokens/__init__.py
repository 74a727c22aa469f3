"""How many tokens a request is for the model, without any I/O and without ever raising on odd input.

`body.py` finds what is to be counted in a request's bytes, `chat.py` renders messages as the model's chat template
does, `cutting.py` cuts the text where that changes no count, `memo.py` remembers how far a conversation was counted.
The tokenizer comes in as a `Vocabulary` (`qproxy/edge/token_ranks.py` has Qwen's).

No single call in here holds the interpreter for longer than about 2 ms, whatever the input: long bodies are read in
steps, since all of it runs in a thread beside the event loop (`decisions.md`, Bodies).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Shape(enum.Enum):
    """Whose API a body belongs to."""

    OPENAI = "chat completions and completions, by their field"
    ANTHROPIC = "messages"


class Counted(NamedTuple):
    """The tokens of a prompt. `is_exact`: it is what the model's own tokenizer and template make of it, without images,
    unknown templates and estimates. `ids_json` is the ids as the text of a JSON array, where they were asked for and
    are known."""

    tokens: int
    is_exact: bool
    model: str = ""
    ids_json: bytes | None = None


class NotCountable(ValueError):
    """The bytes are no request of that shape; the message says what is wrong with them, for the client."""


class Unencodable(Exception):
    """The tokenizer gave up on a text. It is estimated in its place."""


class Vocabulary(Protocol):
    """A tokenizer. `is_exact` is False for an estimate, which knows no ids; `obstacle` says why there is no better."""

    @property
    def is_exact(self) -> bool: ...

    @property
    def obstacle(self) -> str: ...

    def count(self, text: str) -> int:
        """The tokens of a text without special ones, of at most `cutting.MOST_CHARACTERS`. Raises `Unencodable`."""
        ...

    def ids(self, text: str) -> Sequence[int]:
        """The same as ids. Raises `Unencodable`."""
        ...

    def special_id(self, name: str) -> int:
        """The id of a special token that a template writes, such as `<|im_start|>`."""
        ...

"""The chat templates of Qwen's models, as far as they tell apart what a prompt costs.

Sources: `chat_template` in the published tokenizer_config.json of Qwen2.5-7B-Instruct and Qwen3-8B. With the same
messages both write the same text, but for: the system turn that 2.5 makes where none is given; the thoughts of turns
since the last question, which 3 writes; and which of the tags are tokens of their own.

What a hosted model's template is nobody says; those of the same generation are taken for the same. Where a template is
known to differ (tools of the Coder models), the count is no exact one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

SPECIAL_IDS = {
    "<|endoftext|>": 151_643,
    "<|im_start|>": 151_644,
    "<|im_end|>": 151_645,
    "<tool_call>": 151_657,
    "</tool_call>": 151_658,
    "<tool_response>": 151_665,
    "</tool_response>": 151_666,
    "<think>": 151_667,
    "</think>": 151_668,
}
"""`qwen-wire.md` 9.2. They are tokens where a template writes them, and plain text where a user does."""

_TAGS_2_5 = ("<tool_call>", "</tool_call>")
_TAGS_3 = (*_TAGS_2_5, "<tool_response>", "</tool_response>", "<think>", "</think>")


@dataclass(frozen=True, slots=True)
class Template:
    """`default_system` stands where no system message does; empty: no system turn. `has_thoughts`: the thoughts of the
    turns since the last question are part of the prompt. `knows_tools`: tools and calls are rendered as the model's own
    template does."""

    name: str
    tags: tuple[str, ...]
    default_system: str = ""
    has_thoughts: bool = False
    knows_tools: bool = True
    _splitter: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_splitter", re.compile("(" + "|".join(map(re.escape, self.tags)) + ")"))

    def split(self, text: str) -> list[str]:
        """The template's own text, cut so that each odd entry is a special token."""
        return self._splitter.split(text)


QWEN2_5 = Template(
    "qwen2.5", _TAGS_2_5, default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
)
QWEN2 = replace(QWEN2_5, name="qwen2", default_system="You are a helpful assistant.", knows_tools=False)
QWEN3 = Template("qwen3", _TAGS_3, has_thoughts=True)
QWEN3_INSTRUCT = replace(QWEN3, name="qwen3-instruct", has_thoughts=False)
QWEN3_CODER = replace(QWEN3_INSTRUCT, name="qwen3-coder", knows_tools=False)

# `qwen3` and no digit behind it: 3.5 and later have another vocabulary (`qwen-wire.md` 9.2).
_FAMILY = re.compile(r"(?:^|[/:])qwen(2\.5|2|3)(?![.\d])(.*)")
_WITHOUT_THOUGHTS = re.compile(r"-(?:max|instruct)")


def template_for(model: str) -> Template:
    """That of a model, by its name; those of unknown ones are taken for the newest that is known."""
    found = _FAMILY.search(model.lower())
    if found is None:
        return QWEN3
    if found[1] != "3":
        return QWEN2_5 if found[1] == "2.5" else QWEN2
    if "-coder" in found[2]:
        return QWEN3_CODER
    return QWEN3_INSTRUCT if _WITHOUT_THOUGHTS.search(found[2]) else QWEN3


def is_exact_for(model: str) -> bool:
    """Whether a model is known to have the vocabulary of Qwen's published ranks: Qwen 2 to 3, and not 3.5 and later.

    Names that stand for whatever is newest (`qwen-plus`, `coder-model`) are not known to.
    """
    return _FAMILY.search(model.lower()) is not None

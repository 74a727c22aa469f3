"""A conversation's tokens, turn by turn, as the model's chat template writes it.

The system turn and the other turns are counted apart: the tools belong into the system turn, and clients send them
behind the messages. What comes in is text already; `openai.py` and `anthropic.py` read it from the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from qproxy.core.tokens import Vocabulary
from qproxy.core.tokens.cutting import Tally, TallyState
from qproxy.core.tokens.template import TOOLS_AFTER, TOOLS_BEFORE, Template

IMAGE_TOKENS = 1_026
"""One of 1,024 x 1,024 pixels in Qwen3-VL: a token for 32 x 32 pixels, and one at each end."""

START, END = "<|im_start|>", "<|im_end|>"

Content = Iterable[str | int]
"""Text in parts; a number stands for something that is no text, and takes about so many tokens."""


class ChatState(NamedTuple):
    """How far a `ChatCount` has come. `system` is None before the first message. `late_thoughts` are the tokens of
    thoughts since the last question, which the next question takes away; `last_thoughts` those that stand in the last
    message alone."""

    system: TallyState | None = None
    turns: TallyState = TallyState()
    answers_tools: bool = False
    late_thoughts: int = 0
    last_thoughts: int = 0


class Call(NamedTuple):
    """One call of a tool. `arguments` is JSON text."""

    name: str
    arguments: Iterable[str]


class ChatCount:
    """Takes the messages in their order. With `keeps_ids` their ids are kept, as far as they are known."""

    def __init__(
        self, template: Template, vocabulary: Vocabulary, state: ChatState, *, keeps_ids: bool = False
    ) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self._has_begun = state.system is not None
        self._system_ids: list[bytes] | None = [] if keeps_ids else None
        self._turn_ids: list[bytes] | None = [] if keeps_ids else None
        self._system = Tally(vocabulary, state.system or TallyState(is_exact=vocabulary.is_exact), self._system_ids)
        self._turns = Tally(vocabulary, state.turns, self._turn_ids)
        self._answers_tools = state.answers_tools
        self._late_thoughts = state.late_thoughts
        self._last_thoughts = state.last_thoughts

    def state(self) -> ChatState:
        """After a message: what a new count needs to go on from here."""
        system = self._system.state() if self._has_begun else None
        return ChatState(system, self._turns.state(), self._answers_tools, self._late_thoughts, self._last_thoughts)

    # --- messages

    def system(self, content: Content) -> None:
        """The first message, where it is a system message."""
        self._has_begun = True
        self._system.special(START)
        self._system.text("system\n")
        _write(self._system, content)
        self._system.settle()

    def turn(self, role: str, content: Content) -> None:
        """A message of a user, or a later system message."""
        self._begin_turn()
        if role == "user":
            self._late_thoughts = 0
        self._turns.special(START)
        self._turns.text(f"{role}\n")
        _write(self._turns, content)
        self._end_turn()

    def assistant(self, content: Content, calls: Iterable[Call], thoughts: Content, *, is_last: bool) -> None:
        """An answer of the model. Those of its `thoughts` that the template writes count apart."""
        self._begin_turn()
        turns = self._turns
        turns.special(START)
        turns.text("assistant\n")
        has_text = _write(turns, content)
        for call in calls:
            if has_text:
                turns.text("\n")
            has_text = True
            self._call(call)
        self._end_turn()
        if self._template.has_thoughts:
            self._think(thoughts, is_last=is_last)

    def tool(self, content: Content) -> None:
        """What a tool answered; answers that follow each other share a turn."""
        self._begin()
        if not self._answers_tools:
            self._answers_tools = True
            self._turns.special(START)
            self._turns.text("user")
        self._written("\n<tool_response>\n")
        _write(self._turns, content)
        self._written("\n</tool_response>")

    def doubt(self) -> None:
        """Something is in the conversation that the template does not know."""
        self._turns.doubt()

    def _begin(self) -> None:
        self._last_thoughts = 0
        if not self._has_begun:
            self._has_begun = True
            if self._template.default_system:
                self._system.special(START)
                self._system.text("system\n" + self._template.default_system)

    def _begin_turn(self) -> None:
        self._begin()
        self._end_tools()

    def _end_tools(self) -> None:
        if self._answers_tools:
            self._answers_tools = False
            self._end_turn()

    def _end_turn(self) -> None:
        self._turns.special(END)
        self._turns.text("\n")

    def _call(self, call: Call) -> None:
        self._written('<tool_call>\n{"name": "')
        self._turns.text(call.name)
        self._turns.text('", "arguments": ')
        for part in call.arguments:
            self._turns.text(part)
        self._written("}\n</tool_call>")
        if not self._template.knows_tools:
            self._turns.doubt()

    def _written(self, text: str, tally: Tally | None = None) -> None:
        """Text of the template itself, whose tags are special tokens."""
        into = tally or self._turns
        for number, part in enumerate(self._template.split(text)):
            if number % 2:
                into.special(part)
            elif part:
                into.text(part)

    def _think(self, thoughts: Content, *, is_last: bool) -> None:
        r"""`<think>\n...\n</think>\n\n` in place of nothing, behind a line end: text that begins with none follows."""
        tally = Tally(self._vocabulary, TallyState())
        self._written("<think>\n", tally)
        has_thoughts = _write(tally, thoughts)
        if not has_thoughts and not is_last:
            return
        self._written("\n</think>\n\n", tally)
        tally.flush()
        if has_thoughts:
            self._late_thoughts += tally.state().tokens
        else:
            self._last_thoughts = tally.state().tokens

    # --- the end

    @property
    def has_thoughts(self) -> bool:
        """Whether the template writes those of the turns since the last question."""
        return self._template.has_thoughts

    @property
    def has_begun(self) -> bool:
        """Whether a message has come."""
        return self._has_begun

    def finish_system(self, tools: Iterable[Iterable[str]]) -> TallyState:
        """The system turn is complete with these tools, each as the text that the template writes of it."""
        if not self._has_begun:
            self._begin()
        system = self._system
        has_turn = system.state().tokens > 0 or bool(system.state().rest)
        has_tools = False
        for tool in tools:
            if not has_tools:
                self._begin_tools(has_turn=has_turn)
            has_tools = True
            system.text("\n")
            for part in tool:
                system.text(part)
        if has_tools:
            self._written(TOOLS_AFTER, system)
            if not self._template.knows_tools:
                system.doubt()
        if has_tools or has_turn:
            system.special(END)
            system.text("\n")
            system.flush()
        return system.state()

    def restore_system(self, state: TallyState) -> None:
        """In place of `finish_system`, where it is known what that comes to."""
        self._system = Tally(self._vocabulary, state, self._system_ids)

    def finish(self, *, asks: bool, thinks: bool) -> TallyState:
        """All of it, after `finish_system`. `asks`: the beginning of the model's answer ends the prompt. `thinks`
        False: with thoughts that are empty."""
        self._end_tools()
        if asks:
            self._turns.special(START)
            self._turns.text("assistant\n")
            if not thinks and self._template.has_thoughts:
                self._written("<think>\n\n</think>\n\n")
        self._turns.flush()
        system, turns = self._system.state(), self._turns.state()
        thoughts = self._late_thoughts + self._last_thoughts
        return TallyState(system.tokens + turns.tokens + thoughts, system.is_exact and turns.is_exact)

    def ids_json(self) -> bytes | None:
        """All ids, after the end, as a JSON array; None where they were not kept, or thoughts or
        images stand among them."""
        if self._system_ids is None or self._turn_ids is None or self._late_thoughts or self._last_thoughts:
            return None
        if self._system.has_unknown_ids or self._turns.has_unknown_ids:
            return None
        return b"[%b]" % b",".join(self._system_ids + self._turn_ids)

    def _begin_tools(self, *, has_turn: bool) -> None:
        if has_turn:
            self._system.text("\n\n")
        else:
            self._system.special(START)
            self._system.text("system\n")
        self._written(TOOLS_BEFORE, self._system)


def _write(tally: Tally, content: Content) -> bool:
    """Whether there was anything."""
    has_any = False
    for part in content:
        if isinstance(part, int):
            tally.guess(part)
        elif part:
            tally.text(part)
        else:
            continue
        has_any = True
    return has_any


def as_template_json(value: object) -> str:
    """JSON as `tojson` of the templates writes it."""
    return json.dumps(value, ensure_ascii=False)


def joined(texts: Iterable[Content]) -> Iterator[str | int]:
    """Several texts of one message, as servers of open models join them."""
    for number, content in enumerate(texts):
        if number:
            yield "\n"
        yield from content

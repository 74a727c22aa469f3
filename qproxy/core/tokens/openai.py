"""Messages as OpenAI's chat completions write them, and prompts as its completions do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import orjson

from qproxy.core.tokens import NotCountable
from qproxy.core.tokens.chat import IMAGE_TOKENS, Call, ChatCount, Content, as_template_json, joined
from qproxy.core.tokens.cutting import Tally
from qproxy.core.tokens.scan import (
    WINDOW_BYTES,
    Span,
    fields,
    is_string,
    items,
    raw_text,
    skip_space,
    strings,
    value_of,
)

SYSTEM_ROLES = ("system", "developer")
NULL = b"null"

_THOUGHT_END = "</think>"
_NUMBERS = re.compile(rb"[0-9, \t\n\r]*+")
_DIGITS = b"0123456789"


class OpenAIDialect:
    """`POST /v1/chat/completions`."""

    name = "openai"
    system_field = ""

    def read_message(self, body: bytes, span: Span, chat: ChatCount, *, is_last: bool) -> None:
        found = fields(body, span)
        role = short_text(body, found.get("role"), "role")
        content = self.content(body, found.get("content"))
        if role == "assistant":
            calls = self._calls(body, found.get("tool_calls"))
            text, thoughts = self._thoughts(body, found, content, chat)
            chat.assistant(text, calls, thoughts, is_last=is_last)
        elif role == "tool":
            chat.tool(content)
        elif role in SYSTEM_ROLES and not chat.has_begun:
            chat.system(content)
        else:
            chat.turn("system" if role in SYSTEM_ROLES else role, content)
            if role not in ("user", *SYSTEM_ROLES):
                chat.doubt()

    def content(self, body: bytes, span: Span | None) -> Content:
        if is_null(body, span):
            return ()
        assert span is not None
        if is_string(body, span):
            return strings(body, span)
        if body[span.start : span.start + 1] == b"[":
            return joined(self._part(body, part) for part in items(body, span.start))
        raise NotCountable(f"The content at byte {span.start} must be text or a list of parts.")

    def _part(self, body: bytes, span: Span) -> Content:
        if is_string(body, span):
            return strings(body, span)
        text = fields(body, span).get("text")
        return strings(body, text) if text is not None and is_string(body, text) else (IMAGE_TOKENS,)

    def _thoughts(
        self, body: bytes, found: dict[str, Span], content: Content, chat: ChatCount
    ) -> tuple[Content, Content]:
        """What an assistant's message says and what it thought, as Qwen3's template tells them apart."""
        if not chat.has_thoughts:
            return content, ()
        thoughts = found.get("reasoning_content")
        if thoughts is not None and is_string(body, thoughts):
            whole = value_of(body, thoughts)
            return content, strings(body, thoughts) if whole is None else (str(whole).strip("\n"),)
        said = found.get("content")
        if said is None or not is_string(body, said) or body.find(_THOUGHT_END.encode(), *said) < 0:
            return content, ()
        whole = value_of(body, said)
        if whole is None:
            chat.doubt()
            return content, ()
        before, _, _ = str(whole).partition(_THOUGHT_END)
        after = str(whole).rpartition(_THOUGHT_END)[2]
        return (after.lstrip("\n"),), (before.rstrip("\n").rpartition("<think>")[2].strip("\n"),)

    def _calls(self, body: bytes, span: Span | None) -> Iterator[Call]:
        if is_null(body, span):
            return
        assert span is not None
        if body[span.start : span.start + 1] != b"[":
            raise NotCountable("The field 'tool_calls' must be a list.")
        for each in items(body, span.start):
            found = fields(body, each)
            function = found.get("function")
            if function is not None:
                found = fields(body, function)
            yield Call(short_text(body, found.get("name"), "name"), arguments_text(body, found.get("arguments")))

    def tool_text(self, body: bytes, span: Span) -> Iterable[str]:
        return template_json(body, span)


def is_null(body: bytes, span: Span | None) -> bool:
    """Whether there is nothing."""
    return span is None or body[span.start : span.start + 5].startswith(NULL)


def short_text(body: bytes, span: Span | None, name: str) -> str:
    """A string that is no longer than a window."""
    value = value_of(body, span) if span is not None else None
    if isinstance(value, str):
        return value
    raise NotCountable(f"The field {name!r} is missing in a message or call, or is no text.")


def template_json(body: bytes, span: Span) -> Iterable[str]:
    """A value as the templates write it; one that is long as it stands there."""
    value = value_of(body, span)
    if value is None:
        return raw_text(body, span)
    try:
        return (as_template_json(value),)
    except RecursionError:
        return raw_text(body, span)


def arguments_text(body: bytes, span: Span | None) -> Iterable[str]:
    """The arguments of a call, which are JSON in a string: servers of open models parse them for the template."""
    if is_null(body, span):
        return ("{}",)
    assert span is not None
    if not is_string(body, span):
        return template_json(body, span)
    text = value_of(body, span)
    if text is None:
        return strings(body, span)
    try:
        return (as_template_json(orjson.loads(str(text))),)
    except (orjson.JSONDecodeError, RecursionError):
        return (str(text),)


def count_prompt(body: bytes, span: Span, tally: Tally, *, levels: int = 2) -> None:
    """The prompt of a completion: text, a list of texts, ids, or lists of ids."""
    if is_string(body, span):
        for part in strings(body, span):
            tally.text(part)
        tally.flush()
        return
    if body[span.start : span.start + 1] != b"[" or not levels:
        raise NotCountable("The field 'prompt' must be text, or a list of texts or ids.")
    first = skip_space(body, span.start + 1)
    if body[first : first + 1] in _DIGITS:
        tally.known(_how_many_numbers(body, first, span.stop - 1))
        return
    for each in items(body, span.start):
        count_prompt(body, each, tally, levels=levels - 1)


def _how_many_numbers(body: bytes, at: int, stop: int) -> int:
    commas = 0
    while at < stop:
        end = min(at + WINDOW_BYTES, stop)
        found = _NUMBERS.match(body, at, end)
        if found is None or found.end() != end:
            raise NotCountable("A prompt of ids must hold nothing but ids.")
        commas += body.count(b",", at, end)
        at = end
    return commas + 1

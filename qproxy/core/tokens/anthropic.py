"""Messages as Anthropic's API writes them, told as the chat that a Qwen model would get of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qproxy.core.tokens import NotCountable
from qproxy.core.tokens.chat import IMAGE_TOKENS, Call, ChatCount, Content, as_template_json, joined
from qproxy.core.tokens.openai import is_null, short_text, template_json
from qproxy.core.tokens.scan import Span, fields, is_string, items, raw_text, strings, value_of

_THOUGHTS = ("thinking", "redacted_thinking")


class AnthropicDialect:
    """`POST /v1/messages/count_tokens`."""

    name = "anthropic"
    system_field = "system"

    def read_message(self, body: bytes, span: Span, chat: ChatCount, *, is_last: bool) -> None:
        """What tools answered stands in a message of the user, before what else there is."""
        found = fields(body, span)
        role = short_text(body, found.get("role"), "role")
        content = found.get("content")
        if is_null(body, content):
            raise NotCountable("A message has no content.")
        assert content is not None
        blocks = [] if is_string(body, content) else list(self._blocks(body, content))
        said: Content = joined(self._said(body, block) for kind, block in blocks if kind not in _APART)
        if not blocks:
            said = self.content(body, content)
        if role == "assistant":
            calls = (self._call(body, block) for kind, block in blocks if kind == "tool_use")
            chat.assistant(said, calls, (), is_last=is_last)
            return
        for kind, block in blocks:
            if kind == "tool_result":
                chat.tool(self.content(body, block.get("content")))
        if not blocks or any(kind not in _APART for kind, _ in blocks):
            chat.turn("user" if role == "user" else role, said)

    def content(self, body: bytes, span: Span | None) -> Content:
        if is_null(body, span):
            return ()
        assert span is not None
        if is_string(body, span):
            return strings(body, span)
        return joined(self._said(body, block) for _, block in self._blocks(body, span))

    def _blocks(self, body: bytes, span: Span) -> Iterator[tuple[str, dict[str, Span]]]:
        if body[span.start : span.start + 1] != b"[":
            raise NotCountable(f"The content at byte {span.start} must be text or a list of blocks.")
        for each in items(body, span.start):
            block = fields(body, each)
            yield short_text(body, block.get("type"), "type"), block

    def _said(self, body: bytes, block: dict[str, Span]) -> Content:
        text = block.get("text")
        return strings(body, text) if text is not None and is_string(body, text) else (IMAGE_TOKENS,)

    def _call(self, body: bytes, block: dict[str, Span]) -> Call:
        arguments = block.get("input")
        text = ("{}",) if is_null(body, arguments) or arguments is None else template_json(body, arguments)
        return Call(short_text(body, block.get("name"), "name"), text)

    def tool_text(self, body: bytes, span: Span) -> Iterable[str]:
        tool = value_of(body, span)
        if not isinstance(tool, dict):
            return raw_text(body, span)
        function = {"name": tool.get("name"), "description": tool.get("description")}
        function["parameters"] = tool.get("input_schema")
        try:
            return (as_template_json({"type": "function", "function": function}),)
        except RecursionError:
            return raw_text(body, span)


_APART = ("tool_use", "tool_result", *_THOUGHTS)
"""What is no part of the text of its message."""

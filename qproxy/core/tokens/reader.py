"""From the bytes of a conversation to its count, whichever API it is written for: message by message, from the last one
that is known from an earlier request on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from qproxy.core.tokens import NotCountable, Vocabulary
from qproxy.core.tokens.chat import ChatCount, ChatState, Content
from qproxy.core.tokens.cutting import TallyState
from qproxy.core.tokens.memo import Memo, Place, key_of
from qproxy.core.tokens.scan import MOST_ITEMS, Span, items, member_at, skip_space, value_stop
from qproxy.core.tokens.template import Template


class Dialect(Protocol):
    """How an API writes messages and tools."""

    name: str
    system_field: str
    """Beside the messages; empty where the system message is one of them."""

    def read_message(self, body: bytes, span: Span, chat: ChatCount, *, is_last: bool) -> None:
        """Hand one message to `chat`."""
        ...

    def content(self, body: bytes, span: Span | None) -> Content:
        """Text, or a list of parts."""
        ...

    def tool_text(self, body: bytes, span: Span) -> Iterable[str]:
        """One tool as the template's JSON."""
        ...


class Reader:
    """One body. `fields` are its members at the top level as far as they have been read, but for the messages."""

    def __init__(
        self,
        body: bytes,
        dialect: Dialect,
        template: Template,
        vocabulary: Vocabulary,
        memo: Memo | None,
        *,
        keeps_ids: bool = False,
    ) -> None:
        self.fields: dict[str, Span] = {}
        self.has_messages = False
        self._body = body
        self._dialect = dialect
        self._memo = memo
        self._salt = f"{dialect.name} {template.name} {vocabulary.is_exact}".encode()
        self._places: list[Place] = []
        place = memo.find(body, self._salt) if memo is not None else None
        self._place = place
        state = ChatState(turns=TallyState(is_exact=vocabulary.is_exact)) if place is None else place.state
        self.chat = ChatCount(template, vocabulary, state, keeps_ids=keeps_ids)

    def read(self) -> None:
        """All of the body but for what `fields` has. Raises `NotCountable`."""
        body = self._body
        if self._place is None:
            at = skip_space(body, 0)
            if body[at : at + 1] != b"{":
                raise NotCountable("The body must be a JSON object.")
            at = skip_space(body, at + 1)
            if body[at : at + 1] == b"}":
                return
            at = self._member(at)
        else:
            self.has_messages = True
            self.fields = dict(self._place.fields)
            at = self._behind_message(self._place.at)
        while body[at : at + 1] == b",":
            at = self._member(at + 1)
        if body[at : at + 1] != b"}":
            raise NotCountable(f"The body is not JSON: something is missing at byte {at}.")
        if self._memo is not None:
            self._memo.keep(body, self._salt, self._places)

    def _member(self, at: int) -> int:
        """Where the next thing stands behind the member that begins at `at`."""
        body = self._body
        name, start = member_at(body, at)
        if name != "messages":
            stop = value_stop(body, start)
            self.fields[name] = Span(start, stop)
            return skip_space(body, stop)
        if self.has_messages or body[start : start + 1] != b"[":
            raise NotCountable("The field 'messages' must be there once, and be a list.")
        self.has_messages = True
        at = skip_space(body, start + 1)
        return skip_space(body, at + 1) if body[at : at + 1] == b"]" else self._messages(at)

    def _messages(self, at: int) -> int:
        """From the message on that begins at `at`; where the next thing stands behind the list."""
        body, chat = self._body, self.chat
        before = dict(self.fields)
        for _ in range(MOST_ITEMS):
            span = Span(at, value_stop(body, at))
            at = skip_space(body, span.stop)
            is_last = body[at : at + 1] == b"]"
            self._dialect.read_message(body, span, chat, is_last=is_last)
            self._places = [*self._places[-1:], Place(span.stop, chat.state(), before)]
            if is_last:
                return skip_space(body, at + 1)
            if body[at : at + 1] != b",":
                break
            at = skip_space(body, at + 1)
        raise NotCountable(f"The list of messages is broken off, or longer than {MOST_ITEMS}.")

    def _behind_message(self, at: int) -> int:
        """The same from the end of a message on."""
        body = self._body
        at = skip_space(body, at)
        if body[at : at + 1] == b"]":
            return skip_space(body, at + 1)
        if body[at : at + 1] != b",":
            raise NotCountable("The list of messages is broken off.")
        return self._messages(skip_space(body, at + 1))

    def finish_system(self) -> None:
        """The system turn, with the tools."""
        spans = [self.fields.get(name) for name in (self._dialect.system_field, "tools") if name]
        if self._memo is None:
            self._count_system(*spans)
            return
        view = memoryview(self._body)
        parts = [view[span.start : span.stop] if span else b"" for span in spans]
        key = key_of(self._salt, repr(self.chat.state().system).encode(), *parts)
        state = self._memo.system_turn(key)
        if state is None:
            self._memo.keep_system_turn(key, self._count_system(*spans))
        else:
            self.chat.restore_system(state)

    def _count_system(self, *spans: Span | None) -> TallyState:
        if len(spans) > 1 and spans[0] is not None:
            self.chat.system(self._dialect.content(self._body, spans[0]))
        return self.chat.finish_system(self._tools(spans[-1]))

    def _tools(self, span: Span | None) -> Iterator[Iterable[str]]:
        if span is None or self._body[span.start : span.start + 1] == b"n":  # null
            return
        if self._body[span.start : span.start + 1] != b"[":
            raise NotCountable("The field 'tools' must be a list.")
        for tool in items(self._body, span.start):
            yield self._dialect.tool_text(self._body, tool)

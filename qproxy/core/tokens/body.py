"""What a request's body comes to."""

from __future__ import annotations

from dataclasses import replace

from qproxy.core.jsonscan import first_in_head, last_in_tail
from qproxy.core.tokens import Counted, NotCountable, Shape, Vocabulary
from qproxy.core.tokens.anthropic import AnthropicDialect
from qproxy.core.tokens.cutting import Tally, TallyState
from qproxy.core.tokens.memo import Memo
from qproxy.core.tokens.openai import OpenAIDialect, count_prompt
from qproxy.core.tokens.reader import Reader
from qproxy.core.tokens.scan import Span, fields, skip_space, value_of, value_stop
from qproxy.core.tokens.template import is_exact_for, template_for

HEAD_BYTES = 16 * 1024
TAIL_BYTES = 64 * 1024

_RETURN_TOKENS = b'"return_tokens"'


def count_body(
    body: bytes,
    shape: Shape,
    vocabulary: Vocabulary,
    *,
    model: str | None = None,
    memo: Memo | None = None,
    may_want_ids: bool = False,
) -> Counted:
    """The tokens of the prompt that a chat, a completion or Anthropic's messages make. `model` None: the one that the
    body names. `may_want_ids`: the ids are kept where its `return_tokens` asks for them. Raises `NotCountable`."""
    name = model_of(body) if model is None else model
    keeps_ids = may_want_ids and vocabulary.is_exact and _RETURN_TOKENS in body
    template = template_for(name)
    if shape is Shape.ANTHROPIC:
        reader = Reader(body, AnthropicDialect(), replace(template, default_system=""), vocabulary, memo)
    else:
        known = None if keeps_ids else memo
        reader = Reader(body, OpenAIDialect(), template, vocabulary, known, keeps_ids=keeps_ids)
    reader.read()
    if reader.has_messages:
        tally, ids = _finished_chat(body, reader), reader.chat.ids_json()
    elif shape is Shape.OPENAI and "prompt" in reader.fields:
        tally, ids = _count_prompt(body, reader.fields["prompt"], vocabulary, keeps_ids=keeps_ids)
    else:
        raise NotCountable("The body has no 'messages'." if shape is Shape.ANTHROPIC else _NOTHING)
    if not _is(body, reader.fields.get("return_tokens"), b"true"):
        ids = None
    return Counted(tally.tokens, tally.is_exact and is_exact_for(name), name, ids)


_NOTHING = "The body has neither 'messages' nor 'prompt'."


def _finished_chat(body: bytes, reader: Reader) -> TallyState:
    reader.finish_system()
    asks = not _is(body, reader.fields.get("add_generation_prompt"), b"false")
    return reader.chat.finish(asks=asks, thinks=not _thinks_not(body, reader.fields))


def _count_prompt(
    body: bytes, span: Span, vocabulary: Vocabulary, *, keeps_ids: bool
) -> tuple[TallyState, bytes | None]:
    ids: list[bytes] | None = [] if keeps_ids else None
    tally = Tally(vocabulary, TallyState(is_exact=vocabulary.is_exact), ids)
    count_prompt(body, span, tally)
    return tally.state(), None if ids is None or tally.has_unknown_ids else b"[%b]" % b",".join(ids)


def model_of(body: bytes) -> str:
    """The model that a body names; empty where it names none. Raises `NotCountable`."""
    member = first_in_head(body[:HEAD_BYTES], "model")
    if member is not None:
        value = value_of(body, Span(member.start, member.stop))
        return value if isinstance(value, str) else ""
    tail = body[-TAIL_BYTES:]
    member = last_in_tail(tail, "model")
    if member is not None:
        value = value_of(tail, Span(member.start, member.stop))
        return value if isinstance(value, str) else ""
    at = skip_space(body, 0)
    span = fields(body, Span(at, value_stop(body, at))).get("model") if at < len(body) else None
    value = value_of(body, span) if span is not None else None
    return value if isinstance(value, str) else ""


def _thinks_not(body: bytes, found: dict[str, Span]) -> bool:
    """`enable_thinking`, at the top (DashScope) or among the template's arguments (vLLM, SGLang)."""
    arguments = found.get("chat_template_kwargs")
    if arguments is not None and body[arguments.start : arguments.start + 1] == b"{":
        found = {**found, **fields(body, arguments)}
    return _is(body, found.get("enable_thinking"), b"false")


def _is(body: bytes, span: Span | None, literal: bytes) -> bool:
    return span is not None and body[span.start : min(span.stop, span.start + 8)] == literal

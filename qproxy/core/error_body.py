"""What an error body says, whatever its shape: the codes, the words and the status that stand in it.

Shapes seen (`qwen-wire.md` 6.5, 7.1, trap 11): OpenAI's envelope, a flat object, either with `code` and `type` swapped,
events although nobody streams, an error as a string inside another one, plain text, HTML, and any of them cut short.
Work is bounded: 16 KiB are looked at, eight levels deep. A client's own input, which validation errors carry back, is
never read as a code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import orjson

from qproxy.core.jsonscan import loads

BODY_BYTES = 16 * 1024  # no error seen was longer than 2 KiB
TEXT_LENGTH = 4096  # characters searched by patterns
MAX_NESTING = 8  # the message of an error in an event in a string in `metadata.raw` is that deep

_CODE_KEYS = ("code", "type", "error")  # the first two swap roles; the third is one where it is a mere word
_STATUS_KEYS = ("code", "status", "status_code")
_NESTED_KEYS = ("error", "metadata", "raw", "message", "msg", "detail")
_MAX_FINDINGS = 12
_MAX_EVENTS = 4
_NO_ERROR = frozenset({"", "0", "200", "ok", "success"})

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PREFIX = re.compile(r"(?:<\d{3}> )?(?:[A-Za-z]{1,32}(?:\.[A-Za-z]{1,32}){1,4}: )?")  # of messages from the backend
_EVENT_LINE = re.compile(r"(?:data|event|id|retry)?:")
_ERROR_EVENT = re.compile(r"(?:[^\n]*\n){0,4}event: ?error[ \t]*(?:\n|\Z)")
_DATA = re.compile(r"^data: ?(.*)$", re.MULTILINE)
_NAMED_STATUS = re.compile(r"\A<(\d{3})> |HTTP_STATUS/(\d{3})")
_OPENING = re.compile(r"\s*\{")
_MEMBER = re.compile(r'[\s,]*+"([^"\\]*+)"\s*+:\s*+(\{|"(?:[^"\\]|\\.)*+"?|[\w.+-]++)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """What was found. `status` is an HTTP error status named in the body, 0 for none.

    `codes` are as written, outermost first. `text` holds the messages in lower case, each on one line and without the
    backend's prefix.
    """

    status: int
    codes: tuple[str, ...]
    text: str


def said_in(body: bytes) -> Said:
    """What the first 16 KiB of an error body say. Any bytes will do."""
    return _said(_text(body))


def hidden_in(payload: bytes) -> Said | None:
    """What an error in a 200 says; None where `payload`, an event's data or a whole JSON body, is no error.

    Costs two substring searches on a normal chunk. A payload that is no whole JSON is none, unless its event is called
    an error.
    """
    if len(payload) > BODY_BYTES or not _may_be_error(payload):
        return None
    text = _text(payload)
    if _ERROR_EVENT.match(text):
        return _said(text)
    for part in _event_data(text) if _EVENT_LINE.match(text) else [text]:
        said = _hidden_in_document(part)
        if said is not None:
            return said
    return None


def _may_be_error(payload: bytes) -> bool:
    return b"error" in payload or (b'"code"' in payload and b'"choices"' not in payload)


def _hidden_in_document(text: str) -> Said | None:
    try:
        document = loads(text.encode())
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    if document.get("error") or _is_flat_error(document):
        return _said(text)
    failure = _error_finish(document.get("choices"))
    return None if failure is None else _said(failure)


def _is_flat_error(document: dict[str, object]) -> bool:
    code = document.get("code")
    if "choices" in document or not isinstance(document.get("message"), str):
        return False
    if isinstance(code, str):
        return code.lower() not in _NO_ERROR
    return isinstance(code, int) and code >= 400


def _error_finish(choices: object) -> str | None:
    """The failure's text, which stands where an answer's would (`qwen-wire.md` 6.4)."""
    if not isinstance(choices, list):
        return None
    for choice in choices:
        if isinstance(choice, dict) and choice.get("finish_reason") == "error_finish":
            part = choice.get("delta") or choice.get("message")
            content = part.get("content") if isinstance(part, dict) else None
            return content if isinstance(content, str) else ""
    return None


def _text(body: bytes) -> str:
    text = body[:BODY_BYTES].decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff \t\n")


def _said(text: str) -> Said:
    findings = _Findings()
    findings.take_text(text, 0)
    messages = (_PREFIX.sub("", message, count=1) for message in findings.messages)
    return Said(findings.status, tuple(findings.codes), "\n".join(messages)[:TEXT_LENGTH].lower())


@dataclass(slots=True)
class _Findings:
    """Grows while a body is walked."""

    status: int = 0
    codes: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def take_text(self, text: str, depth: int) -> None:
        """A text may be JSON or events once more."""
        text = text.strip()
        if depth > MAX_NESTING or not text:
            return
        document = _parsed(text) if text.startswith(("{", "[")) else None
        if document:
            self.take(document, depth + 1)
        elif _EVENT_LINE.match(text):
            self._take_events(text, depth)
        elif len(self.messages) < _MAX_FINDINGS:
            self._take_message(text)

    def take(self, value: object, depth: int) -> None:
        if depth > MAX_NESTING:
            return
        if isinstance(value, str):
            self.take_text(value, depth)
        elif isinstance(value, dict):
            self._take_object(value, depth)
        elif isinstance(value, list) and value:
            self.take(value[0], depth + 1)

    def _take_object(self, value: dict[str, object], depth: int) -> None:
        for key in _STATUS_KEYS:
            self._take_status(value.get(key))
        for key in _CODE_KEYS:
            self._take_code(value.get(key))
        for key in _NESTED_KEYS:
            self.take(value.get(key), depth + 1)

    def _take_events(self, text: str, depth: int) -> None:
        self._take_status(text)
        parts = _event_data(text)
        for part in parts:
            self.take_text(part, depth + 1)
        if not parts:
            self._take_message(text)

    def _take_message(self, text: str) -> None:
        self._take_status(text)
        self.messages.append(" ".join(text[:TEXT_LENGTH].split()))

    def _take_code(self, value: object) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value) if 0 < value < 1_000_000 else ""
        if isinstance(value, str) and _CODE.fullmatch(value) and len(self.codes) < _MAX_FINDINGS:
            self.codes.append(value)

    def _take_status(self, value: object) -> None:
        """A number, a number as text, or a text with `HTTP_STATUS/429` or a leading `<429>`; the first one counts."""
        if self.status:
            return
        if isinstance(value, str):
            named = _NAMED_STATUS.search(value)
            digits = named[1] or named[2] if named else value
            value = int(digits) if len(digits) == 3 and digits.isascii() and digits.isdigit() else 0
        if isinstance(value, int) and 400 <= value <= 599:
            self.status = value


def _event_data(text: str) -> list[str]:
    """The data of the first events of a text that is made of events."""
    blocks = text.split("\n\n", _MAX_EVENTS)[:_MAX_EVENTS]
    found = ("\n".join(_DATA.findall(block)) for block in blocks)
    return [data for data in found if data]


def _parsed(text: str) -> object:
    try:
        return loads(text.encode())
    except orjson.JSONDecodeError:
        return _up_to_the_cut(text)


def _up_to_the_cut(text: str) -> dict[str, object]:
    """The plain members at the start of a JSON object that is cut short, those of its `error` included.

    It stops at the first other container: what stands in there may be the client's own words.
    """
    found: dict[str, object] = {}
    opening = _OPENING.match(text)
    at = opening.end() if opening else len(text)
    while member := _MEMBER.match(text, at):
        key, value = member[1], member[2]
        if value == "{" and key != "error":
            break
        if value != "{":
            found.setdefault(key, _scalar(value))
        at = member.end()
    return found


def _scalar(literal: str) -> object:
    try:
        return loads(literal.encode())
    except orjson.JSONDecodeError:
        return literal[1:] if literal.startswith('"') else None

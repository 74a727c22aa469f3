"""Answers before they are sent: whole replies, event streams, and the error bodies of Qwen's gateways."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
EVENT_STREAM = b"text/event-stream;charset=UTF-8"
DONE = b"data: [DONE]\n\n"

HeaderList: TypeAlias = "tuple[tuple[bytes, bytes], ...]"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a known length."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: HeaderList = ()


@dataclass(frozen=True, slots=True)
class EventStream:
    """A 200 whose body is made of whole server-sent events, each with its empty line."""

    events: Iterable[bytes]


Answer: TypeAlias = Reply | EventStream


def json_reply(content: Mapping[str, object], status: int = 200) -> Reply:
    """A JSON answer."""
    return Reply(status, orjson.dumps(content))


class Shape(enum.Enum):
    """How an error body is laid out."""

    OPENAI = "openai"
    FLAT = "flat"
    SSE_FRAMED = "sse_framed"
    NESTED = "nested"
    HTML = "html"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer of the upstream. For HTML and TEXT the message is the whole body."""

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    shape: Shape = Shape.OPENAI
    headers: HeaderList = ()

    def reply(self, request_id: str) -> Reply:
        """As an HTTP answer."""
        if self.shape is Shape.HTML:
            return Reply(self.status, self.message.encode(), HTML, self.headers)
        if self.shape is Shape.TEXT:
            return Reply(self.status, self.message.encode(), b"text/plain", self.headers)
        return Reply(self.status, self.body(request_id), JSON, self.headers)

    def event(self, request_id: str) -> bytes:
        """As an event inside a 200 stream."""
        if self.shape is Shape.FLAT:
            return b"event: error\ndata: " + self.body(request_id) + b"\n\n"
        return b"data: " + self.body(request_id) + b"\n\n"

    def body(self, request_id: str) -> bytes:
        """The JSON shapes alone."""
        if self.shape is Shape.FLAT:
            flat = {"code": self.code, "message": self.message, "request_id": request_id, "type": self.type}
            return orjson.dumps(flat)
        error = {"code": self.code, "param": None, "message": self.message, "type": self.type}
        body = orjson.dumps({"error": error, "id": f"chatcmpl-{request_id}", "request_id": request_id})
        if self.shape is Shape.SSE_FRAMED:
            return b"data: " + body + b"\n\n"
        if self.shape is Shape.NESTED:
            raw = f"data: {body.decode()}"
            nested = {"message": "Provider returned error", "code": self.status, "metadata": {"raw": raw}}
            return orjson.dumps({"error": nested})
        return body


class Refused(Exception):
    """Raised by handlers: the refusal is the answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refused(status: int, code: str, message: str) -> Refused:
    """To raise with an error of the plain OpenAI shape."""
    return Refused(Refusal(status, code, message))


def invalid(message: str) -> Refused:
    """To raise where a field is out of range: 400 `invalid_parameter_error`, worded as the gateway does."""
    return refused(400, "invalid_parameter_error", f"<400> InternalError.Algo.InvalidParameter: {message}")


def reply_head(reply: Reply, common: bytes) -> bytes:
    """The head of a whole answer, Content-Length included."""
    extra = b"".join(b"%b: %b\r\n" % pair for pair in reply.headers)
    return b"HTTP/1.1 %d %b\r\n%b%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (
        reply.status,
        HTTPStatus(reply.status).phrase.encode(),
        common,
        extra,
        reply.content_type,
        len(reply.body),
    )


def stream_head(common: bytes) -> bytes:
    """The head of an event stream in chunks."""
    return b"HTTP/1.1 200 OK\r\n%bcontent-type: %b\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n" % (
        common,
        EVENT_STREAM,
    )


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"

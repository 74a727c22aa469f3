"""One streamed chat completion as the command line needs it: sent with an HTTP client, read while it comes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpcore
import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

Headers = tuple[tuple[bytes, bytes], ...]

JSON: Headers = ((b"content-type", b"application/json"),)
SHOWN_BODY_BYTES = 300
HTTP_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


class Refused(Exception):
    """The answer was not 200. The text says what came instead."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a stream brought: its text, reasoning left out, and when. `finished`: it ended with `[DONE]` or a reason.

    Times are in seconds from the sending; `first_token_s` is None where there was no text.
    """

    text: str
    finished: bool
    first_token_s: float | None
    total_s: float


async def stream_chat(
    client: httpcore.AsyncConnectionPool,
    base_url: str,
    body: bytes,
    headers: Headers = (),
    on_text: Callable[[str], None] = lambda _: None,
) -> Transcript:
    """Send `body` to the chat endpoint of `base_url` and call `on_text` with every piece of the answer.

    Raises Refused, and httpcore's errors.
    """
    started = time.perf_counter()
    texts: list[str] = []
    first_token_s = None
    finished = False
    url = f"{base_url}/chat/completions"
    async with client.stream("POST", url, headers=[*JSON, *headers], content=body) as response:
        if response.status != 200:
            raise Refused(refusal(response.status, await response.aread()))
        async for data in _event_data(response.aiter_stream()):
            text, ends = ("", True) if data == b"[DONE]" else _content(data)
            finished |= ends
            if text:
                first_token_s = first_token_s or time.perf_counter() - started
                texts.append(text)
                on_text(text)
    return Transcript("".join(texts), finished, first_token_s, time.perf_counter() - started)


def chat_body(model: str, prompt: str) -> bytes:
    """The body of a streamed chat request with one message."""
    return orjson.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]})


def refusal(status: int, body: bytes) -> str:
    """The status and the message of an error answer, or the start of its body, in one line."""
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = body[:SHOWN_BODY_BYTES].decode("utf-8", "replace")
    return f"{status} {' '.join(str(message).split())}".rstrip()


async def _event_data(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    buffer = b""
    async for piece in pieces:
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _content(data: bytes) -> tuple[str, bool]:
    """The text in one chunk, and whether it ends the answer."""
    choices = orjson.loads(data).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or "", choices[0].get("finish_reason") is not None

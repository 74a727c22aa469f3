"""Chat requests that look like those of a coding assistant: prose, code, escapes, some text that is not ASCII."""

from __future__ import annotations

import json
import random
from typing import Literal

MODEL = "qwen3-coder-plus"
SEED = 20_251
KIB = 1024
MIB = 1024 * 1024

# SDKs send `messages` before `model`; hand-written clients often do the reverse.
KeyOrder = Literal["messages first", "model first"]

_PROSE = (
    "Please look at the handler below and say why the second call never returns.",
    "The tests pass on my machine, but the build server reports a timeout after ten minutes.",
    'It prints "connection reset by peer" and then stops, although the retry is configured.',
    "Could you split this function into two and keep the public name as it is?",
    "Die Größe der Antwort stimmt nicht mit der Länge überein, die der Server nennt.",
    "请解释一下这个函数为什么会阻塞。",
    "Here is what I tried so far:\n\n1. restart the worker\n2. clear the cache\n3. read the log again",
)
_CODE = (
    (
        'def load(path: str) -> dict[str, int]:\n    with open(path, encoding="utf-8") as lines:\n'
        '        return {key: int(value) for key, value in (line.split("=") for line in lines)}\n'
    ),
    "for (size_t i = 0; i < count; i++) {\n\tif (!strcmp(names[i], wanted))\n\t\treturn &items[i];\n}\n",
    'const response = await fetch(`${base}/items/${id}`, { headers: { "accept": "application/json" } });\n',
    "SELECT id, name FROM items WHERE price < 10.5 AND name LIKE '%\\\\_old' ORDER BY id DESC;\n",
    '{"name": "example", "scripts": {"build": "tsc -p .", "path": "C:\\\\work\\\\out"}, "private": true}\n',
)
_MESSAGE_BYTES = 6 * KIB


def chat_body(size_bytes: int, *, stream: bool = False, order: KeyOrder = "messages first") -> bytes:
    """A chat completion request of exactly `size_bytes`, at least 200. The same arguments give the same bytes."""
    rng = random.Random(SEED)
    messages = [{"role": "system", "content": "You are a careful programmer."}]
    missing = size_bytes - len(_encoded(messages, stream, order))
    while missing > 0:
        content = _text(rng, min(missing, _MESSAGE_BYTES))
        messages.append({"role": ("assistant", "user")[len(messages) % 2], "content": content})
        missing -= len(_dump(messages[-1])) + 1
    return _fitted(messages, size_bytes, stream, order)


def _text(rng: random.Random, size_bytes: int) -> str:
    parts: list[str] = []
    length = 0
    while length < size_bytes:
        part = rng.choice(_PROSE) if rng.random() < 0.6 else f"```\n{rng.choice(_CODE)}```"
        parts.append(part)
        length += len(part.encode()) + 1
    return "\n".join(parts)


def _fitted(messages: list[dict[str, str]], size_bytes: int, stream: bool, order: KeyOrder) -> bytes:
    """Cuts messages from the end and fills the last one until the size is met."""
    while (excess := len(_encoded(messages, stream, order)) - size_bytes) > 0:
        content = messages[-1]["content"]
        if content:
            messages[-1]["content"] = content[: max(0, len(content) - excess)]
        else:
            messages.pop()
    messages[-1]["content"] += "." * -excess
    return _encoded(messages, stream, order)


def _encoded(messages: list[dict[str, str]], stream: bool, order: KeyOrder) -> bytes:
    body: dict[str, object] = {"messages": messages, "model": MODEL}
    if order == "model first":
        body = {"model": MODEL, "messages": messages}
    body["temperature"] = 0.2
    if stream:
        body["stream"] = True
    return _dump(body)


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

"""The access line: one a request, written beside the loop, in batches.

An exchange appends its line to a list. A few times a second a thread takes the list and writes it; what comes faster
than the disk takes is dropped and counted, never waited for. The line is formatted at once, in two microseconds:
thousands of them in the thread would take the interpreter lock from the loop for milliseconds.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import anyio

from qproxy.core.exchange import ExchangeRecord
from qproxy.edge.writer import BackgroundWriter, take_all, write_to_stderr

FLUSH_S = 0.25
MAX_WAITING = 50_000


class AccessLog:
    """Writes to `stderr` or appends to a file. What a destination does not take is lost; serving goes on."""

    def __init__(self, target: str) -> None:
        self._waiting: list[str] = []
        self._dropped = 0
        self._target = target
        self._writer = BackgroundWriter("qproxy-access-log", self._take, self._write)

    def record(self, record: ExchangeRecord) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(access_line(record))
        else:
            self._dropped += 1

    async def run(self) -> None:
        """Until cancelled; what is left is written by `close`."""
        while True:
            await anyio.sleep(FLUSH_S)
            if self._waiting:
                self._writer.wake()

    def flush(self) -> None:
        """Have written what waits. Blocks for half a second at most."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is left. Blocks for half a second at most."""
        if self._waiting:
            self._writer.wake()
        self._writer.close()

    def _take(self) -> str:
        dropped, self._dropped = self._dropped, 0
        text = "".join(take_all(self._waiting))
        return f"{text}dropped={dropped} access lines\n" if dropped else text

    def _write(self, text: str) -> None:
        if self._target == "stderr":
            write_to_stderr(text)
            return
        with io.open(self._target, "a", encoding="utf-8") as file:  # noqa: UP020 - rotated files are followed
            file.write(text)


def access_line(record: ExchangeRecord) -> str:
    """`key=value` pairs; times in milliseconds since the head was read, `-` where a phase was not reached."""
    return " ".join(_pairs(record)) + "\n"


def _pairs(record: ExchangeRecord) -> Iterable[str]:
    yield f"id={record.request_id}"
    yield f"peer={record.peer}"
    yield f"{record.method or '-'} {_quoted(record.path)}"
    yield f"status={record.status or '-'}"
    yield f"upstream={record.upstream or '-'} account={record.account or '-'} attempts={record.attempts}"
    yield f"model={_quoted(record.model)}"
    yield f"up={'live' if record.cut_through else 'stored'}"
    yield f"in={record.request_bytes} out={record.response_bytes}"
    usage = record.usage
    yield "tokens=-" if usage is None else f"tokens={usage.prompt_tokens}+{usage.completion_tokens}"
    yield f"body_ms={_since(record, record.received)}"
    yield f"first_ms={_since(record, record.answered)}"
    yield f"total_ms={_since(record, record.ended)}"
    if record.error:
        yield f"error={record.error} phase={record.phase.name.lower()}"


def _since(record: ExchangeRecord, moment: float) -> str:
    return f"{(moment - record.started) * 1000:.1f}" if moment else "-"


def _quoted(text: str) -> str:
    """Text of the client's, so that it can neither break the line nor pass for another field."""
    plain = text.isascii() and text.isprintable() and " " not in text and '"' not in text
    return (text if plain else ascii(text).replace(" ", "\\x20"))[:200] or "-"

"""The access line: one a request, written beside the loop, in batches.

An exchange appends its record to a list; every few dozen become lines together, which costs half of what one by one
costs, between requests. A few times a second a thread takes the lines and writes them; what comes faster than the disk
takes is dropped and counted, never waited for. The thread formats nothing: thousands of lines would take the
interpreter lock from the loop for milliseconds.
"""

from __future__ import annotations

import io
import re

import anyio

from qproxy.core.exchange import ExchangeRecord
from qproxy.edge.writer import BackgroundWriter, take_all, write_to_stderr

FLUSH_S = 0.25
BATCH = 32  # records, a twentieth of a millisecond
MAX_WAITING = 50_000
_PLAIN_TEXT = re.compile(r"[!#-~]*")


class AccessLog:
    """Writes to `stderr` or appends to a file. What a destination does not take is lost; serving goes on."""

    def __init__(self, target: str) -> None:
        self._records: list[ExchangeRecord] = []
        self._waiting: list[str] = []
        self._dropped = 0
        self._target = target
        self._writer = BackgroundWriter("qproxy-access-log", self._take, self._write)

    def record(self, record: ExchangeRecord) -> None:
        self._records.append(record)
        if len(self._records) >= BATCH:
            self._format()

    async def run(self) -> None:
        """Until cancelled; what is left is written by `close`."""
        while True:
            await anyio.sleep(FLUSH_S)
            self._format()
            if self._waiting:
                self._writer.wake()

    def flush(self) -> None:
        """Have written what waits. Blocks for half a second at most."""
        self._format()
        self._writer.flush()

    def close(self) -> None:
        """Write what is left. Blocks for half a second at most."""
        self._format()
        if self._waiting:
            self._writer.wake()
        self._writer.close()

    def _format(self) -> None:
        records, self._records = self._records, []
        if len(self._waiting) + len(records) <= MAX_WAITING:
            self._waiting.extend(map(access_line, records))
        else:
            self._dropped += len(records)

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
    started, usage = record.started, record.usage
    tokens = "-" if usage is None else f"{usage.prompt_tokens}+{usage.completion_tokens}"
    error = f" error={record.error} phase={record.phase.name.lower()}" if record.error else ""
    return (
        f"id={record.request_id} peer={record.peer} {record.method or '-'} {_quoted(record.path)} "
        f"status={record.status or '-'} upstream={record.upstream or '-'} account={record.account or '-'} "
        f"attempts={record.attempts} model={_quoted(record.model)} up={'live' if record.cut_through else 'stored'} "
        f"in={record.request_bytes} out={record.response_bytes} tokens={tokens} "
        f"body_ms={_since(started, record.received)} first_ms={_since(started, record.answered)} "
        f"total_ms={_since(started, record.ended)}{error}\n"
    )


def _since(started: float, moment: float) -> str:
    return f"{(moment - started) * 1000:.1f}" if moment else "-"


def _quoted(text: str) -> str:
    """Text of the client's, so that it can neither break the line nor pass for another field."""
    return (text if _PLAIN_TEXT.fullmatch(text) else ascii(text).replace(" ", "\\x20"))[:200] or "-"

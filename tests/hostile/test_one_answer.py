"""The same bytes of an upstream through us, h11, nginx and HAProxy: nobody sees two answers where another one sees one.

What we pass on as whole is what they pass on, unless a row of `OTHERWISE` says why they do not. What we refuse although
they accept it has a row in `FURTHER`. And whatever stands behind an answer is never the answer to the next request.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import anyio
import h11
import pytest

from qproxy.core.http1 import HEAD_END
from qproxy.edge.runtime import run
from qproxy.simulator.wire import PeerLeft, Wire, accept_forever, listen
from tests.hostile.conftest import guarded
from tests.support.framings import CODINGS, LENGTHS, STRICTER_CHUNKS, STRICTER_LINES, TOKEN, chunked_bodies
from tests.support.other_parsers import FRONT_ENDS, front_end
from tests.support.raw_client import connect
from tests.support.shell import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

AT_ONCE = 100
PATIENCE_S = 40.0
SILENCE_S = 3.0
"""How long those in between wait for the rest of an answer: longer than a busy machine lets a whole one wait."""

BODY = b"0\r\n\r\nHTTP/1.1 204 smuggled\r\nX: 56789\r\n\r\n"
assert len(BODY) == 40
SMUGGLED = b"HTTP/1.1 200 OK\r\nX-Origin: smuggled\r\nContent-Length: 8\r\n\r\nsmuggled"
"""Stands behind every answer."""
CLEAN = b"HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 5\r\n\r\nclean"
WHOLE = b"HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 2\r\n\r\nok"
CASE = re.compile(rb"[?]case=([0-9]+|clean) HTTP/")

STATUS_LINES = (
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK",
    b"HTTP/1.1 0200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 +200 OK",
    b"HTTP/1.1 099 OK", b"HTTP/1.1 600 OK", b"HTTP/1.1 999 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 200\tOK",
    b"HTTP/2 200 OK", b"HTTP/1.2 200 OK", b"HTTP/0.9 200 OK", b"HTTP/11 200 OK", b"HTTP/1.1.1 200 OK",
    b"http/1.1 200 OK", b"ICY 200 OK", b" HTTP/1.1 200 OK", b"\r\nHTTP/1.1 200 OK", b"\nHTTP/1.1 200 OK",
    b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 \xc3\xa9", b"HTTP/1.1 200 OK\nX: y", b"HTTP/1.1 200 OK\rX: y",
    b"200 OK", b"",
)  # fmt: skip
LINES = (
    b"X: y", b"X:y", b"X :y", b"X\t: y", b" X: y", b"X", b":y", b"", b"X: a\r\n b", b"X: a\nY: b", b"X: a\rY: b",
    b"X: \x00", b"X: \x0b", b"X: \xff", b"X\xff: y", b"X(: y", b"X: " + b"y" * 9000, b"Connection: close",
    b"Connection: content-length", b"Keep-Alive: timeout=5", b"Upgrade: x", b"Trailer: x",
)  # fmt: skip
INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 102 P\r\n\r\n" * 2,
    b"HTTP/1.1 100 Continue\r\nContent-Length: 8\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.0 100 Continue\r\n\r\n",
    b"HTTP/1.1 199 X\r\n\r\n", b"HTTP/1.1 100 Continue\n\n",
)  # fmt: skip
BODYLESS = (b"204 No Content", b"304 Not Modified", b"205 Reset Content")


FURTHER = {
    **STRICTER_LINES,
    "a line is not folded": rb"\r\n[ \t]",
    "a line is a name, a colon and a value": rb"\r\n(?!" + TOKEN + rb"+:)[^\r]",
    "a length is a plain number": rb"(?i)\r\ncontent-length:(?![ \t]*[0-9]{1,18} *\r\n)",
    "two lengths are the same": rb"(?is)\r\ncontent-length: *([0-9]+).*\r\ncontent-length:(?! *\1\r\n)",
    "a coding is chunked, and nothing else": rb"(?i)\r\ntransfer-encoding:(?![ \t]*chunked[ \t]*\r\n)",
    "a coding stands once": rb"(?is)\r\ntransfer-encoding:.*\r\ntransfer-encoding:",
    "a length or a coding, not both": rb"(?is)\r\ncontent-length:.*\r\ntransfer-encoding:",
    "HTTP/1.0 has no codings": rb"(?is)^HTTP/1\.0 .*\r\ntransfer-encoding:",
    "nobody asked for another protocol": rb"^HTTP/1\.1 101 ",
    "a status of a known class, in HTTP/1.1 or 1.0": rb"^(?!HTTP/1\.[01] [1-5][0-9]{2}(?: [^\r]*)?\r\n)",
}
"""What a head has to keep to although others may not ask for it, as what shows that it does not."""

OTHERWISE = {
    "nginx": {
        "a tab before a length": rb"(?i)content-length:\t",
        "a length that is said twice in one line": rb"Content-Length: 40, 40",
        "more than a buffer of 4 KiB": rb"(?s)^.{4096}",
        "an interim answer": rb"^HTTP/1\.[01] 1",
    },
    "haproxy": {},
    "h11": {},
}
"""What others do not understand, or not in the way of RFC 9112."""


class Said(NamedTuple):
    """What an upstream says to a request, and whether it closes then."""

    raw: bytes
    closes: bool


class Got(NamedTuple):
    """A whole answer as somebody understood it; status 0 where it was refused, or broke off."""

    status: int
    body: bytes = b""


REFUSED = Got(0)


@cache
def inputs() -> tuple[Said, ...]:
    return tuple(Said(raw, closes) for raw in dict.fromkeys(_answers()) for closes in (False, True))


def _answers() -> Iterator[bytes]:
    for length in LENGTHS:
        for coding in CODINGS:
            yield _head(b"HTTP/1.1 200 OK", length, coding) + BODY
    for coding in CODINGS:
        yield _head(b"HTTP/1.0 200 OK", coding) + BODY
        yield _head(b"HTTP/1.0 200 OK", LENGTHS[1], coding) + BODY
    for chunks in chunked_bodies():
        yield _head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked") + chunks
    for line in STATUS_LINES:
        yield line + WHOLE[WHOLE.index(b"\r\n") :]
    for line in LINES:
        yield _head(b"HTTP/1.1 200 OK", line, b"Content-Length: 2") + b"ok"
        yield _head(b"HTTP/1.1 200 OK", b"Content-Length: 2", line) + b"ok"
    for heads in INTERIM:
        yield heads + WHOLE
    for status in BODYLESS:
        for framing in (b"", LENGTHS[1], CODINGS[1]):
            yield _head(b"HTTP/1.1 " + status, framing) + BODY


def _head(first: bytes, *lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (first, b"X-Origin: yes", *lines) if line) + b"\r\n"


async def speak(wire: Wire) -> None:
    """An upstream that says what the requests name."""
    try:
        while True:
            while (asked := CASE.search(wire.buffer)) is None or not wire.buffer.endswith(b"{}"):
                await wire.receive_more()
            case = asked[1].decode()
            wire.buffer = bytearray()
            if case == "clean":
                await wire.send(CLEAN)
                continue
            said = inputs()[int(case)]
            await wire.send(said.raw + SMUGGLED)
            if said.closes:
                return
    except PeerLeft:
        pass
    finally:
        wire.close()


class Reader:
    """One connection of a client that is h11."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT)
        self._status = 0
        self._body = b""
        self._is_theirs = False

    def ask(self, case: str) -> bytes:
        """The bytes of a request. Raises h11.LocalProtocolError where the connection is used up."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        self._status, self._body, self._is_theirs = 0, b"", False
        head = h11.Request(
            method="POST", target=f"/v1/files?case={case}", headers=[("Host", "localhost"), ("Content-Length", "2")]
        )
        return b"".join(self._h11.send(each) or b"" for each in (head, h11.Data(data=b"{}"), h11.EndOfMessage()))

    def read(self, data: bytes) -> Got | None:
        """For more bytes, or b"" at their end, what is known of the answer. Raises h11.RemoteProtocolError."""
        self._h11.receive_data(data)
        while (event := self._h11.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                self._status = event.status_code
                self._is_theirs = (b"x-origin", b"yes") in event.headers
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Got(self._status, self._body) if self._is_theirs else REFUSED
            elif not isinstance(event, h11.InformationalResponse):
                return REFUSED
        return None


def read_by_h11(said: Said) -> Got:
    reader = Reader()
    reader.ask("")
    try:
        got = reader.read(said.raw + SMUGGLED)
        return got or (said.closes and reader.read(b"")) or REFUSED
    except h11.RemoteProtocolError:
        return REFUSED


async def ask(wire: Wire, reader: Reader, case: str) -> Got:
    got = None
    try:
        await wire.send(reader.ask(case))
        while got is None:
            data = b""
            with suppress(PeerLeft):
                await wire.receive_more()
                data, wire.buffer = bytes(wire.buffer), bytearray()
            got = reader.read(data)
    except (PeerLeft, h11.ProtocolError):
        return REFUSED
    return got


async def read_all(url: str, ask_again: Collection[int] = ()) -> list[Got]:
    """What a client is told by whoever listens there. Those who ask again are answered, or refused: what stood behind
    the first answer is not the next one."""
    got = [REFUSED] * len(inputs())
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def read(number: int) -> None:
        async with limiter:
            wire, reader = connect(url), Reader()
            try:
                with anyio.fail_after(PATIENCE_S):
                    got[number] = await ask(wire, reader, str(number))
                    if number in ask_again:
                        assert await ask(wire, reader, "clean") in (Got(200, b"clean"), REFUSED), inputs()[number]
            finally:
                wire.close()

    async with anyio.create_task_group() as tasks:
        for number in range(len(inputs())):
            tasks.start_soon(read, number)
    return got


@pytest.fixture(scope="module", params=[*FRONT_ENDS, "h11"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Got]]:
    """One of the others, and what it passes on."""
    front = FRONT_ENDS.get(request.param)
    if front is None:
        return request.param, [read_by_h11(said) for said in inputs()]
    front.require()

    async def main() -> list[Got]:
        silence_ms = int(1000 * SILENCE_S)
        folder = tmp_path_factory.mktemp(front.name)
        async with front_end(front, folder, silence_ms, answer_ms=silence_ms, serve=speak) as url:
            return await read_all(url)

    return request.param, anyio.run(main)


async def pass_on_all() -> list[Got]:
    clocks = dict.fromkeys(("first_byte_stream_s", "first_byte_plain_s", "stream_idle_s"), SILENCE_S)
    with listen("127.0.0.1", 0, None) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(accept_forever, listener, tasks, speak)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            async with guarded(url, timeouts=clocks, breaker=False) as proxy:
                got = await read_all(proxy.url, range(len(inputs())))
            tasks.cancel_scope.cancel()
    return got


@pytest.fixture(scope="module", params=BACKENDS)
def ours(request: pytest.FixtureRequest) -> list[Got]:
    """What we pass on."""
    return run(pass_on_all, backend=request.param)


def disagreements(ours: list[Got], name: str, theirs: list[Got]) -> list[str]:
    """Where we pass on as whole what they see otherwise."""
    return [
        f"{said}: {our} for us is {their} for them"
        for said, our, their in zip(inputs(), ours, theirs, strict=True)
        if our not in (REFUSED, their) and not _shows(OTHERWISE[name], said.raw)
    ]


def _shows(patterns: Mapping[str, bytes], raw: bytes) -> bool:
    return any(re.search(pattern, raw) for pattern in patterns.values())


def test_what_we_pass_on_is_the_same_for_them(ours: list[Got], theirs: tuple[str, list[Got]]) -> None:
    assert disagreements(ours, *theirs) == []


def test_the_comparison_is_about_something(ours: list[Got], theirs: tuple[str, list[Got]]) -> None:
    assert sum(our == their != REFUSED for our, their in zip(ours, theirs[1], strict=True)) > 200
    assert sum(their == REFUSED for their in theirs[1]) > 500
    assert len(disagreements([Got(200, b"else")] * len(inputs()), *theirs)) > 1000


def test_what_we_alone_refuse_has_a_reason(ours: list[Got], theirs: tuple[str, list[Got]]) -> None:
    alone = [
        said
        for said, our, their in zip(inputs(), ours, theirs[1], strict=True)
        if our == REFUSED != their and (said.closes or _is_framed(said.raw))
    ]
    assert alone
    assert [said for said in alone if not _is_explained(said.raw)] == []


def _is_framed(raw: bytes) -> bool:
    """Else only the end of the connection is the end of the answer, and no silence is."""
    return re.search(rb"(?i)\r\n(?:content-length|transfer-encoding):", raw.partition(HEAD_END)[0]) is not None


def _is_explained(raw: bytes) -> bool:
    head, _, body = raw.partition(HEAD_END)
    return _shows(FURTHER, head + b"\r\n") or _shows(STRICTER_CHUNKS, body)

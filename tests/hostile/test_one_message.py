"""The same bytes for our parser, h11, nginx and HAProxy: nobody sees two requests where another one sees one.

What we accept they accept as well, and divide in the same way. What we refuse although they accept it has a row in
`FURTHER`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.core.http1 import HEAD_END
from qproxy.core.limits import Limits
from tests.hostile.conftest import guarded
from tests.support.framings import CODINGS, LENGTHS, STRICTER_CHUNKS, STRICTER_LINES, TOKEN, chunked_bodies
from tests.support.hostile_requests import REFUSED_REQUESTS
from tests.support.other_parsers import (
    FRONT_ENDS,
    PATIENT_MS,
    Reading,
    front_end,
    read_by_h11_alone,
    read_by_us,
    read_through,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

AT_ONCE = 100
PATH = b"/v1/files"
AFTER = b"GET /after HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""Stands behind every input: whoever divides that otherwise sees another request here, or none."""

BODY = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
assert len(BODY) == 40
SINGLE = rb"content-length|transfer-encoding|host|authorization|x-api-key|content-type|origin|expect"
FURTHER = {
    **STRICTER_LINES,
    "a line is not folded": rb"\r\n[ \t]",
    "a line is a name, a colon and a value": rb"\r\n(?!" + TOKEN + rb"+:)[^\r]",
    "a field that counts stands once": rb"(?is)\r\n(" + SINGLE + rb"):.*\r\n\1:",
    "a length is a plain number": rb"(?i)\r\ncontent-length:(?! *[0-9]{1,18} *\r\n)",
    "a coding is chunked, and nothing else": rb"(?i)\r\ntransfer-encoding:(?! *chunked *\r\n)",
    "a length or a coding, not both": rb"(?is)^(?=.*\r\ncontent-length:).*\r\ntransfer-encoding:",
    "HTTP/1.0 has no codings": rb"(?is)^[^\r]* HTTP/1\.0\r\n.*\r\ntransfer-encoding:",
    "a method of a usual length, a path, HTTP/1": rb"^(?!"
    + TOKEN
    + rb"{1,32} (?:/|https?://)[!\"$-~]* HTTP/1\.[01]\r)",
    "there is a Host": rb"(?is)^(?!.*\r\nhost:)",
    "a Host is a name and a port": rb"(?i)\r\nhost:(?! *[a-z0-9.\-]+(?::[0-9]{1,5})? *\r\n)",
    "so is the authority of a target": rb"^[^ ]+ https?://(?![a-z0-9.\-]+(?::[0-9]{1,5})?[/ ])",
    "what is expected is known": rb"(?i)\r\nexpect:(?! *100-continue *\r\n)",
    "there are limits": rb"(?s)^.{%d}|(?:\r\n[^\r]*){%d}" % (Limits().target_bytes, Limits().head_lines),
}
"""What a head has to keep to although others may not ask for it, as what shows that it does not."""


@cache
def inputs() -> Mapping[str, bytes]:
    """All of them by name, without what stands behind them."""
    # HTTP/0.9 is left out, whose answers have no heads to read.
    found = {name: raw for name, (raw, _) in REFUSED_REQUESTS.items() if "HTTP/0.9" not in name}
    return found | {repr(raw): raw for raw in (*_framings(), *_chunk_bodies())}


def _framings() -> Iterator[bytes]:
    for version in (b"1.1", b"1.0"):
        for length in LENGTHS:
            for coding in CODINGS:
                yield _head(version, length, coding) + BODY


def _chunk_bodies() -> Iterator[bytes]:
    head = _head(b"1.1", b"Transfer-Encoding: chunked")
    return (head + chunks for chunks in chunked_bodies())


def _head(version: bytes, *lines: bytes) -> bytes:
    fields = b"".join(line + b"\r\n" for line in (b"Host: localhost", *lines) if line)
    return b"POST " + PATH + b" HTTP/" + version + b"\r\n" + fields + b"\r\n"


async def read_all(url: str) -> dict[str, Reading]:
    """What the origin behind whoever listens there is asked for each input."""
    readings: dict[str, Reading] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def read(name: str) -> None:
        async with limiter:
            readings[name] = await read_through(url, inputs()[name] + AFTER)

    async with anyio.create_task_group() as tasks:
        for name in inputs():
            tasks.start_soon(read, name)
    return readings


@pytest.fixture(scope="module", params=[*FRONT_ENDS, "h11"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """The readings of one of the others."""
    front = FRONT_ENDS.get(request.param)
    if front is None:
        return {name: read_by_h11_alone(raw + AFTER) for name, raw in inputs().items()}
    front.require()

    async def main() -> dict[str, Reading]:
        async with front_end(front, tmp_path_factory.mktemp(front.name)) as url:
            return await read_all(url)

    return anyio.run(main)


def disagreement(ours: Reading, theirs: Reading) -> str:
    """Where something could get past whoever reads as we do, or as they do; empty where nothing could."""
    for one, other in zip(ours.messages, theirs.messages, strict=False):
        if one != other:
            return f"{one} for us is {other} for them"
    if len(ours.messages) > len(theirs.messages):
        return f"they do not see {ours.messages[len(theirs.messages)]} ({theirs.refusal or 'and refuse nothing'})"
    if ours.refusal:
        return ""
    if theirs.refusal:
        return f"they refuse the rest of it ({theirs.refusal})"
    if len(ours.messages) < len(theirs.messages):
        return f"we do not see {theirs.messages[len(ours.messages)]}"
    return ""


def disagreements(theirs: Mapping[str, Reading]) -> list[str]:
    compared = ((name, disagreement(read_by_us(raw + AFTER), theirs[name])) for name, raw in inputs().items())
    return [f"{name}: {what}" for name, what in compared if what]


def is_explained(raw: bytes) -> bool:
    head, _, body = raw.partition(HEAD_END)
    in_head = any(re.search(pattern, head + b"\r\n") for pattern in FURTHER.values())
    return in_head or any(re.search(pattern, body) for pattern in STRICTER_CHUNKS.values())


def test_what_we_accept_is_the_same_for_them(theirs: Mapping[str, Reading]) -> None:
    assert disagreements(theirs) == []


def test_the_comparison_is_about_something(theirs: Mapping[str, Reading], monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = [name for name, raw in inputs().items() if not read_by_us(raw + AFTER).refusal]
    assert sum(len(theirs[name].messages) > 1 for name in accepted) > 20
    assert sum(bool(theirs[name].refusal) for name in inputs()) > 200
    monkeypatch.setattr("qproxy.core.framing._SIZE_LINE", re.compile(rb"(\+?[0-9A-Fa-f]{1,16})[ \t]*"))
    assert any("+5" in each for each in disagreements(theirs))


def test_what_we_alone_refuse_has_a_reason(theirs: Mapping[str, Reading]) -> None:
    alone = [
        name
        for name, raw in inputs().items()
        if read_by_us(raw + AFTER).refusal and theirs[name].messages and not theirs[name].refusal
    ]
    assert alone
    assert [name for name in alone if not is_explained(inputs()[name])] == []


PROXY_SILENCE_S = 1.0
"""More than the turns of a loop take that has all of these clients come at once: their bytes are there by then."""


@pytest.mark.anyio
@pytest.mark.parametrize("name", FRONT_ENDS)
async def test_what_we_pass_on_is_the_same_for_them(tmp_path: Path, name: str) -> None:
    """The other direction: they are the upstream, and see what we saw, and no request more."""
    FRONT_ENDS[name].require()
    clocks = dict.fromkeys(("head_s", "body_s", "keepalive_idle_s"), PROXY_SILENCE_S)
    async with front_end(FRONT_ENDS[name], tmp_path, PATIENT_MS) as url:
        async with guarded(f"{url}/v1", timeouts=clocks) as proxy:
            theirs = await read_all(proxy.url)
    for each, raw in inputs().items():
        passed_on = [message for message in read_by_us(raw + AFTER).messages if message.target == PATH.decode()]
        assert list(theirs[each].messages) == passed_on, each

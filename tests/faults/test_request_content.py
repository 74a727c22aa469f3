"""What a JSON request says, over the wire: broken text, numbers and nesting beyond reason, keys that stand twice, other
types than JSON, and bodies that name a destination of their own."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import orjson
import pytest

from qproxy import app
from qproxy.config.values import Secret
from tests.hostile.conftest import Recorder, guarded, recording
from tests.support.live import settings_for
from tests.support.raw_client import Answer, End, chunks, cut_at, post, raw_client, request_head

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.raw_client import RawClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
JSON = b"Content-Type: application/json"
GOOD = b'{"model":"m","messages":[]}'
HUGE_DEPTH = 100_000
PADDING = b'"pad":"' + b"x" * 300_000 + b'"'
"""Makes a body longer than what is checked whole."""

REFUSED: dict[str, tuple[bytes, str]] = {
    "C33 a byte that is no UTF-8": (b'{"model":"\xff"}', "invalid_utf8"),
    "C33 a character cut off": (b'{"model":"\xe9\x80"}', "invalid_utf8"),
    "C33 an overlong form": (b'{"model":"\xc0\xaf"}', "invalid_utf8"),
    "C33 a surrogate as bytes": (b'{"model":"\xed\xa0\x80"}', "invalid_utf8"),
    "C33 Latin-1": ('{"model":"é"}'.encode("latin-1"), "invalid_utf8"),
    "C33 UTF-16": (GOOD.decode().encode("utf-16"), "invalid_utf8"),
    "C33 UTF-16 without a mark": (GOOD.decode().encode("utf-16-le"), "invalid_json"),
    "C33 UTF-32 without a mark": (GOOD.decode().encode("utf-32-be"), "invalid_json"),
    "C33 a byte order mark": (b"\xef\xbb\xbf" + GOOD, "invalid_json"),
    "C33 nothing": (b"", "invalid_json"),
    "C33 white space alone": (b" \r\n\t", "invalid_json"),
    "C33 a second value": (GOOD + GOOD, "invalid_json"),
    "C33 trailing garbage": (GOOD + b"\x00", "invalid_json"),
    "C33 a line break in a string": (b'{"model":"a\nb"}', "invalid_json"),
    "C33 NUL in a string": (b'{"model":"a\x00b"}', "invalid_json"),
    "C33 an escape sequence of terminals": (b'{"model":"\x1b[2J"}', "invalid_json"),
    "C33 no object": (b"[" + GOOD + b"]", "invalid_json"),
    "C34 nesting": (b'{"a":' + b"[" * HUGE_DEPTH + b"]" * HUGE_DEPTH + b"}", "too_deep"),
    "C34 nesting that never ends": (b'{"a":' + b'{"a":' * 40_000, "too_deep"),
    "C34 NaN": (b'{"model":"m","temperature":NaN}', "invalid_json"),
    "C34 Infinity": (b'{"model":"m","temperature":-Infinity}', "invalid_json"),
    "C35 two models": (b'{"model":"a","messages":[],"model":"b"}', "duplicate_key"),
    "C35 two models, one of them spelt with an escape": (rb'{"model":"a","m\u006fdel":"a"}', "duplicate_key"),
    "C35 stream twice": (b'{"model":"a","stream":true,"stream":true}', "duplicate_key"),
}

PASSED: dict[str, bytes] = {
    "C34 an integer of 5,000 digits": b'{"model":"m","seed":%b}' % (b"1" * 5000),
    "C34 1e400": b'{"model":"m","temperature":1e400}',
    "C34 nesting in a body that is not checked whole": (
        b'{"model":"m","a":' + b"[" * 2 * HUGE_DEPTH + b"]" * 2 * HUGE_DEPTH + b"}"
    ),
    "C35 any other key": b'{"model":"m","seed":1,"seed":2,"messages":[],"messages":[]}',
    "C35 a model further in": b'{"model":"m","tools":[{"model":"a","model":"b"}]}',
    "C36 surrogates without a partner": rb'{"model":"m","a":"\ud800","b":"\udc00\ud800"}',
    "C36 NUL as an escape": rb'{"model":"m","a":"\u0000"}',
    "C36 a string of a megabyte": b'{"model":"m","a":"%b"}' % (b"x" * 1_000_000),
    "C36 a string of escapes": rb'{"model":"m","a":"%b"}' % (rb"\u00e9" * 30_000),
}


def wire(body: bytes, framing: str) -> list[bytes]:
    """A chat request in one piece, or as chunks in pieces of their own."""
    if framing == "length":
        return [post(CHAT, body)]
    return [request_head("POST", CHAT, JSON, b"Transfer-Encoding: chunked"), *chunks(cut_at(body, [1, 7, 60_000]))]


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


async def served_again(client: RawClient, recorder: Recorder) -> None:
    """What was refused for its content costs nobody the connection, and nothing of it went up."""
    assert recorder.received_bytes == 0
    assert (await client.ask(post(CHAT, GOOD))).status == 200


def assert_envelope(answer: Answer) -> None:
    assert answer.end is End.WHOLE
    assert answer.header(b"content-type") == b"application/json"
    assert set(orjson.loads(bytes(answer.body))["error"]) == {"message", "type", "param", "code"}
    assert (answer.header(b"x-should-retry"), answer.header(b"connection")) == (b"false", b"")


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_wrong_is_said_and_nothing_goes_up(name: str, framing: str) -> None:
    body, code = REFUSED[name]
    async with recording() as recorder, guarded(recorder.url) as proxy, raw_client(proxy.url) as client:
        await client.send(*wire(body, framing))
        answer = await client.answer()
        assert (answer.status, answer.error_code) == (400, code)
        assert_envelope(answer)
        await served_again(client, recorder)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("name", PASSED)
async def test_what_is_the_upstreams_to_judge_passes_as_it_is(name: str, framing: str) -> None:
    body = PASSED[name]
    async with recording() as recorder, guarded(recorder.url) as proxy, raw_client(proxy.url) as client:
        await client.send(*wire(body, framing))
        answer = await client.answer()
        assert (answer.status, bytes(answer.body)) == (200, b"{}")
        (request,) = recorder.requests
        assert body_of(request) == body


@pytest.mark.parametrize("last", [b'"model":"two:b"', rb'"mod\u0065l":"two:b"'])
async def test_a_second_model_of_a_long_body_leads_nowhere_else(tmp_path: Path, last: bytes) -> None:
    """C35: whoever believes the last one cannot have a request sent there."""
    async with recording() as one, recording() as two:
        config = tmp_path / "qproxy.toml"
        config.write_text(f'[upstreams.one]\nurl = "{one.url}"\n[upstreams.two]\nurl = "{two.url}"\n')
        body = b'{"model":"one:a",%b,%b}' % (PADDING, last)
        settings = settings_for("one", None, config=str(config))
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            assert (await client.ask(post(CHAT, body))).end is End.WHOLE
            assert (await client.ask(post(CHAT, b'{"model":"one:a"}'))).status == 200
        assert one.requests
        assert two.received_bytes == 0


@pytest.mark.parametrize(
    "kind",
    [
        None,
        b"text/plain",
        b"text/plain;charset=UTF-8",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/json-seq",
        b"application/jsonp",
        b"",
    ],
)
async def test_a_body_that_is_not_called_json(kind: bytes | None) -> None:
    """C37: a web page may send some of these types to us without asking first."""
    lines = [] if kind is None else [b"Content-Type: " + kind]
    request = request_head("POST", CHAT, *lines, b"Content-Length: %d" % len(GOOD)) + GOOD
    async with recording() as recorder, guarded(recorder.url) as proxy, raw_client(proxy.url) as client:
        answer = await client.ask(request)
        assert (answer.status, answer.error_code) == (415, "unsupported_media_type")
        assert_envelope(answer)
        await served_again(client, recorder)


@pytest.mark.parametrize("encoding", [b"gzip", b"GZIP", b"br", b"deflate", b"zstd", b"identity, gzip", b"x"])
async def test_a_packed_body(encoding: bytes) -> None:
    """C38."""
    request = post(CHAT, gzip.compress(GOOD), b"Content-Encoding: " + encoding)
    async with recording() as recorder, guarded(recorder.url) as proxy, raw_client(proxy.url) as client:
        answer = await client.ask(request)
        assert (answer.status, answer.error_code) == (415, "unsupported_media_type")
        assert_envelope(answer)
        await served_again(client, recorder)


async def test_a_body_does_not_choose_its_destination() -> None:
    """C40."""
    async with recording() as recorder, recording() as elsewhere:
        wishes = dict.fromkeys(("api_base", "base_url", "api_key", "url", "upstream", "host"), elsewhere.url)
        body = orjson.dumps({"model": "m", **wishes, "headers": {"Host": elsewhere.url, "Authorization": "Bearer x"}})
        settings = settings_for(recorder.url, None, upstream_key="sk-of-the-upstream")
        assert settings.upstreams["default"].key == Secret("sk-of-the-upstream")
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            for path in (CHAT, "/v1/embeddings", "/v1/responses"):
                assert (await client.ask(post(path, body))).status == 200
                assert body_of(recorder.requests[-1]) == body
                assert b"\r\nAuthorization: Bearer sk-of-the-upstream\r\n" in recorder.requests[-1]
        assert elsewhere.received_bytes == 0
        assert elsewhere.scripted is not None
        assert elsewhere.scripted.connections == []

"""The first event of a stream, and the body of a 200, are looked at before anything goes down: an error is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from tests.support.account_stage import with_keys
from tests.support.backends import (
    CHAT,
    DONE,
    EVENTS,
    FIRST,
    GOOD,
    JSON,
    SECOND,
    STREAM,
    backend,
    chat,
    fallback,
    proxy_before,
    settings_before,
)
from tests.support.leaks import nothing_left
from tests.support.raw_client import Answer, End, chunks, cut_at, post, raw_client
from tests.support.scripted_upstream import (
    answer,
    chunk,
    close,
    event,
    head,
    send,
    send_bytewise,
    stream_head,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

ATTEMPTS = b"x-qproxy-attempts"
LONG_S = 60.0
SHORT_S = 0.05
LAST = chunk(b"")
QUOTA = b'{"error":{"code":"insufficient_quota","message":"You exceeded your current quota.","type":"x","param":null}}'
ERROR_FINISH = (
    b'{"choices":[{"index":0,"delta":{"role":"assistant","content":"Throttling: Requests throttling triggered."},'
    b'"finish_reason":"error_finish"}],"id":"chatcmpl-1","model":"big"}'
)


def stream_of(*pieces: bytes) -> bytes:
    """A whole stream, each piece a chunk."""
    return stream_head() + b"".join(chunks(pieces))


HIDDEN: dict[str, tuple[bytes, int, str, str]] = {
    "an error event": (stream_of(event(QUOTA)), 429, "insufficient_quota", "exceeded your current quota"),
    "an error and an end": (stream_of(event(QUOTA) + DONE), 429, "insufficient_quota", "exceeded your current quota"),
    "said twice": (stream_of(event(QUOTA), event(QUOTA)), 429, "insufficient_quota", "exceeded your current quota"),
    "with CR LF": (
        stream_of(b"data: " + QUOTA + b"\r\n\r\n"),
        429,
        "insufficient_quota",
        "exceeded your current quota",
    ),
    "behind a comment": (stream_of(b": hello\n\n" + event(QUOTA)), 429, "insufficient_quota", "exceeded"),
    "behind an id and a time": (
        stream_of(b"retry: 5\n\nid: 1\ndata: " + QUOTA + b"\n\n"),
        429,
        "insufficient_quota",
        "exceed",
    ),
    "an event that is called one": (
        stream_of(
            b'event: error\ndata: {"code":"DataInspectionFailed","message":"It may contain.","request_id":"r"}\n\n'
        ),
        400,
        "DataInspectionFailed",
        "It may contain.",
    ),
    "a line of JSON": (
        stream_of(b'{"code":"InvalidApiKey","message":"Invalid API-key provided."}\n\n'),
        401,
        "InvalidApiKey",
        "Invalid API-key provided.",
    ),
    "a line of JSON and an end": (stream_of(QUOTA), 429, "insufficient_quota", "exceeded your current quota"),
    "a finish for errors": (stream_of(event(ERROR_FINISH)), 429, "upstream_error", "Requests throttling triggered."),
    "JSON in place of a stream": (answer(200, [JSON], QUOTA), 429, "insufficient_quota", "exceeded your current quota"),
    "flat JSON in place of a stream": (
        answer(200, [JSON], b'{"code":"ModelNotFound","message":"Model not exist."}'),
        404,
        "ModelNotFound",
        "Model not exist.",
    ),
    "nobody knows what": (stream_of(event(b'{"error":{"message":"Odd."}}')), 502, "", "Odd."),
}


def is_good(got: Answer) -> bool:
    return (got.status, got.end) == (200, End.WHOLE) and b'"error"' not in got.body


class TestAnError:
    @pytest.mark.parametrize("case", HIDDEN)
    async def test_it_gets_the_status_that_it_stands_for(self, tmp_path: Path, case: str) -> None:
        wire, status, code, words = HIDDEN[case]
        async with nothing_left(), backend(wire, STREAM) as only:
            async with proxy_before(tmp_path, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
                assert (got.status, got.end, got.header(b"content-type")) == (status, End.WHOLE, b"application/json")
                assert got.header(b"x-request-id").startswith(b"qp-")
                said = orjson.loads(got.body)["error"]
                assert said.get("code", "") == code
                assert words in said["message"]
                assert is_good(await client.ask(chat("big", stream=True))), "the next request is asked for as ever"
        assert len(only.bodies) == 2

    @pytest.mark.parametrize("case", [case for case, row in HIDDEN.items() if row[1] in (429, 401)])
    async def test_another_account_may_do_better(self, tmp_path: Path, case: str) -> None:
        async with backend(HIDDEN[case][0], STREAM) as only:
            settings = with_keys(settings_before(tmp_path, "", only=only.url), "sk-1", "sk-2")
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert is_good(got)
        assert (bytes(got.body), got.header(ATTEMPTS)) == (FIRST + DONE, b"2")

    async def test_no_account_does_better(self, tmp_path: Path) -> None:
        async with backend(HIDDEN["an error event"][0]) as only:
            settings = with_keys(settings_before(tmp_path, "", only=only.url), "sk-1", "sk-2")
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert (got.status, got.error_code, len(only.bodies)) == (429, "all_accounts_limited", 2)

    @pytest.mark.parametrize(("case", "cause"), [("an error event", "quota"), ("a line of JSON", "account")])
    async def test_a_rule_leads_elsewhere(self, tmp_path: Path, case: str, cause: str) -> None:
        async with backend(HIDDEN[case][0]) as first, backend(STREAM) as second:
            rule = fallback("first:*", "second:*", cause)
            async with proxy_before(tmp_path, rule, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    assert is_good(await client.ask(chat("big", stream=True)))

    async def test_in_a_plain_answer_as_well(self, tmp_path: Path) -> None:
        async with backend(answer(200, [JSON], QUOTA), GOOD) as only:
            async with proxy_before(tmp_path, fallback("big", "small"), only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    assert is_good(await client.ask(chat("big")))
        assert only.models == ["big", "small"]

    async def test_a_web_page(self, tmp_path: Path) -> None:
        async with backend(answer(200, [(b"content-type", b"text/html")], b"<p>Log in")) as only:
            async with proxy_before(tmp_path, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert (got.status, got.error_code) == (502, "upstream_protocol_error")

    @pytest.mark.parametrize("wire", [HIDDEN["an error event"][0], HIDDEN["behind a comment"][0]])
    async def test_it_may_come_byte_by_byte(self, tmp_path: Path, wire: bytes) -> None:
        async with backend([send_bytewise(wire)]) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big", stream=True))
        assert (got.status, got.error_code) == (429, "insufficient_quota")

    async def test_it_may_take_its_time_within_the_window(self, tmp_path: Path) -> None:
        """A comment alone decides nothing."""
        go = anyio.Event()
        script = [send(stream_head() + chunk(b": wait\n\n")), wait_for(go), send(chunk(event(QUOTA)) + LAST)]
        async with backend(script) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big", stream=True))
                    await only.asked()
                    await anyio.sleep(SHORT_S)
                    assert not client.wire.take()
                    go.set()
                    assert (await client.answer()).error_code == "insufficient_quota"

    async def test_behind_the_window_it_passes_as_it_is(self, tmp_path: Path) -> None:
        go = anyio.Event()
        script = [send(stream_head()), wait_for(go), send(chunk(event(QUOTA)) + LAST)]
        async with backend(script) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": SHORT_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big", stream=True))
                    got = await client.begin()
                    go.set()
                    while got.end is End.OPEN:
                        await client.more(got)
        assert (got.status, bytes(got.body), got.end) == (200, event(QUOTA), End.WHOLE)

    async def test_as_the_second_event_too(self, tmp_path: Path) -> None:
        wire = stream_of(FIRST, event(QUOTA))
        async with backend(wire) as only:
            async with proxy_before(tmp_path, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True))
        assert (got.status, bytes(got.body)) == (200, FIRST + event(QUOTA))


HARMLESS: dict[str, bytes] = {
    "a normal one": FIRST,
    "with CR LF": FIRST.replace(b"\n", b"\r\n"),
    "without a space": FIRST.replace(b": ", b":", 1),
    "with a name and an id": b"event: message\nid: 1\n" + FIRST,
    "that speaks of errors": event(b'{"choices":[{"delta":{"content":"\\"error\\": {\\"code\\": 429}"}}]}'),
    "with an error that is none": event(b'{"choices":[{"delta":{"content":"a"}}],"error":null}'),
    "that ends": event(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}'),
    "that is no JSON": event(b"error"),
    "that is the end": DONE,
    "of 40 KB": event(b'{"choices":[{"delta":{"content":"%b"}}]}' % (b"error " * 7000)),
}


class TestNoError:
    """The window is a minute long: nobody waits for its end where the first event is there."""

    @pytest.mark.parametrize("case", HARMLESS)
    async def test_it_goes_down_although_the_next_one_never_comes(self, tmp_path: Path, case: str) -> None:
        first = HARMLESS[case]
        async with backend([send(stream_head(), chunk(first)), wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big", stream=True))
                    got = await client.begin()
                    await client.until(got, first)
                    assert (got.status, bytes(got.body), got.end) == (200, first, End.OPEN)

    async def test_a_huge_one_that_is_not_there_yet(self, tmp_path: Path) -> None:
        """So much is never an error: it is not held until it is complete."""
        begun = FIRST[:-2] + b" " * 20_000
        async with backend([send(stream_head(), chunk(begun)), wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big", stream=True))
                    got = await client.begin()
                    await client.until(got, begun)
                    assert got.end is End.OPEN

    @pytest.mark.parametrize(
        "cuts", [[1], [5, 9], [20], [len(FIRST) - 1], [len(FIRST)], list(range(1, len(FIRST) + 3))]
    )
    async def test_however_it_is_cut_every_byte_passes(self, tmp_path: Path, cuts: list[int]) -> None:
        body = FIRST + SECOND + DONE
        wire: Sequence[Step] = [send(stream_head(), *chunks(cut_at(body, cuts)))]
        async with backend(wire) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big", stream=True))
        assert (got.status, bytes(got.body), got.end) == (200, body, End.WHOLE)

    @pytest.mark.parametrize("framing", ["length", "close"])
    async def test_in_other_framings(self, tmp_path: Path, framing: str) -> None:
        body = FIRST + DONE
        fields = [EVENTS, (b"content-length", b"%d" % len(body))] if framing == "length" else [EVENTS]
        async with backend([send(head(200, fields), FIRST, DONE), close()]) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big", stream=True))
        assert (got.status, bytes(got.body), got.end) == (200, body, End.WHOLE)

    @pytest.mark.parametrize("peek_s", [0.0, SHORT_S])
    async def test_the_head_goes_down_when_the_window_is_over(self, tmp_path: Path, peek_s: float) -> None:
        """The upstream thinks: its client sees at least that it answers."""
        go = anyio.Event()
        async with backend(
            [send(stream_head((b"x-theirs", b"1"))), wait_for(go), send(chunk(FIRST + DONE) + LAST)]
        ) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": peek_s}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big", stream=True))
                    got = await client.begin()
                    assert (got.status, got.header(b"x-theirs"), got.end) == (200, b"1", End.OPEN)
                    go.set()
                    await client.until(got, FIRST + DONE)

    async def test_a_plain_answer_that_takes_its_time(self, tmp_path: Path) -> None:
        body = b'{"object":"chat.completion"}'
        go = anyio.Event()
        begun = [send(head(200, [JSON, (b"content-length", b"%d" % len(body))]) + body[:9]), wait_for(go)]
        async with backend([*begun, send(body[9:])]) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": SHORT_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big"))
                    got = await client.begin()
                    go.set()
                    while got.end is End.OPEN:
                        await client.more(got)
        assert (got.status, bytes(got.body), got.end) == (200, body, End.WHOLE)

    @pytest.mark.parametrize("kind", [b"audio/mpeg", b"application/octet-stream", b"text/plain"])
    async def test_other_kinds_are_not_looked_at(self, tmp_path: Path, kind: bytes) -> None:
        wire = [
            send(head(200, [(b"content-type", kind), (b"content-length", b"200")]) + QUOTA),
            wait_for(anyio.Event()),
        ]
        async with backend(wire) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(post("/v1/audio/speech", b'{"model":"m"}'))
                    got = await client.begin()
                    await client.until(got, QUOTA)
                    assert (got.status, got.end) == (200, End.OPEN)

    async def test_the_client_leaves_meanwhile(self, tmp_path: Path) -> None:
        async with backend([send(stream_head()), wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts={"peek_s": LONG_S}, only=only) as proxy, nothing_left():
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big", stream=True))
                    await only.asked()
                    await anyio.sleep(SHORT_S)
                await only.left.wait()


async def test_the_same_words_in_an_error_pass_untouched(tmp_path: Path) -> None:
    """Only a 200 lies."""
    wire = answer(429, [JSON, (b"x-theirs", b"1")], QUOTA)
    async with backend(wire) as only, proxy_before(tmp_path, only=only) as proxy, raw_client(proxy.url) as client:
        got = await client.ask(post(CHAT, b'{"model":"big","stream":true}'))
    assert (got.status, bytes(got.body), got.header(b"x-theirs")) == (429, QUOTA, b"1")

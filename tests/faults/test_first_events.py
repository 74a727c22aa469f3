"""A 200 whose first event, or whose body, is an error: nothing of it has gone down yet, so an error is what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from qproxy.core.health import Standing
from tests.hostile.conftest import DONE, FIRST_EVENT, guarded
from tests.support.account_stage import with_keys
from tests.support.leaks import nothing_left
from tests.support.live import settings_for
from tests.support.raw_client import End, chunks, cut_at, post, raw_client
from tests.support.scripted_upstream import (
    Connection,
    answer,
    chunk,
    event,
    expect_request,
    head,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
)

if TYPE_CHECKING:
    from qproxy.core.account import AccountView

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
STREAM = post(CHAT, b'{"model":"m","stream":true}')
PLAIN = post(CHAT, b'{"model":"m"}')
STREAM_TYPE = (b"content-type", b"text/event-stream")
JSON_TYPE = (b"content-type", b"application/json")
SOON_S = 0.05
NEVER_S = 60.0
KEYS = ("sk-one", "sk-two")


def error(code: str, message: str = "said by the upstream") -> bytes:
    return orjson.dumps({"error": {"message": message, "type": code, "param": None, "code": code}})


LIMITED = error("insufficient_quota", "You exceeded your current quota.")
WRONG = error("invalid_parameter_error")
FAILED = error("internal_error")
FINISHED = orjson.dumps(
    {"choices": [{"finish_reason": "error_finish", "delta": {"content": "Requests rate limit exceeded"}}]}
)

ERRORS: dict[str, tuple[bytes, int, str]] = {
    "quota": (LIMITED, 429, "insufficient_quota"),
    "bad request": (WRONG, 400, "invalid_parameter_error"),
    "server": (FAILED, 500, "internal_error"),
    "flat": (b'{"code":"Throttling.RateQuota","message":"Requests rate limit exceeded"}', 429, "Throttling.RateQuota"),
    "in the place of content": (FINISHED, 429, "upstream_error"),
}
FRAMINGS = ["chunks", "many chunks", "length", "close"]


def framed(payload: bytes, framing: str) -> list[bytes]:
    """A stream with this payload, each piece for a write of its own."""
    if framing == "length":
        return [answer(200, [STREAM_TYPE], payload)]
    if framing == "close":
        return [head(200, [STREAM_TYPE]) + payload]
    pieces = [payload] if framing == "chunks" else cut_at(payload, range(0, len(payload), 7))
    return [stream_head(), *chunks(pieces)]


async def answered(pieces: list[bytes], request: bytes = STREAM, *, peek_s: float = NEVER_S) -> tuple[int, bytes, End]:
    """Status, body and end of what becomes of it. The connection of a stream that ends with it is closed."""

    async def serve(connection: Connection) -> None:
        await expect_request()(connection)
        await send(*pieces)(connection)
        if b"content-length" not in pieces[0] and b"transfer-encoding" not in pieces[0]:
            connection.wire.close()

    async with nothing_left(), scripted_upstream([serve]) as upstream:
        async with guarded(upstream.url, timeouts={"peek_s": peek_s}) as proxy, raw_client(proxy.url) as client:
            got = await client.ask(request)
            return got.status, bytes(got.body), got.end


class TestTheFirstEvent:
    """U27, before the commit."""

    @pytest.mark.parametrize("framing", FRAMINGS)
    @pytest.mark.parametrize("name", ERRORS)
    async def test_it_is_the_error_that_it_is(self, name: str, framing: str) -> None:
        payload, status, code = ERRORS[name]
        got_status, body, end = await answered(framed(event(payload) + DONE, framing))
        assert (got_status, end) == (status, End.WHOLE)
        said = orjson.loads(body)["error"]
        assert said["code"] == code
        assert said["message"]

    @pytest.mark.parametrize("before", [b": waiting\n\n", b"\n\n", b"event: error\n", b"id: 1\nretry: 5\n"])
    async def test_what_may_stand_before_it(self, before: bytes) -> None:
        status, body, _ = await answered(framed(before + event(LIMITED), "chunks"))
        if before.endswith(b"\n\n"):
            assert status in (200, 429)
            assert b"insufficient_quota" in body
        else:
            assert (status, orjson.loads(body)["error"]["code"]) == (429, "insufficient_quota")

    async def test_lines_that_end_with_crlf(self) -> None:
        status, _, _ = await answered(framed(b"data: " + LIMITED + b"\r\n\r\n", "chunks"))
        assert status == 429

    async def test_one_that_does_not_come_in_time_passes(self) -> None:
        """The head does not wait for it for ever; then it can only be told in the stream."""
        late = anyio.Event()
        script = [expect_request(), send(stream_head()), wait_for(late), send(chunk(event(LIMITED)) + chunk(b""))]
        async with scripted_upstream(script) as upstream:
            async with guarded(upstream.url, timeouts={"peek_s": SOON_S}) as proxy, raw_client(proxy.url) as client:
                await client.send(STREAM)
                got = await client.begin()
                assert got.status == 200
                late.set()
                while got.end is End.OPEN:
                    await client.more(got)
                assert (bytes(got.body), got.end) == (event(LIMITED), End.WHOLE)

    @pytest.mark.parametrize(
        "payload",
        [
            event(b'{"choices":[{"delta":{"content":"{\\"error\\":{\\"code\\":429}}"}}]}'),
            event(b'{"choices":[{"delta":{"content":"data: {\\"error\\": 1}"}}],"error":null}'),
            b": error\n\n" + FIRST_EVENT,
            event(b'{"object":"chat.completion.chunk","code":"","choices":[]}'),
        ],
    )
    @pytest.mark.parametrize("framing", FRAMINGS)
    async def test_what_only_looks_like_one_passes_as_it_is(self, payload: bytes, framing: str) -> None:
        assert await answered(framed(payload + DONE, framing)) == (200, payload + DONE, End.WHOLE)

    async def test_a_good_one_is_not_waited_for_any_longer(self) -> None:
        """It goes down although the next one never comes."""
        never = anyio.Event()
        script = [expect_request(), send(stream_head() + chunk(FIRST_EVENT)), wait_for(never)]
        async with scripted_upstream(script) as upstream:
            async with guarded(upstream.url, timeouts={"peek_s": NEVER_S}) as proxy, raw_client(proxy.url) as client:
                await client.send(STREAM)
                got = await client.begin()
                await client.until(got, FIRST_EVENT)
                assert bytes(got.body) == FIRST_EVENT

    async def test_one_longer_than_what_is_looked_at_passes(self) -> None:
        payload = event(error("internal_error", "x" * 100_000)) + DONE
        assert await answered(framed(payload, "chunks")) == (200, payload, End.WHOLE)


class TestABody:
    """U27: the same without a stream."""

    @pytest.mark.parametrize("name", ERRORS)
    async def test_it_is_the_error_that_it_is(self, name: str) -> None:
        payload, status, code = ERRORS[name]
        got_status, body, end = await answered([answer(200, [JSON_TYPE], payload)], PLAIN)
        assert (got_status, end, orjson.loads(body)["error"]["code"]) == (status, End.WHOLE, code)

    @pytest.mark.parametrize("body", [b"{}", b"[]", b"not json", b'{"choices":[],"error":null}', b'["error"]'])
    async def test_anything_else_passes_as_it_is(self, body: bytes) -> None:
        assert await answered([answer(200, [JSON_TYPE], body)], PLAIN) == (200, body, End.WHOLE)

    async def test_it_is_not_waited_for_for_long(self) -> None:
        """A body that comes in its own time goes down in it."""
        late = anyio.Event()
        script = [
            expect_request(),
            send(head(200, [JSON_TYPE, (b"content-length", b"4")]) + b"[1"),
            wait_for(late),
            send(b"2]"),
        ]
        async with scripted_upstream(script) as upstream:
            async with guarded(upstream.url, timeouts={"peek_s": SOON_S}) as proxy, raw_client(proxy.url) as client:
                await client.send(PLAIN)
                got = await client.begin()
                await client.until(got, b"[1")
                late.set()
                while got.end is End.OPEN:
                    await client.more(got)
                assert (bytes(got.body), got.end) == (b"[12]", End.WHOLE)


class TestSeveralAccounts:
    """U27: what another account can do better it does, by the class of the error (rule (c))."""

    @pytest.mark.parametrize("payload", [LIMITED, FINISHED])
    async def test_a_limit_leads_to_the_next_one(self, payload: bytes) -> None:
        used: list[bytes] = []

        async def serve(connection: Connection) -> None:
            while True:
                begun = len(connection.received)
                await expect_request()(connection)
                used.append(b"one" if b"sk-one" in connection.received[begun:] else b"two")
                first = event(payload) if used[-1] == b"one" else FIRST_EVENT
                await connection.wire.send(stream_head() + chunk(first) + chunk(DONE) + chunk(b""))

        async with scripted_upstream([serve]) as upstream:
            settings = with_keys(settings_for(f"{upstream.url}/v1", None, rotation="fill_first"), *KEYS)
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                for _ in range(2):
                    got = await client.ask(STREAM)
                    assert (bytes(got.body), got.end) == (FIRST_EVENT + DONE, End.WHOLE)
                views = {view.account_id: view for view in proxy.app.accounts.views()}
        assert used == [b"one", b"two", b"two"]
        assert views["key-1"].cooling
        assert is_untouched(views["key-2"])

    @pytest.mark.parametrize(("payload", "status"), [(WRONG, 400), (FAILED, 500)])
    async def test_what_every_account_would_answer_is_not_repeated(self, payload: bytes, status: int) -> None:
        requests = 0

        async def serve(connection: Connection) -> None:
            nonlocal requests
            while True:
                await expect_request()(connection)
                requests += 1
                await connection.wire.send(stream_head() + chunk(event(payload)) + chunk(b""))

        async with scripted_upstream([serve]) as upstream:
            settings = with_keys(settings_for(f"{upstream.url}/v1", None, rotation="fill_first"), *KEYS)
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                assert (await client.ask(STREAM)).status == status
                assert all(is_untouched(view) for view in proxy.app.accounts.views())
        assert requests == 1


def is_untouched(view: AccountView) -> bool:
    return view.standing is Standing.READY and not view.cooling and view.in_flight == 0

"""What is sent again without anybody asking for it, and what never is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from tests.support.account_stage import with_keys
from tests.support.backends import (
    FIRST,
    GOOD,
    LONG_BYTES,
    STREAM,
    Backend,
    backend,
    chat,
    chat_body,
    error,
    fallback,
    proxy_before,
    settings_before,
)
from tests.support.leaks import nothing_left, turns
from tests.support.raw_client import Answer, End, raw_client, request_head
from tests.support.scripted_upstream import chunk, close, half_close, head, reset, send, stream_head, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

ATTEMPTS = b"x-qproxy-attempts"
ALL_CAUSES = ("connect", "quota", "429", "503", "account", "context")
READY = request_head("GET", "/readyz")
SOON_S = 0.05


def is_good(got: Answer) -> bool:
    return (got.status, got.end) == (200, End.WHOLE) and b'"error"' not in got.body


BROKEN: dict[str, Sequence[Step]] = {
    "closed": [close()],
    "reset": [reset()],
    "half closed": [half_close()],
    "half a head": [send(b"HTTP/1.1 200 OK\r\nContent-"), close()],
    "no HTTP": [send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), close()],
    "a redirect": [send(head(302, [(b"location", b"http://127.0.0.1:9/"), (b"content-length", b"0")]))],
    "silence": [wait_for(anyio.Event())],
}


class TestAPostThatWasSent:
    """`faults.md` section 3: it is never sent again where the upstream may have begun to work."""

    @pytest.mark.parametrize("padding", [0, LONG_BYTES], ids=["stored", "passed on"])
    @pytest.mark.parametrize("how", BROKEN)
    async def test_it_reaches_one_upstream_once(self, tmp_path: Path, how: str, padding: int) -> None:
        rules = fallback("first:*", "second:*", *ALL_CAUSES) + fallback("*", "small", *ALL_CAUSES)
        clocks = {"first_byte_stream_s": SOON_S, "first_byte_plain_s": SOON_S, "first_byte_per_100k_tokens_s": 1e-9}
        script = [wait_for(anyio.Event())] if how == "silence" else BROKEN[how]
        async with backend(script) as first, backend(GOOD) as second:
            settings = settings_before(tmp_path, rules, first=first.url, second=second.url)
            settings = replace(settings, timeouts=replace(settings.timeouts, **clocks))
            async with app.running(with_keys(settings, "sk-1", "sk-2")) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big", stream=True, padding_bytes=padding))
        assert got.status in (502, 504)
        assert got.error_code in ("upstream_closed", "upstream_protocol_error", "first_byte_timeout")
        assert got.header(ATTEMPTS) == b""
        assert (len(first.bodies), second.bodies) == (1, [])

    async def test_nor_where_its_answer_has_begun(self, tmp_path: Path) -> None:
        async with backend([send(stream_head() + chunk(FIRST)), reset()]) as first, backend(STREAM) as second:
            rules = fallback("first:*", "second:*", *ALL_CAUSES)
            async with proxy_before(tmp_path, rules, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(chat("big", stream=True))
        assert (got.status, got.end, bytes(got.body[: len(FIRST)])) == (200, End.FIN, FIRST)
        assert orjson.loads(got.body[len(FIRST) + 6 :])["error"]["code"] == "upstream_closed"
        assert (len(first.bodies), second.bodies) == (1, [])


class TestNobodyThere:
    async def test_whoever_comes_back_in_time_is_found(self, tmp_path: Path) -> None:
        async with nothing_left(), backend(is_open=False) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                await client.send(chat("big"))
                await until_tried(proxy)
                only.open()
                got = await client.answer()
                assert is_good(got)
                assert got.header(ATTEMPTS) in (b"2", b"3")
        assert len(only.bodies) == 1

    async def test_a_long_body_waits_and_is_whole(self, tmp_path: Path) -> None:
        async with backend(is_open=False) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                request = chat("big", padding_bytes=LONG_BYTES)
                await client.send(request[:LONG_BYTES])
                await until_tried(proxy)
                only.open()
                await client.send(request[LONG_BYTES:])
                assert is_good(await client.answer())
        assert only.bodies == [chat_body("big", padding_bytes=LONG_BYTES)]

    async def test_three_times_and_no_more(self, tmp_path: Path) -> None:
        async with backend(is_open=False) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                got = await client.ask(chat("big"))
                assert (got.status, got.error_code, got.header(ATTEMPTS)) == (502, "upstream_connect_failed", b"3")
                assert (await client.ask(READY)).status == 200

    async def test_a_client_that_leaves_ends_the_trying(self, tmp_path: Path) -> None:
        async with backend(is_open=False) as only, proxy_before(tmp_path, only=only) as proxy:
            async with nothing_left():
                async with raw_client(proxy.url) as client:
                    await client.send(chat("big"))
                    await until_tried(proxy)
            only.open()
            await anyio.sleep(0.15)  # the second try would come after 0.1 s
        assert only.connections == 0

    async def test_a_body_that_went_up_once_goes_up_whole_again(self, tmp_path: Path) -> None:
        """To the second account, whose connection fails at first."""
        gone = anyio.Event()

        async def vanish(_: object) -> None:
            only.shut()
            gone.set()

        last_word = error(429, "limit_requests", (b"connection", b"close"))
        async with backend([vanish, send(last_word), close()], GOOD) as only:
            settings = with_keys(settings_before(tmp_path, "", only=only.url), "sk-1", "sk-2")
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                await client.send(chat("big", padding_bytes=LONG_BYTES))
                await gone.wait()
                await turns()
                only.open()
                got = await client.answer()
        assert is_good(got)
        assert only.bodies == [chat_body("big", padding_bytes=LONG_BYTES)] * 2


async def until_tried(proxy: app.Running) -> None:
    """The first try has been refused."""
    while not proxy.app.upstreams._pools:
        await anyio.sleep(0.001)
    await turns(20)


class TestErrorsOfWhichNobodyKnows:
    """`retry_on_5xx`."""

    ON = "retry_on_5xx = true\n"

    @pytest.mark.parametrize("status", [500, 502, 504])
    @pytest.mark.parametrize("padding", [0, LONG_BYTES], ids=["stored", "passed on"])
    async def test_another_account_is_asked_once_more(self, tmp_path: Path, status: int, padding: int) -> None:
        async with backend(error(status), GOOD) as only:
            got = await self.asked(tmp_path, self.ON, only, padding)
        assert is_good(got)
        assert got.header(ATTEMPTS) == b"2"
        assert only.bodies == [chat_body("big", padding_bytes=padding)] * 2

    async def test_once_and_no_more(self, tmp_path: Path) -> None:
        async with backend(error(500, "first"), error(500, "second"), GOOD) as only:
            got = await self.asked(tmp_path, self.ON, only)
        assert (got.status, got.error_code, len(only.bodies)) == (500, "second", 2)

    async def test_it_is_off_where_nobody_asked_for_it(self, tmp_path: Path) -> None:
        async with backend(error(500), GOOD) as only:
            got = await self.asked(tmp_path, "", only)
        assert (got.status, len(only.bodies)) == (500, 1)

    async def test_a_lone_account_is_not_asked_again(self, tmp_path: Path) -> None:
        async with backend(error(500), GOOD) as only:
            async with proxy_before(tmp_path, self.ON, only=only) as proxy, raw_client(proxy.url) as client:
                got = await client.ask(chat("big"))
        assert (got.status, len(only.bodies)) == (500, 1)

    async def test_a_rule_leads_elsewhere(self, tmp_path: Path) -> None:
        toml = self.ON + fallback("first:*", "second:*", "5xx")
        for reply, is_led in ((error(502), True), (error(503), False), (error(501), False)):
            async with backend(reply) as first, backend(GOOD) as second:
                async with proxy_before(tmp_path, toml, first=first, second=second) as proxy:
                    async with raw_client(proxy.url) as client:
                        assert is_good(await client.ask(chat("big"))) is is_led
            assert (len(first.bodies), len(second.bodies)) == (1, int(is_led))

    @staticmethod
    async def asked(folder: Path, toml: str, only: Backend, padding: int = 0) -> Answer:
        settings = with_keys(settings_before(folder, toml, only=only.url), "sk-1", "sk-2", "sk-3")
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            return await client.ask(chat("big", padding_bytes=padding))

"""An upstream that fails too often is left alone, and found again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy import app
from qproxy.core import breaker
from qproxy.core.breaker import State
from tests.support.account_stage import with_keys
from tests.support.backends import GOOD, Backend, backend, chat, error, fallback, proxy_before, settings_before
from tests.support.leaks import turns
from tests.support.raw_client import Answer, End, raw_client, request_head
from tests.support.scripted_upstream import close, send, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.raw_client import RawClient
    from tests.support.scripted_upstream import Step

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_second_try")]

ATTEMPTS = b"x-qproxy-attempts"
LIMITED = error(429, "limit_requests")
READY = request_head("GET", "/readyz")
SOON_S = 0.05
LONG_S = 60.0


def is_good(got: Answer) -> bool:
    return (got.status, got.end) == (200, End.WHOLE)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The breaker's own."""
    monkeypatch.setattr(breaker, "FIRST_S", SOON_S)
    monkeypatch.setattr(breaker, "LONGEST_S", SOON_S)


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """None ends while a test is at work."""
    monkeypatch.setattr(breaker, "FIRST_S", LONG_S)
    monkeypatch.setattr(breaker, "LONGEST_S", LONG_S)


def is_in_the_pause(got: Answer) -> bool:
    """It says what is left of a long one."""
    return LONG_S / 2 < int(got.header(b"retry-after")) <= LONG_S


async def fail_often(client: RawClient, only: Backend, times: int = breaker.CONSECUTIVE) -> None:
    """Requests that find nobody."""
    only.shut()
    for _ in range(times):
        assert (await client.ask(chat("big"))).error_code == "upstream_connect_failed"


def state(proxy: app.Running, upstream: str = "only") -> State:
    return proxy.app.failover._breakers[upstream].state


@pytest.fixture
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qproxy.edge.failover.PAUSES_S", ())


class TestLeftAlone:
    @pytest.mark.usefixtures("long_pauses")
    async def test_who_fails_too_often_is_not_asked(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async with backend(GOOD) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                await fail_often(client, only)
                only.open()
                got = await client.ask(chat("big"))
                assert (got.status, got.error_code, got.header(ATTEMPTS)) == (503, "overloaded", b"")
                assert (is_in_the_pause(got), got.header(b"x-should-retry")) == (True, b"true")
                ready = await client.ask(READY)
                assert (ready.status, ready.error_code, is_in_the_pause(ready)) == (503, "overloaded", True)
        assert only.connections == 0
        assert messages(caplog) == ["upstream only: left alone for 60 s (upstream_connect_failed)"]

    async def test_others_are_served(self, tmp_path: Path) -> None:
        async with backend(GOOD) as only, backend(GOOD) as other:
            async with proxy_before(tmp_path, only=only, other=other) as proxy, raw_client(proxy.url) as client:
                await fail_often(client, only)
                assert is_good(await client.ask(chat("other:big")))
                ready = await client.ask(READY)
                assert (ready.status, orjson.loads(ready.body)) == (200, {"status": "degraded", "failing": ["only"]})

    @pytest.mark.usefixtures("long_pauses")
    async def test_rules_lead_away_from_it(self, tmp_path: Path) -> None:
        rule = fallback("first:*", "second:*", "connect")
        async with backend(is_open=False) as first, backend(GOOD) as second:
            async with proxy_before(tmp_path, rule, first=first, second=second) as proxy:
                async with raw_client(proxy.url) as client:
                    for _ in range(2 * breaker.CONSECUTIVE):
                        assert is_good(await client.ask(chat("big")))
                    assert state(proxy, "first") is State.OPEN
                    assert (await client.ask(chat("big"))).header(ATTEMPTS) == b"", "the first one was not tried"

    @pytest.mark.usefixtures("short_pauses")
    async def test_one_good_answer_ends_it(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async with backend(error(400)) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                await fail_often(client, only)
                only.open()
                await anyio.sleep(2 * SOON_S)
                assert (await client.ask(chat("big"))).status == 400, "it answers: that is what counts"
                assert state(proxy) is State.CLOSED
                assert orjson.loads((await client.ask(READY)).body) == {"status": "ok"}
        assert messages(caplog)[-1] == "upstream only: it answers again"

    @pytest.mark.usefixtures("short_pauses")
    async def test_a_failed_probe_begins_it_anew(self, tmp_path: Path) -> None:
        async with backend(GOOD) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                await fail_often(client, only)
                await anyio.sleep(2 * SOON_S)
                assert (await client.ask(READY)).status == 200, "requests are welcome: one of them has to try"
                assert (await client.ask(chat("big"))).error_code == "upstream_connect_failed"
                assert state(proxy) is State.OPEN

    @pytest.mark.usefixtures("short_pauses")
    async def test_a_probe_whose_client_leaves_makes_room(self, tmp_path: Path) -> None:
        async with backend([wait_for(anyio.Event())], GOOD) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                await fail_often(client, only)
                only.open()
                await anyio.sleep(2 * SOON_S)
                async with raw_client(proxy.url) as leaving:
                    await leaving.send(chat("big"))
                    await only.asked()
                await only.left.wait()
                await turns()
                assert is_good(await client.ask(chat("big")))
                assert state(proxy) is State.CLOSED

    @pytest.mark.usefixtures("long_pauses")
    async def test_silence_counts(self, tmp_path: Path) -> None:
        clocks = {"first_byte_plain_s": SOON_S, "first_byte_per_100k_tokens_s": 1e-9}
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                for _ in range(breaker.CONSECUTIVE):
                    assert (await client.ask(chat("big"))).error_code == "first_byte_timeout"
                assert (await client.ask(chat("big"))).error_code == "overloaded"

    @pytest.mark.parametrize(
        "reply", [error(500), error(503), error(401), [close()], [send(b"no HTTP\r\n\r\n"), close()]]
    )
    async def test_whoever_speaks_is_there(self, tmp_path: Path, reply: bytes | Sequence[Step]) -> None:
        async with backend(*[reply] * 30, GOOD) as only, proxy_before(tmp_path, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                for _ in range(30):
                    assert (await client.ask(chat("big"))).status >= 400
                assert is_good(await client.ask(chat("big")))

    async def test_accounts_that_are_out_say_nothing_of_the_upstream(self, tmp_path: Path) -> None:
        async with backend(LIMITED) as only:
            settings = with_keys(settings_before(tmp_path, "", only=only.url), "sk-1", "sk-2")
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                for _ in range(2 * breaker.CONSECUTIVE):
                    assert (await client.ask(chat("big"))).error_code == "all_accounts_limited"
                assert state(proxy) is State.CLOSED

    async def test_it_can_be_switched_off(self, tmp_path: Path) -> None:
        async with backend(GOOD) as only, proxy_before(tmp_path, "breaker = false", only=only) as proxy:
            async with raw_client(proxy.url) as client:
                await fail_often(client, only, 30)
                only.open()
                assert is_good(await client.ask(chat("big")))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

"""What is kept of bodies that go up while they arrive, so that they can be sent again; the others are sent once."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from tests.support.account_stage import until_noticed, with_keys
from tests.support.backends import (
    CHAT,
    GOOD,
    LONG_BYTES,
    STREAM,
    Early,
    backend,
    chat,
    chat_body,
    error,
    fallback,
    settings_before,
)
from tests.support.leaks import turns
from tests.support.raw_client import End, post, raw_client
from tests.support.scripted_upstream import reset, send, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.backends import Backend
    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

LIMITED = error(429, "insufficient_quota")
BUSY = error(503)
LONG = chat("big", padding_bytes=LONG_BYTES)
LONG_STREAM = chat("big", stream=True, padding_bytes=LONG_BYTES)
SHORT = chat("big")


@asynccontextmanager
async def proxy_with(
    folder: Path, toml: str = "", *keys: str, backends: dict[str, Backend], **limits: int
) -> AsyncIterator[app.Running]:
    settings = settings_before(folder, toml, **{name: each.url for name, each in backends.items()})
    settings = replace(settings, rotation="fill_first", limits=replace(settings.limits, **limits))
    async with app.running(with_keys(settings, *keys)) as proxy:
        yield proxy


def kept_bytes(proxy: app.Running) -> int:
    return proxy.app.services.replays.taken_bytes


async def until_nothing_is_kept(proxy: app.Running) -> None:
    await until_noticed(lambda: kept_bytes(proxy) == 0)


class TestSentOnce:
    @pytest.mark.parametrize(
        ("limits", "attempts"),
        [
            ({}, 2),
            ({"replay_bytes": LONG_BYTES}, 1),
            ({"replay_bytes": 0}, 1),
            ({"replay_total_bytes": LONG_BYTES}, 1),
            ({"replay_bytes": 1 << 20, "replay_total_bytes": 1 << 20}, 2),
        ],
    )
    async def test_what_is_not_kept(self, tmp_path: Path, limits: dict[str, int], attempts: int) -> None:
        async with backend(LIMITED, GOOD) as only:
            async with proxy_with(tmp_path, "", "sk-1", "sk-2", backends={"only": only}, **limits) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(LONG)
                    assert (got.status, got.end) == (200 if attempts == 2 else 429, End.WHOLE)
                    assert len(only.bodies) == attempts
                    await until_nothing_is_kept(proxy)

    async def test_its_answer_is_the_clients_although_a_rule_would_lead_elsewhere(self, tmp_path: Path) -> None:
        rule = fallback("first:*", "second:*", "429")
        async with backend(LIMITED) as first, backend(GOOD) as second:
            both = {"first": first, "second": second}
            for replay_bytes, status in ((0, 429), (1 << 20, 200)):
                async with proxy_with(tmp_path, rule, "sk", backends=both, replay_bytes=replay_bytes) as proxy:
                    async with raw_client(proxy.url) as client:
                        assert (await client.ask(LONG)).status == status
            assert (len(first.bodies), len(second.bodies)) == (2, 1)

    async def test_a_token_that_is_refused_cannot_be_tried_again(self, tmp_path: Path) -> None:
        async with backend(error(401, "invalid_api_key"), GOOD) as only:
            async with proxy_with(tmp_path, "", "sk-1", "sk-2", backends={"only": only}, replay_bytes=0) as proxy:
                async with raw_client(proxy.url) as client:
                    got = await client.ask(LONG)
                    assert (got.status, got.error_code) == (503, "credentials_unavailable")
                    assert (await client.ask(LONG)).status == 200

    async def test_a_connection_may_be_tried_again_all_the_same(self, tmp_path: Path) -> None:
        """Nothing of it has gone up."""
        async with backend(GOOD, is_open=False) as only:
            async with proxy_with(tmp_path, "", "sk", backends={"only": only}, replay_bytes=0) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(LONG)
                    await turns()
                    only.open()
                    assert (await client.answer()).status == 200
        assert len(only.bodies) == 1

    async def test_what_is_stored_anyway_is_sent_again(self, tmp_path: Path) -> None:
        async with backend(LIMITED, GOOD) as only:
            async with proxy_with(tmp_path, "", "sk-1", "sk-2", backends={"only": only}, replay_bytes=0) as proxy:
                async with raw_client(proxy.url) as client:
                    assert (await client.ask(SHORT)).status == 200


class TestGivenBack:
    async def test_others_have_it_when_an_exchange_ends(self, tmp_path: Path) -> None:
        """Room for one: the second is sent once, the next one twice again."""
        go = anyio.Event()
        async with backend([wait_for(go), send(GOOD)], BUSY, BUSY, GOOD) as only:
            limits = {"replay_total_bytes": len(LONG)}
            async with proxy_with(tmp_path, "", "sk-1", "sk-2", backends={"only": only}, **limits) as proxy:
                async with raw_client(proxy.url) as first, raw_client(proxy.url) as second:
                    await first.send(LONG)
                    await only.asked()
                    assert 0 < kept_bytes(proxy) < len(LONG)
                    assert (await second.ask(LONG)).status == 503
                    go.set()
                    assert (await first.answer()).status == 200
                    await until_nothing_is_kept(proxy)
                    assert (await second.ask(LONG)).status == 200
                    await until_nothing_is_kept(proxy)
            assert len(only.bodies) == 4

    @pytest.mark.parametrize(
        "reply",
        [
            GOOD,
            STREAM,
            error(500),
            Early(error(413)),
            [reset()],
            [send(b"nonsense\r\n\r\n")],
            [send(STREAM[:-20]), reset()],
        ],
    )
    async def test_however_it_ends(self, tmp_path: Path, reply: bytes | list[Step]) -> None:
        async with backend(reply) as only:
            async with proxy_with(tmp_path, "", "sk", backends={"only": only}) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.ask(LONG_STREAM)
                    await until_nothing_is_kept(proxy)

    @pytest.mark.parametrize("sent_bytes", [100_000, len(LONG) - 1, len(LONG)])
    async def test_when_the_client_leaves(self, tmp_path: Path, sent_bytes: int) -> None:
        async with backend([wait_for(anyio.Event())]) as only:
            async with proxy_with(tmp_path, "", "sk", backends={"only": only}) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(LONG[:sent_bytes])
                    await until_noticed(lambda: kept_bytes(proxy) > 0)
                await until_nothing_is_kept(proxy)

    async def test_when_the_body_is_refused(self, tmp_path: Path) -> None:
        body = chat_body("big", padding_bytes=LONG_BYTES)[:-1] + b',"model":"other"}'
        async with backend(GOOD) as only:
            async with proxy_with(tmp_path, "", "sk", backends={"only": only}) as proxy:
                async with raw_client(proxy.url) as client:
                    assert (await client.ask(post(CHAT, body))).error_code == "duplicate_key"
                    await until_nothing_is_kept(proxy)

    async def test_when_nobody_can_be_reached(self, tmp_path: Path) -> None:
        async with backend(GOOD, is_open=False) as only:
            async with proxy_with(tmp_path, "", "sk", backends={"only": only}) as proxy:
                async with raw_client(proxy.url) as client:
                    assert (await client.ask(LONG)).error_code == "upstream_connect_failed"
                    await until_nothing_is_kept(proxy)

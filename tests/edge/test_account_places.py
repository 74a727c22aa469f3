"""How many requests an account may have under way: the others go to accounts with room, wait, or are told to."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.core.account import Wish
from tests.support.account_stage import until_noticed, with_keys
from tests.support.backends import GOOD, JSON, Backend, backend, chat, fallback, settings_before
from tests.support.held_upstream import (
    HeldUpstream,
    asking,
    held_upstream,
    in_line,
    refusal,
    request_for,
    until_all_have_left,
    until_in_line,
)
from tests.support.raw_client import RawClient, raw_client, request_head
from tests.support.scripted_upstream import answer, send, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

KEYS = ("sk-1", "sk-2")
TO_SPARE = fallback("first:*", "spare:*", "503")


@asynccontextmanager
async def proxy_with(
    folder: Path, *keys: str, places: int, toml: str = "", max_exchanges: int = 0, **upstreams: HeldUpstream | Backend
) -> AsyncIterator[app.Running]:
    """So many places with each key of the first upstream, and keys that are used up one after the other."""
    settings = with_keys(settings_before(folder, toml, **{name: each.url for name, each in upstreams.items()}), *keys)
    first = settings.upstreams["first"]
    limited = replace(first, upstream=replace(first.upstream, max_per_account=places, max_exchanges=max_exchanges))
    settings = replace(settings, rotation="fill_first", upstreams={**settings.upstreams, "first": limited})
    async with app.running(settings) as proxy:
        yield proxy


@asynccontextmanager
async def all_asked(proxy: app.Running, upstream: HeldUpstream, *names: str) -> AsyncIterator[list[RawClient]]:
    """Clients whose requests have come to the upstream, one after the other."""
    async with AsyncExitStack() as stack:
        clients = []
        for name in names:
            clients.append(await stack.enter_async_context(asking(proxy, name)))
            await upstream.until_asked(name)
        yield clients


def in_flight(proxy: app.Running) -> dict[str, int]:
    return {view.account_id: view.in_flight for view in proxy.app.accounts.views() if view.upstream == "first"}


def close_first_key(proxy: app.Running) -> None:
    with proxy.app.accounts.lease("first", Wish(account="key-1")) as lease:
        proxy.app.accounts.close(lease)


class TestRoom:
    async def test_the_next_account_takes_what_does_not_fit(self, tmp_path: Path) -> None:
        async with held_upstream() as first, proxy_with(tmp_path, *KEYS, places=2, first=first) as proxy:
            async with all_asked(proxy, first, "a", "b", "c"):
                assert in_flight(proxy) == {"key-1": 2, "key-2": 1}

    async def test_the_others_wait_until_there_is_some(self, tmp_path: Path) -> None:
        async with held_upstream() as first, proxy_with(tmp_path, *KEYS, places=1, first=first) as proxy:
            async with all_asked(proxy, first, "a", "b") as (a, b), asking(proxy, "c") as c:
                await until_in_line(proxy, 1)
                first.answer("b")
                await first.until_asked("c")
                assert in_flight(proxy) == {"key-1": 1, "key-2": 1}
                first.answer_all()
                assert [(await client.answer()).status for client in (a, b, c)] == [200, 200, 200]
            await until_all_have_left(proxy)
        assert first.most == 2

    async def test_also_for_a_lone_key(self, tmp_path: Path) -> None:
        async with held_upstream() as first, proxy_with(tmp_path, "sk", places=1, first=first) as proxy:
            async with all_asked(proxy, first, "a") as (a,), asking(proxy, "b") as b:
                await until_in_line(proxy, 1)
                first.answer_all()
                assert [(await client.answer()).status for client in (a, b)] == [200, 200]
        assert first.most == 1

    async def test_the_upstreams_own_limit_may_be_smaller(self, tmp_path: Path) -> None:
        async with held_upstream() as first:
            async with proxy_with(tmp_path, *KEYS, places=2, max_exchanges=3, first=first) as proxy:
                async with all_asked(proxy, first, "a", "b", "c"), asking(proxy, "d"):
                    await until_in_line(proxy, 1)
        assert first.most == 3

    async def test_a_client_that_leaves_gives_its_place_back(self, tmp_path: Path) -> None:
        async with held_upstream() as first, proxy_with(tmp_path, "sk", places=1, first=first) as proxy:
            async with all_asked(proxy, first, "a"):
                assert in_flight(proxy) == {"key": 1}
            await until_noticed(lambda: in_flight(proxy) == {"key": 0})
            async with all_asked(proxy, first, "b"):
                assert in_flight(proxy) == {"key": 1}


class TestNone:
    async def test_where_the_rest_are_out_nobody_waits(self, tmp_path: Path) -> None:
        async with held_upstream() as first, proxy_with(tmp_path, *KEYS, places=1, first=first) as proxy:
            close_first_key(proxy)
            async with all_asked(proxy, first, "a") as (a,), asking(proxy, "b") as b:
                assert refusal(await b.answer()) == (503, "overloaded")
                assert in_line(proxy) == 0
                first.answer_all()
                assert (await a.answer()).status == 200
                await until_noticed(lambda: in_flight(proxy) == {"key-1": 0, "key-2": 0})
                assert (await b.ask(request_for("c"))).status == 200

    async def test_a_rule_may_lead_elsewhere(self, tmp_path: Path) -> None:
        async with held_upstream() as first, held_upstream() as spare:
            async with proxy_with(tmp_path, *KEYS, places=1, toml=TO_SPARE, first=first, spare=spare) as proxy:
                close_first_key(proxy)
                spare.answer_all()
                async with all_asked(proxy, first, "a"), asking(proxy, "b") as b:
                    assert (await b.answer()).status == 200
        assert spare.asked == ["b"]

    async def test_who_names_an_account_gets_no_other(self, tmp_path: Path) -> None:
        async with held_upstream() as first, proxy_with(tmp_path, *KEYS, places=1, first=first) as proxy:
            async with all_asked(proxy, first, "a"), raw_client(proxy.url) as client:
                named = request_for("b").replace(b"\r\n\r\n", b"\r\nX-Qwen-Account: key-1\r\n\r\n", 1)
                assert refusal(await client.ask(named)) == (503, "overloaded")

    @pytest.mark.parametrize(
        ("status", "code", "given"),
        [(503, "ServiceUnavailable", (503, "ServiceUnavailable")), (429, "insufficient_quota", (503, "overloaded"))],
    )
    async def test_one_that_is_refused_finds_the_others_busy(
        self, tmp_path: Path, status: int, code: str, given: tuple[int, str]
    ) -> None:
        """An upstream's own 503 says as much; a limit of one account is not the client's to see."""
        async with held_upstream() as first, proxy_with(tmp_path, *KEYS, places=1, first=first) as proxy:
            async with all_asked(proxy, first, "a", "b") as (a, _):
                first.answer("a", b'{"error":{"message":"No.","code":"%b"}}' % code.encode(), status)
                got = await a.answer()
                assert (got.status, got.error_code) == given
                await until_noticed(lambda: in_flight(proxy) == {"key-1": 0, "key-2": 1})
            assert first.asked == ["a", "b"]


async def test_the_list_of_models_takes_no_place(tmp_path: Path) -> None:
    """It is asked for beside whatever else is under way."""
    go = anyio.Event()
    models = answer(200, [JSON], b'{"object":"list","data":[{"id":"listed","object":"model"}]}')
    async with backend([wait_for(go), send(GOOD)], models) as first:
        async with proxy_with(tmp_path, "sk", places=1, first=first) as proxy:
            async with raw_client(proxy.url) as busy, raw_client(proxy.url) as client:
                await busy.send(chat("big"))
                await first.asked()
                got = await client.ask(request_head("GET", "/v1/models"))
                assert (got.status, b'"listed"' in got.body) == (200, True)
                go.set()
                assert (await busy.answer()).status == 200

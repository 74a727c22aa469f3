"""Requests that wait for their place, and clients that have used up what they may send: with the whole proxy."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.config import load
from tests.support.held_upstream import (
    PATH,
    HeldUpstream,
    asking,
    held_upstream,
    in_line,
    limited,
    places_taken,
    refusal,
    request_for,
    until_all_have_left,
    until_in_line,
)
from tests.support.leaks import turns
from tests.support.live import settings_for
from tests.support.raw_client import RawClient, raw_client, request_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

JSON_TYPE = b"Content-Type: application/json"
LEAVE = ["fin", "reset"]
KEYS = ("one", "two")


def leave(client: RawClient, how: str) -> None:
    if how == "reset":
        client.wire.reset()
    else:
        client.wire.close()


@asynccontextmanager
async def all_asking(proxy: app.Running, *names: str, key: str = "") -> AsyncIterator[list[RawClient]]:
    """Clients that have come one after the other: each is at the upstream or in line before the next one comes."""
    async with AsyncExitStack() as stack:
        clients = []
        for name in names:
            before = places_taken(proxy)
            clients.append(await stack.enter_async_context(asking(proxy, name, key=key)))
            while places_taken(proxy) == before and not clients[-1].wire.take():  # it may be refused
                await turns(1)
            await turns()
        yield clients


async def test_without_limits_there_is_nothing_to_pass() -> None:
    async with held_upstream() as upstream, app.running(settings_for(upstream.url)) as proxy:
        assert proxy.app.services.admission is None


class TestFullLine:
    async def test_an_answer_at_once_and_the_connection_lives(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1, queue_size=1) as proxy:
            async with all_asking(proxy, "a1", "a2", "a3") as (first, second, third):
                answer = await third.answer()
                assert refusal(answer) == (503, "overloaded")
                assert answer.header(b"connection") == b""
                assert (await third.ask(request_head("GET", "/livez"))).status == 200
                upstream.answer_all()
                assert [(await each.answer()).status for each in (first, second)] == [200, 200]
            assert upstream.asked == ["a1", "a2"]

    async def test_what_is_answered_here_does_not_wait(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1, queue_size=0) as proxy:
            async with asking(proxy, "a"), raw_client(proxy.url) as client:
                await upstream.until_asked("a")
                for path in ("/livez", "/readyz", "/health", "/"):
                    assert (await client.ask(request_head("GET", path))).status == 200

    async def test_the_key_with_most_in_it_makes_room(self) -> None:
        async with held_upstream() as upstream:
            async with limited(upstream.url, keys=KEYS, max_exchanges=1, queue_size=2) as proxy:
                async with all_asking(proxy, "a1", "a2", "a3", key="one") as (_, _, crowded):
                    async with asking(proxy, "b1", key="two") as other:
                        assert refusal(await crowded.answer()) == (503, "overloaded")
                        upstream.answer_all()
                        assert (await other.answer()).status == 200
            assert "a3" not in upstream.asked


class TestOrder:
    async def test_first_come_first_served(self) -> None:
        names = ["a0", "a1", "a2", "a3"]
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
            async with all_asking(proxy, *names) as clients:
                for name, client in zip(names, clients, strict=True):
                    await upstream.until_asked(name)
                    upstream.answer(name)
                    assert (await client.answer()).status == 200
            assert (upstream.asked, upstream.most) == (names, 1)

    async def test_clients_with_different_keys_take_turns(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, keys=KEYS, max_exchanges=1) as proxy:
            async with all_asking(proxy, "a0", "a1", "a2", "a3", key="one") as clients:
                async with asking(proxy, "b1", key="two") as other:
                    await until_in_line(proxy, 4)
                    upstream.answer_all()
                    for client in (*clients, other):
                        assert (await client.answer()).status == 200
            assert upstream.asked == ["a0", "a1", "b1", "a2", "a3"]

    async def test_the_next_request_of_a_connection_stands_in_line_like_any_other(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
            async with asking(proxy, "a1") as first:
                await upstream.until_asked("a1")
                async with asking(proxy, "b1") as second:
                    await until_in_line(proxy, 1)
                    await first.wire.send(request_for("a2"))
                    upstream.answer("a1")
                    assert (await first.answer()).status == 200
                    await upstream.until_asked("b1")
                    await until_in_line(proxy, 1)
                    upstream.answer_all()
                    assert [(await each.answer()).status for each in (second, first)] == [200, 200]
            assert upstream.asked == ["a1", "b1", "a2"]


class TestLeaving:
    @pytest.mark.parametrize("how", LEAVE)
    async def test_a_client_that_leaves_the_line_leaves_no_hole(self, how: str) -> None:
        """C09."""
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
            async with all_asking(proxy, "a1", "a2", "a3") as (first, second, third):
                leave(second, how)
                await until_in_line(proxy, 1)
                upstream.answer_all()
                assert [(await each.answer()).status for each in (first, third)] == [200, 200]
            assert upstream.asked == ["a1", "a3"]

    async def test_one_that_half_closes_has_left(self) -> None:
        """C05."""
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
            async with all_asking(proxy, "a1", "a2") as (_, second):
                second.wire.half_close()
                assert await second.closed() == b""
                assert in_line(proxy) == 0

    async def test_one_that_ends_in_the_middle_of_its_body_is_told_when_its_turn_comes(self) -> None:
        """C06."""
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
            async with asking(proxy, "a1") as first, raw_client(proxy.url) as second:
                await upstream.until_asked("a1")
                await second.send(request_head("POST", PATH, JSON_TYPE, b"Content-Length: 10"), b'{"mode')
                second.wire.half_close()
                await until_in_line(proxy, 1)
                async with asking(proxy, "a3") as third:
                    upstream.answer_all()
                    assert (await first.answer()).status == 200
                    answer = await second.answer()
                    assert (answer.status, answer.error_code) == (400, "bad_request")
                    assert (await third.answer()).status == 200

    @pytest.mark.parametrize("how", LEAVE)
    async def test_one_that_leaves_its_place_gives_it_on(self, how: str) -> None:
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
            async with all_asking(proxy, "a1", "a2") as (first, second):
                leave(first, how)
                await upstream.until_asked("a2")
                upstream.answer("a2")
                assert (await second.answer()).status == 200

    async def test_many_that_come_and_leave_at_any_time(self) -> None:
        chance = random.Random(9)

        async def visit(visitor: int) -> None:
            for number in range(15):
                name, padding_bytes = f"{visitor}-{number}", chance.choice((0, 2000))
                async with asking(proxy, name, key=chance.choice(KEYS), padding_bytes=padding_bytes) as client:
                    if chance.random() < 0.5:
                        upstream.answer(name)
                    await turns(chance.randrange(30))
                    leave(client, chance.choice(LEAVE))

        async with held_upstream() as upstream:
            async with limited(
                upstream.url,
                keys=KEYS,
                upstream_exchanges=2,
                max_exchanges=3,
                max_per_key=2,
                queue_size=6,
                long_bytes=1000,
            ) as proxy:
                async with anyio.create_task_group() as tasks:
                    for visitor in range(8):
                        tasks.start_soon(visit, visitor)
                async with raw_client(proxy.url) as last:  # those before it have all been let in when it is answered
                    assert (await last.ask(request_head("GET", "/livez"))).status == 200
                while proxy.app.drain._members:
                    await turns(1)
                await until_all_have_left(proxy)
                async with all_asking(proxy, "1", "2", key="one"), all_asking(proxy, "3", "4", key="two"):
                    await upstream.until_asked("2")
                    assert (in_line(proxy), "3" in upstream.asked) == (2, False)


class TestPatience:
    async def test_who_has_waited_too_long_is_told_and_the_others_go_on(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1, queue_wait_s=0.05) as proxy:
            async with asking(proxy, "a1") as first:
                await upstream.until_asked("a1")
                async with asking(proxy, "a2") as second:
                    assert refusal(await second.answer()) == (503, "overloaded")
                    assert in_line(proxy) == 0
                    upstream.answer_all()
                    assert (await first.answer()).status == 200
                    assert (await second.ask(request_for("a3"))).status == 200
            assert upstream.asked == ["a1", "a3"]

    async def test_who_waits_for_its_own_is_told_that(self) -> None:
        async with held_upstream() as upstream:
            async with limited(upstream.url, keys=KEYS, queue_wait_s=0.05, max_exchanges=2, max_per_key=1) as proxy:
                async with asking(proxy, "a1", key="one"):
                    await upstream.until_asked("a1")
                    async with asking(proxy, "a2", key="one") as second, asking(proxy, "b1", key="two") as other:
                        assert refusal(await second.answer()) == (429, "rate_limited")
                        upstream.answer("b1")
                        assert (await other.answer()).status == 200

    async def test_the_body_is_not_invited_before_there_is_a_place(self) -> None:
        """C11."""
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1) as proxy:
            async with asking(proxy, "a1"), raw_client(proxy.url) as second:
                await upstream.until_asked("a1")
                body = b'{"model":"a2"}'
                length = b"Content-Length: %d" % len(body)
                await second.send(request_head("POST", PATH, JSON_TYPE, b"Expect: 100-continue", length))
                await until_in_line(proxy, 1)
                assert second.wire.buffer == b""
                upstream.answer_all()
                while not second.wire.buffer.endswith(b"\r\n\r\n"):
                    await second.wire.receive_more()
                assert second.wire.buffer == b"HTTP/1.1 100 Continue\r\n\r\n"
                second.wire.buffer.clear()
                assert (await second.ask(body)).status == 200


class TestLongOnes:
    async def test_small_ones_pass_while_huge_ones_wait(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=2, long_bytes=5000) as proxy:
            async with asking(proxy, "huge-1", padding_bytes=5000):
                await upstream.until_asked("huge-1")
                async with asking(proxy, "huge-2", padding_bytes=5000) as second, raw_client(proxy.url) as client:
                    await until_in_line(proxy, 1)
                    for name in ("small-1", "small-2", "small-3"):
                        upstream.answer(name)
                        assert (await client.ask(request_for(name, padding_bytes=4000))).status == 200
                    assert "huge-2" not in upstream.asked
                    upstream.answer_all()
                    assert (await second.answer()).status == 200

    async def test_a_body_whose_length_is_not_told_may_become_long(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, max_exchanges=2) as proxy:
            head = request_head("POST", PATH, JSON_TYPE, b"Transfer-Encoding: chunked")
            async with raw_client(proxy.url) as first, raw_client(proxy.url) as second:
                await first.send(head)
                await second.send(head)
                await until_in_line(proxy, 1)
                async with asking(proxy, "small") as client:
                    upstream.answer("small")
                    assert (await client.answer()).status == 200


class TestUpstream:
    async def test_one_that_may_have_so_many_at_once(self) -> None:
        async with held_upstream() as upstream, limited(upstream.url, upstream_exchanges=1) as proxy:
            async with all_asking(proxy, "a1", "a2") as (first, second):
                await until_in_line(proxy, 1)
                upstream.answer_all()
                assert [(await each.answer()).status for each in (first, second)] == [200, 200]
            assert (upstream.asked, upstream.most) == (["a1", "a2"], 1)

    async def test_who_waits_for_it_holds_its_own_place(self) -> None:
        async with held_upstream() as upstream:
            async with limited(upstream.url, upstream_exchanges=1, max_exchanges=2, queue_size=1) as proxy:
                async with all_asking(proxy, "a1", "a2", "a3", "a4") as (_, _, _, fourth):
                    assert in_line(proxy) == 2
                    assert refusal(await fourth.answer()) == (503, "overloaded")

    async def test_in_place_of_a_full_one_a_fallback_answers(self, tmp_path: Path) -> None:
        async with held_upstream() as full, held_upstream() as spare, with_fallback(tmp_path, full, spare) as proxy:
            async with all_asking(proxy, "a1", "a2") as (first, second):
                await spare.until_asked("a2")
                spare.answer("a2")
                assert (await second.answer()).status == 200
                full.answer("a1")
                assert (await first.answer()).status == 200
            assert (full.asked, spare.asked) == (["a1"], ["a2"])

    async def test_what_goes_elsewhere_gives_its_place_to_the_next(self, tmp_path: Path) -> None:
        async with held_upstream() as busy, held_upstream() as spare, with_fallback(tmp_path, busy, spare) as proxy:
            busy.answer("a1", b'{"error":{"message":"Busy.","code":"overloaded"}}', status=503)
            async with asking(proxy, "a1"):
                await spare.until_asked("a1")
                async with asking(proxy, "a2"):
                    await busy.until_asked("a2")


@asynccontextmanager
async def with_fallback(folder: Path, first: HeldUpstream, second: HeldUpstream) -> AsyncIterator[app.Running]:
    """One place at the first upstream and no line; from there a rule leads to the second one."""
    tables = [
        f'[upstreams.first]\nurl = "{first.url}"\nmax_exchanges = 1',
        f'[upstreams.second]\nurl = "{second.url}"',
        "[limits]\nqueue_size = 0",
        '[[fallback]]\nfrom = "first:*"\nto = "second:*"\non = ["503"]',
    ]
    (folder / "qproxy.toml").write_text("\n".join(tables))
    async with app.running(load({"port": 0, "access_log": "off"}, {}, folder, folder)) as proxy:
        yield proxy

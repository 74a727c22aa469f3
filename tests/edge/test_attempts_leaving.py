"""A client that leaves between two attempts, or in one of them, leaves no lease, connection or task behind."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qproxy.simulator import Options, running
from tests.support.account_stage import (
    CHAT,
    account_stage,
    key_settings,
    log_in,
    login_settings,
    until_noticed,
    with_keys,
)
from tests.support.leaks import cancelled_after, nothing_left
from tests.support.live import settings_for
from tests.support.raw_client import post, raw_client
from tests.support.scripted_upstream import expect_request, head, scripted_upstream, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from qproxy.config import Settings
    from tests.support.account_stage import AccountStage
    from tests.support.raw_client import RawClient

pytestmark = pytest.mark.anyio

ONE, TWO = "sk-one", "sk-two"
BODY = b'{"model":"qwen3-coder-plus","messages":[{"role":"user","content":"Hello"}]}'
STREAM = BODY[:-1] + b',"stream":true}'
LONG = b'{"model":"qwen3-coder-plus","messages":[{"role":"user","content":"%b"}]}' % (b"a" * 400_000)
TOKEN_PATH = "/oauth2/token"
KEEPALIVE_S = 0.02
EXPIRED_S = -60.0
MOST_TURNS = 200


@pytest.fixture(params=["close", "reset"])
def how(request: pytest.FixtureRequest) -> str:
    way: str = request.param
    return way


def forgetful(settings: Settings) -> Settings:
    """Idle connections to the upstream soon expire, so that every open one is one too many."""
    upstreams = {
        name: replace(each, upstream=replace(each.upstream, keepalive_s=KEEPALIVE_S))
        for name, each in settings.upstreams.items()
    }
    return replace(settings, upstreams=upstreams)


@asynccontextmanager
async def keys(folder: Path) -> AsyncIterator[AccountStage]:
    async with running(Options(tokens=4)) as simulator:
        settings = forgetful(key_settings(simulator, ONE, TWO))
        async with account_stage(simulator, settings, folder) as stage:
            yield stage


@asynccontextmanager
async def logins(folder: Path, *expired: str) -> AsyncIterator[AccountStage]:
    home = folder / ".qwen"
    async with running(Options(tokens=4)) as simulator:
        for account in ("default", "spare"):
            log_in(simulator, home, account, lifetime_s=EXPIRED_S if account in expired else 3600)
        settings = forgetful(login_settings(simulator, home))
        async with account_stage(simulator, settings, folder) as stage:
            yield stage


async def leaves_nothing(
    stage: AccountStage, how: str, come_to_the_point: Callable[[RawClient], Awaitable[None]]
) -> None:
    """A client comes to some point of its request and leaves there."""
    async with nothing_left():
        async with raw_client(stage.proxy.url) as client:
            await come_to_the_point(client)
            assert stage.in_flight() == 1
            getattr(client.wire, how)()
        await until_noticed(lambda: stage.in_flight() == 0)
        stage.simulator.release()
        await until_noticed(lambda: stage.simulator.counters.connections_open == 0)
    assert [line["error"] for line in (await stage.lines())] == ["client_closed"]


class TestWithKeys:
    async def test_in_the_first_attempt(self, tmp_path: Path, how: str) -> None:
        async with keys(tmp_path) as stage:

            async def come_to_the_point(client: RawClient) -> None:
                stage.simulator.account(ONE).answer_next("slow-head")
                await client.send(post(CHAT, BODY))
                await stage.simulator.held()

            await leaves_nothing(stage, how, come_to_the_point)
            assert await stage.used() == ("key-1", 1)

    @pytest.mark.parametrize("scenario", ["429-quota", "401", "503", "early-429"])
    @pytest.mark.parametrize("body", [BODY, LONG], ids=["stored", "long"])
    async def test_in_the_second_attempt(self, tmp_path: Path, how: str, scenario: str, body: bytes) -> None:
        async with keys(tmp_path) as stage:

            async def come_to_the_point(client: RawClient) -> None:
                stage.simulator.account(ONE).answer_next(scenario)
                stage.simulator.account(TWO).answer_next("slow-head")
                await client.send(post(CHAT, body))
                await stage.simulator.held()

            await leaves_nothing(stage, how, come_to_the_point)
            assert await stage.used() == ("key-2", 2)

    async def test_in_the_stream_of_the_second_attempt(self, tmp_path: Path, how: str) -> None:
        async with keys(tmp_path) as stage:

            async def come_to_the_point(client: RawClient) -> None:
                stage.simulator.account(ONE).answer_next("503")
                stage.simulator.account(TWO).answer_next("stall")
                await client.send(post(CHAT, STREAM))
                await client.until(await client.begin(), b"data: ")

            await leaves_nothing(stage, how, come_to_the_point)
            assert await stage.used() == ("key-2", 2)

    async def test_while_an_error_is_looked_at(self, tmp_path: Path, how: str) -> None:
        """The head of a 429 has come, and the half of its body."""
        half = head(429, [(b"content-length", b"40")]) + b'{"error":{"code":'
        script = [expect_request(), send(half)]
        async with running() as unused, scripted_upstream(script) as upstream:
            settings = forgetful(with_keys(settings_for(upstream.url + "/v1"), ONE, TWO))
            async with account_stage(unused, settings, tmp_path) as stage:

                async def come_to_the_point(client: RawClient) -> None:
                    await client.send(post(CHAT, BODY))
                    await until_noticed(lambda: bool(upstream.connections and upstream.connections[0].steps_done == 2))

                await leaves_nothing(stage, how, come_to_the_point)
                await upstream.connections[0].peer_left.wait()
                assert len(upstream.connections) == 1


class TestWithLogins:
    async def test_while_it_waits_for_a_token(self, tmp_path: Path, how: str) -> None:
        """The renewal goes on: what the server has given is kept."""
        async with logins(tmp_path, "default") as stage:

            async def come_to_the_point(client: RawClient) -> None:
                stage.simulator.fail_next("slow-head", path=TOKEN_PATH)
                await client.send(post(CHAT, BODY))
                await stage.simulator.held()

            await leaves_nothing(stage, how, come_to_the_point)
            assert (await stage.lines())[-1]["attempts"] == "0"
            await until_noticed(lambda: stage.simulator.oauth.refreshes == 1)
            assert (await stage.chat()).status == 200
            assert stage.token_posts == 1

    async def test_while_its_refused_token_is_renewed(self, tmp_path: Path, how: str) -> None:
        async with logins(tmp_path) as stage:

            async def come_to_the_point(client: RawClient) -> None:
                stage.simulator.account("default").answer_next("401-expired")
                stage.simulator.fail_next("slow-head", path=TOKEN_PATH)
                await client.send(post(CHAT, BODY))
                await stage.simulator.held()

            await leaves_nothing(stage, how, come_to_the_point)
            assert await stage.used() == ("default", 1)
            await until_noticed(lambda: stage.simulator.oauth.refreshes == 1)
            assert (await stage.chat()).status == 200

    async def test_while_it_waits_for_the_token_of_the_next_login(self, tmp_path: Path, how: str) -> None:
        async with logins(tmp_path, "spare") as stage:

            async def come_to_the_point(client: RawClient) -> None:
                stage.simulator.account("default").answer_next("429-quota")
                stage.simulator.fail_next("slow-head", path=TOKEN_PATH)
                await client.send(post(CHAT, BODY))
                await stage.simulator.held()

            await leaves_nothing(stage, how, come_to_the_point)
            assert await stage.used() == ("default", 1)

    async def test_in_the_replay_with_the_renewed_token(self, tmp_path: Path, how: str) -> None:
        async with logins(tmp_path) as stage:

            async def come_to_the_point(client: RawClient) -> None:
                stage.simulator.account("default").answer_next("401-expired", "slow-head")
                await client.send(post(CHAT, BODY))
                await stage.simulator.held()

            await leaves_nothing(stage, how, come_to_the_point)
            assert await stage.used() == ("default", 2)


@pytest.mark.parametrize(
    ("scenario", "body"),
    [("429-retry-after-ms", BODY), ("503", BODY), ("503", LONG)],
    ids=["limited", "busy", "busy-long"],
)
async def test_at_every_turn_of_the_loop(tmp_path: Path, scenario: str, body: bytes) -> None:
    """From the first byte to the last, whatever was being done just then."""
    async with keys(tmp_path) as stage:

        async def request() -> None:
            async with raw_client(stage.proxy.url) as client:
                assert (await client.ask(post(CHAT, body))).status == 200

        finished = False
        async with nothing_left():
            for turns in range(MOST_TURNS):
                stage.simulator.account(ONE).answer_next(scenario)
                finished = await cancelled_after(request, turns)
                await until_noticed(lambda: stage.in_flight() == 0)
                stage.simulator.account(ONE).lift()
                await until_noticed(lambda: stage.view("key-1").cooling == ())
                if finished:
                    break
            await until_noticed(lambda: stage.simulator.counters.connections_open == 0)
        assert finished
        assert {line["attempts"] for line in (await stage.lines())} >= {"1", "2"}

"""Whole logins against the simulator: each end, each trouble on the way."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy.core.device_flow import LoginState, OAuthClient, Progress
from qproxy.core.token_answer import TokenReply
from qproxy.edge.login import LoginServer, new_login
from qproxy.errors import UpstreamError
from qproxy.simulator import Options, Simulator, running
from tests.support.leaks import nothing_left
from tests.support.login_server import login_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

TOKEN = "/oauth2/token"
BRIEF = Options(poll_interval_s=0.02)


@asynccontextmanager
async def parts(options: Options = BRIEF) -> AsyncIterator[tuple[Simulator, LoginServer]]:
    async with nothing_left(), running(options) as simulator, login_server(simulator.url) as server:
        yield simulator, server


def ignore(_: Progress) -> None:
    pass


async def test_a_login_that_is_approved_after_some_polls() -> None:
    told: list[LoginState] = []
    async with parts() as (simulator, server):
        login = await server.begin()

        def approve_at_the_third(progress: Progress) -> None:
            told.append(progress.state)
            if len(told) == 3:
                assert simulator.oauth.approve(login.code.user_code, "alice")

        progress = await login.finish(approve_at_the_third)
        assert progress.state is LoginState.DONE
        assert progress.reply is not None
        document = new_login(progress.reply, 1000.0, ())
        assert simulator.oauth.account_of(str(document["access_token"])) == "alice"
        assert document["expiry_date"] == 4_600_000
        assert document["token_type"] == "Bearer"
    assert told == [LoginState.PENDING] * 3
    assert simulator.oauth.token_posts == 4


async def test_the_user_says_no() -> None:
    async with parts() as (simulator, server):
        login = await server.begin()
        assert simulator.oauth.deny(login.code.user_code)
        assert await login.finish(ignore) == Progress(LoginState.DENIED)


async def test_nobody_approves() -> None:
    async with parts(Options(poll_interval_s=0.02, device_lifetime_s=0.1)) as (_, server):
        login = await server.begin()
        assert await login.finish(ignore) == Progress(LoginState.EXPIRED)


async def test_what_goes_wrong_on_the_way_is_told_and_survived() -> None:
    notes: list[str] = []
    async with parts() as (simulator, server):
        login = await server.begin()
        for scenario in ("504", "html-waf", "cut-before-head", "reset-before-head", "oauth-garbage"):
            simulator.fail_next(scenario, path=TOKEN)

        def note(progress: Progress) -> None:
            notes.append(progress.note)
            if len(notes) == 5:
                assert simulator.oauth.approve(login.code.user_code)

        assert (await login.finish(note)).state is LoginState.DONE
    assert "(504)" in notes[0]
    assert "something before it answered" in notes[1]
    assert [lost for lost in notes[2:4] if "broke off" not in lost] == []
    assert "something before it answered (200)" in notes[4]


@pytest.mark.parametrize("scenario", ["oauth-slow-down", "oauth-slow-down-429", "oauth-429"])
async def test_slow_down_makes_it_five_seconds_slower(scenario: str) -> None:
    told: list[Progress] = []
    async with parts() as (simulator, server):
        login = await server.begin()
        simulator.fail_next(scenario, path=TOKEN)
        with anyio.CancelScope() as scope:

            def leave(progress: Progress) -> None:
                told.append(progress)
                scope.cancel()

            await login.finish(leave)
    assert [progress.state for progress in told] == [LoginState.SLOW_DOWN]
    assert told[0].wait_s == login.interval_s == pytest.approx(5.02)


@pytest.mark.parametrize(
    ("scenario", "state"),
    [
        ("oauth-denied", LoginState.DENIED),
        ("oauth-expired", LoginState.EXPIRED),
        ("oauth-401", LoginState.EXPIRED),
        ("oauth-invalid-grant", LoginState.FAILED),
    ],
)
async def test_ends_that_the_server_decides(scenario: str, state: LoginState) -> None:
    async with parts() as (simulator, server):
        login = await server.begin()
        simulator.fail_next(scenario, path=TOKEN)
        assert (await login.finish(ignore)).state is state
        assert simulator.oauth.token_posts == 1


async def test_another_client_is_refused() -> None:
    async with running(BRIEF) as simulator, login_server(simulator.url, OAuthClient("other", "openid")) as server:
        with pytest.raises(UpstreamError, match="invalid_client"):
            await server.begin()


async def test_no_login_begins_where_nobody_answers() -> None:
    async with login_server("http://127.0.0.1:1") as server:
        with pytest.raises(UpstreamError) as caught:
            await server.begin()
    assert caught.value.code == "upstream_connect_failed"


async def test_the_verifier_belongs_to_one_login() -> None:
    async with parts() as (simulator, server):
        first, second = await server.begin(), await server.begin()
        second._form["code_verifier"] = first._form["code_verifier"]
        assert simulator.oauth.approve(second.code.user_code)
        assert (await second.finish(ignore)).state is LoginState.FAILED
        assert first._form["code_verifier"] not in repr((first, first.code))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"access_token": "a b"}, "with"),
        ({"access_token": "t", "resource_url": "evil.example"}, "names a host that is not on the list"),
        ({"access_token": "t", "resource_url": "http://127.0.0.1:9/v1"}, "resource_url is not https"),
        ({"access_token": "t", "resource_url": "https://portal.qwen.ai@evil.example"}, "must not carry credentials"),
    ],
)
async def test_a_login_that_must_not_be_kept(answer: dict[str, str], reason: str) -> None:
    with pytest.raises(UpstreamError, match="The login cannot be used: ") as caught:
        new_login(TokenReply(200, None, orjson.dumps(answer)), 1000.0, ())
    assert caught.value.code == "upstream_protocol_error"
    if reason != "with":
        assert reason in caught.value.message


async def test_a_host_of_the_settings_may_get_the_token() -> None:
    answer = orjson.dumps({"access_token": "t", "refresh_token": "r", "resource_url": "gateway.example"})
    document = new_login(TokenReply(200, None, answer), 1000.0, ("gateway.example",))
    assert document["resource_url"] == "gateway.example"

"""Logins in use: tokens that end, are refused, are replaced and are taken away while requests come."""

from __future__ import annotations

import json
import resource
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from qproxy.core.account import Standing
from qproxy.core.oauth import FREE_TIER_ENDED
from qproxy.edge import attempts
from qproxy.edge.login_files import LoginFiles
from qproxy.simulator import Options, running
from tests.support.account_stage import (
    CHAT,
    account_stage,
    error_of,
    log_in,
    login_path,
    login_settings,
    put_login,
    until_noticed,
)
from tests.support.http_client import port_of
from tests.support.login_stage import landed
from tests.support.raw_client import End, post, raw_client, request_head
from tests.support.scripted_upstream import answer, expect_request, scripted_upstream, send, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from qproxy.simulator import Simulator
    from tests.support.account_stage import AccountStage
    from tests.support.raw_client import Answer as RawAnswer
    from tests.support.raw_client import RawClient

pytestmark = pytest.mark.anyio

TOKEN_PATH = "/oauth2/token"
BODY = b'{"model":"qwen3-coder-plus","messages":[{"role":"user","content":"Hello"}]}'
CROWD = 1000
DESCRIPTORS = 5 * CROWD
EXPIRED_S = -60.0
SEEN_S = 2.0  # `qproxy auth remove` waits for 3; a server looks every second


@pytest.fixture
async def simulator(anyio_backend: object) -> AsyncIterator[Simulator]:
    async with running(Options(tokens=4)) as simulator:
        yield simulator


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".qwen"


def serving(simulator: Simulator, home: Path, **flags: object) -> AbstractAsyncContextManager[AccountStage]:
    return account_stage(simulator, login_settings(simulator, home, **flags), home.parent)


@pytest.fixture
def many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"{hard} descriptors are too few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))


async def crowd_of(stage: AccountStage, stack: AsyncExitStack, count: int) -> list[RawClient]:
    """So many clients, each with a request under way."""
    clients = [await stack.enter_async_context(raw_client(stage.proxy.url)) for _ in range(count)]
    for client in clients:
        await client.wire.send(post(CHAT, BODY))
    await until_noticed(lambda: stage.in_flight() == count)
    return clients


class TestATokenThatHasExpired:
    async def test_a_thousand_requests_make_one_token_call(
        self, simulator: Simulator, home: Path, many_descriptors: None
    ) -> None:
        """A01."""
        log_in(simulator, home, lifetime_s=EXPIRED_S)
        simulator.fail_next("slow-head", path=TOKEN_PATH)
        async with serving(simulator, home) as stage, AsyncExitStack() as stack:
            clients = await crowd_of(stage, stack, CROWD)
            assert stage.bearers() == []
            simulator.release()
            assert [(await client.answer()).status for client in clients] == [200] * CROWD
            assert (stage.token_posts, simulator.oauth.refreshes) == (1, 1)
            assert set(stage.bearers()) == {json.loads(login_path(home).read_text())["access_token"]}
            assert {line["attempts"] for line in (await stage.lines())} == {"1"}

    async def test_nothing_is_renewed_that_is_not_due(self, simulator: Simulator, home: Path) -> None:
        """Neither at the start nor with requests, and a second login that nobody uses stays as it is."""
        log_in(simulator, home)
        log_in(simulator, home, "spare", lifetime_s=EXPIRED_S)
        async with serving(simulator, home) as stage:
            for _ in range(3):
                assert (await stage.chat()).status == 200
            assert stage.token_posts == 0

    async def test_the_login_server_is_down(self, simulator: Simulator, home: Path) -> None:
        log_in(simulator, home, lifetime_s=EXPIRED_S)
        simulator.fail_next("500", times=9, path=TOKEN_PATH)
        async with serving(simulator, home) as stage:
            answered = await stage.chat()
            status, code, message = error_of(answered)
            assert (status, code, answered.header("x-should-retry")) == (503, "credentials_unavailable", "true")
            assert 1 <= int(answered.header("retry-after")) <= 8
            assert "could not be renewed" in message
            await stage.chat()
            assert stage.token_posts == 1, "the next attempt is not yet due"

    async def test_the_next_login_serves_where_the_first_cannot_be_renewed(
        self, simulator: Simulator, home: Path
    ) -> None:
        log_in(simulator, home, lifetime_s=EXPIRED_S)
        log_in(simulator, home, "spare")
        simulator.fail_next("500", path=TOKEN_PATH)
        async with serving(simulator, home) as stage:
            assert (await stage.chat()).status == 200
            assert await stage.used() == ("spare", 1)

    async def test_no_login_can_be_renewed(self, simulator: Simulator, home: Path) -> None:
        """Not one of them is limited: waiting for a minute would help nobody."""
        for account in ("default", "spare"):
            log_in(simulator, home, account, lifetime_s=EXPIRED_S)
        simulator.fail_next("500", times=9, path=TOKEN_PATH)
        async with serving(simulator, home) as stage:
            answered = await stage.chat()
            assert error_of(answered)[:2] == (503, "credentials_unavailable")
            assert int(answered.header("retry-after")) <= 2

    async def test_a_request_waits_once_whatever_the_number_of_logins(
        self, simulator: Simulator, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts, "TOKEN_WAIT_S", 0.2)
        for account in ("default", "one", "two"):
            log_in(simulator, home, account, lifetime_s=EXPIRED_S)
        simulator.fail_next("slow-head", times=3, path=TOKEN_PATH)
        async with serving(simulator, home) as stage:
            answered = await stage.chat()
            assert error_of(answered)[:2] == (503, "credentials_unavailable")
            assert answered.header("retry-after")
            renewing = [account for account, each in stage.proxy.app.logins.keepers().items() if each._flight]
            assert renewing == ["default"], "for the logins behind the first nothing is begun"
            await simulator.held()
            simulator.release()
            await until_noticed(lambda: simulator.oauth.refreshes == 1)
            await landed(stage.proxy.app.logins.keepers()["default"])
            assert (await stage.chat()).status == 200, "what came too late for the one is there for the next"

    async def test_every_renewal_brings_a_token_that_is_refused(self, simulator: Simulator, home: Path) -> None:
        """The morning after the free tier's end: all tokens have expired, all renewals succeed, all is refused."""
        accounts = ("default", "one", "two")
        for account in accounts:
            log_in(simulator, home, account, lifetime_s=EXPIRED_S)
            simulator.account(account).close("401-expired")
        async with serving(simulator, home) as stage:
            codes = []
            for number in range(1, len(accounts) + 1):
                codes.append(error_of(await stage.chat())[1])
                assert stage.token_posts == number, "a request makes one token call at most"
            assert codes == ["credentials_unavailable", "credentials_unavailable", "no_healthy_account"]
            assert FREE_TIER_ENDED in error_of(await stage.chat())[2]
            assert stage.token_posts == len(accounts)

    async def test_one_token_call_where_the_renewed_login_is_limited(self, simulator: Simulator, home: Path) -> None:
        """The token of the next login is for the next request to renew."""
        for account in ("default", "spare"):
            log_in(simulator, home, account, lifetime_s=EXPIRED_S)
        simulator.account("default").answer_next("429-hour")
        async with serving(simulator, home) as stage:
            answered = await stage.chat()
            assert error_of(answered)[:2] == (503, "credentials_unavailable")
            assert answered.header("x-should-retry") == "true"
            assert stage.token_posts == 1
            assert (await stage.chat()).status == 200
            assert await stage.used() == ("spare", 1)
            assert stage.token_posts == 2


class TestATokenThatIsRefused:
    async def test_it_is_renewed_and_the_client_sees_nothing(self, simulator: Simulator, home: Path) -> None:
        """U22."""
        login = log_in(simulator, home)
        simulator.oauth.expire(login.access_token)
        async with serving(simulator, home) as stage:
            assert (await stage.chat()).status == 200
            first, second = stage.bearers()
            assert first == login.access_token != second
            assert await stage.used() == ("default", 2)
            assert stage.token_posts == 1
            assert json.loads(login_path(home).read_text())["access_token"] == second

    async def test_a_crowd_is_refused_at_once(self, simulator: Simulator, home: Path) -> None:
        login = log_in(simulator, home)
        simulator.oauth.expire(login.access_token)
        simulator.fail_next("slow-head", path=TOKEN_PATH)
        async with serving(simulator, home) as stage, AsyncExitStack() as stack:
            clients = await crowd_of(stage, stack, 100)
            await simulator.held()
            simulator.release()
            assert [(await client.answer()).status for client in clients] == [200] * 100
            assert stage.token_posts == 1

    async def test_the_new_one_is_refused_too(self, simulator: Simulator, home: Path) -> None:
        """U23: one renewal, one replay, and then no more, however many requests come."""
        log_in(simulator, home, user="somebody")
        simulator.account("somebody").close("401-expired")
        async with serving(simulator, home) as stage:
            for _ in range(3):
                answered = await stage.chat()
                status, code, message = error_of(answered)
                assert (status, code, answered.header("x-should-retry")) == (503, "no_healthy_account", "false")
                assert FREE_TIER_ENDED in message
                assert b"invalid access token" not in answered.content
                assert stage.token_posts == 1
            assert len(stage.bearers()) == 2
            assert [line["attempts"] for line in (await stage.lines())] == ["2", "0", "0"]
            assert stage.view("default").standing is Standing.CLOSED

    async def test_a_new_login_opens_it_again(self, simulator: Simulator, home: Path) -> None:
        log_in(simulator, home, user="somebody")
        simulator.account("somebody").close("401-expired")
        async with serving(simulator, home) as stage:
            await stage.chat()
            log_in(simulator, home, user="somebody-else")
            await until_noticed(lambda: stage.view("default").standing is Standing.READY)
            assert (await stage.chat()).status == 200

    async def test_the_login_is_dead(self, simulator: Simulator, home: Path) -> None:
        login = log_in(simulator, home)
        simulator.oauth.revoke("default")
        before = login_path(home).read_bytes()
        async with serving(simulator, home) as stage:
            for _ in range(2):
                answered = await stage.chat()
                status, code, message = error_of(answered)
                assert (status, code, answered.header("x-should-retry")) == (503, "no_healthy_account", "false")
                assert "`qproxy auth login`" in message
                assert stage.token_posts == 1
            assert stage.bearers() == [login.access_token]
            assert stage.view("default").standing is Standing.LOGIN_NEEDED
            assert login_path(home).read_bytes() == before
            log_in(simulator, home)
            await until_noticed(lambda: stage.view("default").standing is Standing.READY)
            assert (await stage.chat()).status == 200

    async def test_the_next_login_serves(self, simulator: Simulator, home: Path) -> None:
        log_in(simulator, home)
        log_in(simulator, home, "spare")
        simulator.account("default").close("401-expired")
        async with serving(simulator, home) as stage:
            assert (await stage.chat()).status == 200
            assert await stage.used() == ("spare", 3)
            assert (await stage.chat()).status == 200
            assert await stage.used() == ("spare", 1)
            assert stage.token_posts == 1

    async def test_a_stale_token_of_the_next_login_is_no_dead_login(self, simulator: Simulator, home: Path) -> None:
        """The request has renewed one token already; the other one is for the next request to renew."""
        log_in(simulator, home)
        spare = log_in(simulator, home, "spare")
        simulator.account("default").close("401-expired")
        simulator.oauth.expire(spare.access_token)
        async with serving(simulator, home) as stage:
            assert error_of(await stage.chat())[:2] == (503, "no_healthy_account")
            assert stage.token_posts == 1
            assert stage.view("spare").standing is Standing.READY
            assert (await stage.chat()).status == 200
            assert await stage.used() == ("spare", 2)
            assert stage.token_posts == 2

    async def test_every_login_is_refused(self, simulator: Simulator, home: Path) -> None:
        for account in ("default", "spare"):
            log_in(simulator, home, account)
            simulator.account(account).close("401-expired")
        async with serving(simulator, home) as stage:
            for number in (1, 2, 2, 2):
                answered = await stage.chat()
                status, code, message = error_of(answered)
                assert (status, code, answered.header("x-should-retry")) == (503, "no_healthy_account", "false")
                assert FREE_TIER_ENDED in message
                assert stage.token_posts == number
            assert "2 accounts: 2 are closed" in message

    async def test_an_upload_that_cannot_be_sent_again(self, simulator: Simulator, home: Path) -> None:
        """It is the client's to send again, with a token that is good by then."""
        login = log_in(simulator, home)
        simulator.oauth.expire(login.access_token)
        upload = request_head("POST", "/v1/files", b"Content-Length: 4") + b"file"
        async with serving(simulator, home) as stage, raw_client(stage.proxy.url) as client:
            given = await client.ask(upload)
            assert (given.status, given.error_code) == (503, "credentials_unavailable")
            assert given.header(b"retry-after") == b"1"
            assert stage.token_posts == 1
            async with raw_client(stage.proxy.url) as other:
                given = await other.ask(upload)
                assert given.status != 503
            assert len(stage.bearers()) == 2
            assert stage.token_posts == 1

    async def test_limits_of_a_lone_login_are_its_clients_to_see(self, simulator: Simulator, home: Path) -> None:
        log_in(simulator, home)
        simulator.account("default").answer_next("429-free", "403-quota", "400-context", "503")
        async with serving(simulator, home) as stage:
            statuses = [(await stage.chat()).status for _ in range(5)]
            assert statuses == [429, 403, 400, 503, 200]
            assert {line["attempts"] for line in (await stage.lines())} == {"1"}
            assert stage.token_posts == 0


class TestLoginsThatComeAndGo:
    async def test_there_is_none_at_first(self, simulator: Simulator, home: Path) -> None:
        async with serving(simulator, home) as stage:
            answered = await stage.chat()
            status, code, message = error_of(answered)
            assert (status, code) == (503, "credentials_unavailable")
            assert answered.header("retry-after") == "30"
            assert "qproxy auth login" in message
            log_in(simulator, home)
            await until_noticed(lambda: stage.proxy.app.accounts.state("qwen-oauth").startswith("valid"))
            assert (await stage.chat()).status == 200

    async def test_a_new_version_of_the_file_is_used(self, simulator: Simulator, home: Path) -> None:
        log_in(simulator, home, user="before")
        async with serving(simulator, home) as stage:
            await stage.chat()
            after = log_in(simulator, home, user="after")
            await anyio.sleep(1.2)  # how long a look at the file is good for
            await stage.chat()
            assert stage.bearers()[-1] == after.access_token

    async def test_a_second_login_takes_its_turns(self, simulator: Simulator, home: Path) -> None:
        first = log_in(simulator, home)
        async with serving(simulator, home, rotation="round_robin") as stage:
            await stage.chat()
            second = log_in(simulator, home, "second")
            await until_noticed(lambda: len(stage.proxy.app.accounts.views()) == 2)
            await stage.chat()
            await stage.chat()
            assert set(stage.bearers()) == {first.access_token, second.access_token}

    async def test_a_removed_login_finishes_its_stream(self, simulator: Simulator, home: Path) -> None:
        log_in(simulator, home)
        log_in(simulator, home, "second")
        async with serving(simulator, home) as stage, raw_client(stage.proxy.url) as client:
            simulator.account("second").answer_next("stall")
            await client.send(post(CHAT, BODY[:-1] + b',"stream":true}', b"X-Qwen-Account: second"))
            given = await client.begin()
            await client.until(given, b"data: ")
            login_path(home, "second").unlink()
            await until_noticed(lambda: stage.view("second").retired)
            assert stage.in_flight() == 1
            assert error_of(await stage.chat(x_qwen_account="second"))[:2] == (400, "unknown_account")
            simulator.release()
            assert await ending(client, given) is End.WHOLE
            assert given.body.endswith(b"data: [DONE]\n\n")
            await until_noticed(lambda: len(stage.proxy.app.accounts.views()) == 1)

    async def test_an_error_for_a_login_that_was_removed_meanwhile(self, simulator: Simulator, home: Path) -> None:
        """The client's own mistake stays the client's."""
        log_in(simulator, home)
        log_in(simulator, home, "second")
        told = anyio.Event()
        script = [expect_request(), wait_for(told), send(answer(400, [], b'{"error":{"message":"no"}}'))]
        async with scripted_upstream(script) as upstream:
            put_login(home, login_document(home, "second") | {"resource_url": upstream.url}, "second")
            async with serving(simulator, home) as stage, raw_client(stage.proxy.url) as client:
                await client.send(post(CHAT, BODY, b"X-Qwen-Account: second"))
                await until_noticed(lambda: bool(upstream.connections and upstream.connections[0].steps_done))
                login_path(home, "second").unlink()
                await until_noticed(lambda: stage.view("second").retired)
                told.set()
                given = await client.answer()
                assert (given.status, bytes(given.body)) == (400, b'{"error":{"message":"no"}}')

    @pytest.mark.parametrize("others", [(), ("second",)])
    async def test_a_login_that_is_removed_at_once(
        self, simulator: Simulator, home: Path, others: tuple[str, ...]
    ) -> None:
        """Its streams end broken, and whoever waits for an answer gets none. Also where it is the only login."""
        for account in ("default", *others):
            log_in(simulator, home, account)
        files = LoginFiles(home, login_path(home))
        async with serving(simulator, home) as stage, AsyncExitStack() as stack:
            streaming, waiting = [await stack.enter_async_context(raw_client(stage.proxy.url)) for _ in range(2)]
            simulator.account("default").answer_next("stall", "slow-head")
            await streaming.send(post(CHAT, BODY[:-1] + b',"stream":true}'))
            stream = await streaming.begin()
            await streaming.until(stream, b"data: ")
            await waiting.send(post(CHAT, BODY))
            await simulator.held(2)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, files.remove_at_once, "default", SEEN_S)
                assert await ending(streaming, stream) is End.FIN
                assert b"upstream_closed" in stream.body
                assert b"[DONE]" not in stream.body
                simulator.release()
                given = await waiting.answer()
                assert (given.status, given.error_code) == (503, "credentials_unavailable")
                answered = await stage.chat()
                assert answered.status == (200 if others else 503)
            await until_noticed(lambda: stage.in_flight() == 0)
            log_in(simulator, home)
            await until_noticed(lambda: stage.proxy.app.accounts.ids("qwen-oauth")[-1] == "default")
            await until_noticed(lambda: stage.proxy.app.logins.keepers()["default"].state().startswith("valid"))
            assert (await stage.chat(x_qwen_account="default")).status == 200

    async def test_the_only_login_is_removed(self, simulator: Simulator, home: Path) -> None:
        """Its stream is finished, and nothing new begins with the token that is still in memory."""
        log_in(simulator, home)
        files = LoginFiles(home, login_path(home))
        async with serving(simulator, home) as stage, raw_client(stage.proxy.url) as client:
            simulator.account("default").answer_next("stall")
            await client.send(post(CHAT, BODY[:-1] + b',"stream":true}'))
            stream = await client.begin()
            await client.until(stream, b"data: ")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, files.remove, "default", SEEN_S)
                await until_noticed(lambda: stage.proxy.app.accounts.state("qwen-oauth") == "not logged in")
                assert error_of(await stage.chat())[:2] == (503, "credentials_unavailable")
                simulator.release()
                assert await ending(client, stream) is End.WHOLE
            assert error_of(await stage.chat())[:2] == (503, "credentials_unavailable")
            assert len(stage.bearers()) == 1


class TestWhereATokenMayGo:
    """A08: a socket that listens there sees nothing."""

    @pytest.mark.parametrize("scheme", ["https", "http"])
    async def test_not_where_a_renewal_says(self, home: Path, scheme: str) -> None:
        async with scripted_upstream([]) as thief:
            options = Options(resource_url=thief.url.replace("http", scheme))
            async with running(options) as simulator:
                login = log_in(simulator, home)
                simulator.oauth.expire(login.access_token)
                async with serving(simulator, home) as stage:
                    for _ in range(2):
                        answered = await stage.chat()
                        assert answered.status == 503
                        assert FREE_TIER_ENDED in error_of(answered)[2]
                    assert stage.token_posts == 1
                    assert stage.bearers() == [login.access_token]
                    assert thief.connections == []

    @pytest.mark.parametrize("url", ["https://127.0.0.1:{port}/v1", "http://0.0.0.0:{port}/v1", "//127.0.0.1:{port}"])
    async def test_not_where_a_file_says(self, simulator: Simulator, home: Path, url: str) -> None:
        async with scripted_upstream([]) as thief:
            login = log_in(simulator, home)
            resource_url = url.format(port=port_of(thief.url))
            put_login(home, login.credentials(resource_url))
            async with serving(simulator, home) as stage:
                assert error_of(await stage.chat())[:2] == (503, "credentials_unavailable")
                assert thief.connections == []

    async def test_not_where_a_redirect_leads(self, simulator: Simulator, home: Path) -> None:
        """U33."""
        async with scripted_upstream([]) as thief:
            away = answer(307, [(b"location", thief.url.encode() + b"/v1/chat/completions")])
            async with scripted_upstream([expect_request(), send(away)]) as upstream:
                put_login(home, simulator.login().credentials(upstream.url))
                async with serving(simulator, home) as stage:
                    assert error_of(await stage.chat())[:2] == (502, "upstream_protocol_error")
                    assert thief.connections == []


async def ending(client: RawClient, given: RawAnswer) -> End:
    """How the body of an answer ends."""
    while given.end is End.OPEN:
        await client.more(given)
    return given.end


def login_document(home: Path, account: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(login_path(home, account).read_bytes())
    return document

"""The login side: device flow with PKCE, refresh tokens that work once, faults by script."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import anyio
import pytest

from qproxy.simulator import Options, Simulator, running
from qproxy.simulator.oauth import DEVICE_GRANT, challenge_of
from qproxy.simulator.options import CLIENT_ID
from tests.support.http_client import Answer, Client, http_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
VERIFIER = "a-verifier-of-43-characters-0123456789abcdefg"
TOKEN_PATH = "/api/v1/oauth2/token"


async def form(client: Client, path: str, **fields: str) -> Answer:
    fields = {"client_id": CLIENT_ID, **fields}
    return await client.ask(
        "POST", path, urlencode(fields).encode(), {"content-type": "application/x-www-form-urlencoded"}
    )


async def begin(client: Client, **fields: str) -> Answer:
    fields = {"scope": "openid", "code_challenge": challenge_of(VERIFIER), "code_challenge_method": "S256", **fields}
    return await form(client, "/api/v1/oauth2/device/code", **fields)


async def poll(client: Client, device_code: str, verifier: str = VERIFIER) -> Answer:
    return await form(client, TOKEN_PATH, grant_type=DEVICE_GRANT, device_code=device_code, code_verifier=verifier)


async def refresh(client: Client, refresh_token: str) -> Answer:
    return await form(client, TOKEN_PATH, grant_type="refresh_token", refresh_token=refresh_token)


async def models(client: Client, token: str) -> int:
    return (await client.get("/v1/models", authorization=f"Bearer {token}")).status


@pytest.fixture
async def parts(anyio_backend: object) -> AsyncIterator[tuple[Simulator, Client]]:
    async with running() as simulator, http_client(simulator.url) as client:
        yield simulator, client


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["error"]


async def test_the_challenge_is_that_of_the_rfc() -> None:
    assert challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


async def test_the_whole_device_flow(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    device = (await begin(client)).json()
    assert device["verification_uri_complete"].startswith(f"{simulator.url}/authorize?user_code=")
    assert (device["expires_in"], device["interval"]) == (600, 2)
    code = device["device_code"]
    assert error_of(await poll(client, code)) == (400, "authorization_pending")
    page = device["verification_uri_complete"].removeprefix(simulator.url)
    assert (await client.get(page)).status == 200
    assert error_of(await poll(client, code, "wrong" * 10)) == (400, "invalid_grant")
    tokens = (await poll(client, code)).json()
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 3600)
    assert "resource_url" not in tokens
    assert await models(client, tokens["access_token"]) == 200
    assert error_of(await poll(client, code)) == (401, "invalid_request")
    assert (await client.get("/authorize?user_code=NOBODY")).status == 404


async def test_a_user_can_say_no(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    device = (await begin(client)).json()
    assert simulator.oauth.deny(device["user_code"])
    assert error_of(await poll(client, device["device_code"])) == (400, "access_denied")


async def test_a_device_code_expires() -> None:
    async with running(Options(device_lifetime_s=0)) as simulator, http_client(simulator.url) as client:
        device = (await begin(client)).json()
        assert error_of(await poll(client, device["device_code"])) == (400, "expired_token")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"client_id": "someone"}, "invalid_client"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
    ],
)
async def test_logins_that_are_refused(parts: tuple[Simulator, Client], fields: dict[str, str], error: str) -> None:
    assert error_of(await begin(parts[1], **fields)) == (400, error)


async def test_token_requests_must_be_forms(parts: tuple[Simulator, Client]) -> None:
    answer = await parts[1].post(TOKEN_PATH, {"client_id": CLIENT_ID, "grant_type": "refresh_token"})
    assert error_of(answer) == (400, "invalid_client")
    assert error_of(await form(parts[1], TOKEN_PATH, grant_type="password")) == (400, "unsupported_grant_type")


async def test_a_refresh_token_works_once(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    login = simulator.login("alice")
    fresh = (await refresh(client, login.refresh_token)).json()
    assert fresh["refresh_token"] != login.refresh_token
    assert error_of(await refresh(client, login.refresh_token)) == (400, "invalid_grant")
    again = await refresh(client, fresh["refresh_token"])
    assert again.status == 200
    assert (simulator.oauth.refreshes, simulator.counters.requests) == (2, 3)
    assert simulator.oauth.account_of(again.json()["access_token"]) == "alice"


async def test_expired_and_unknown_access_tokens_are_refused(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    login = simulator.login()
    assert await models(client, login.access_token) == 200
    simulator.oauth.expire(login.access_token)
    answer = await client.get("/v1/models", authorization=f"Bearer {login.access_token}")
    assert (answer.status, answer.json()["error"]["message"]) == (401, "invalid access token or token expired")
    assert await models(client, "sim-access-from-elsewhere") == 401
    assert (await refresh(client, login.refresh_token)).status == 200


async def test_an_access_token_expires_by_itself() -> None:
    async with running(Options(token_lifetime_s=0)) as simulator, http_client(simulator.url) as client:
        assert await models(client, simulator.login().access_token) == 401


async def test_a_revoked_account_must_log_in_again(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    alice, bob = simulator.login("alice"), simulator.login("bob")
    simulator.oauth.revoke("alice")
    assert [await models(client, alice.access_token), await models(client, bob.access_token)] == [401, 200]
    assert error_of(await refresh(client, alice.refresh_token)) == (400, "invalid_grant")


async def test_limits_belong_to_the_user_and_not_to_the_token(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    login = simulator.login("alice")
    simulator.account("alice").limit(1, "429-free")
    assert await models(client, login.access_token) == 200
    fresh = (await refresh(client, login.refresh_token)).json()
    assert await models(client, fresh["access_token"]) == 429
    assert simulator.account(fresh["access_token"]) is simulator.account("alice")


async def test_answers_can_be_changed_field_by_field(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    simulator.oauth.answer_fields = {"refresh_token": None, "expires_in": "soon", "resource_url": "evil.example"}
    login = simulator.login()
    answer = (await refresh(client, login.refresh_token)).json()
    assert "refresh_token" not in answer
    assert (answer["expires_in"], answer["resource_url"]) == ("soon", "evil.example")
    assert (await refresh(client, login.refresh_token)).status == 200


async def test_faults_by_script_leave_the_api_alone(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    login = simulator.login()
    simulator.fail_next("oauth-slow-down-429", path="/oauth2/token")
    simulator.fail_next("504", path="/oauth2/token")
    simulator.fail_next("oauth-error-200", path="/oauth2/token")
    assert await models(client, login.access_token) == 200
    assert error_of(await refresh(client, login.refresh_token)) == (429, "slow_down")
    assert (await refresh(client, login.refresh_token)).status == 504
    assert error_of(await refresh(client, login.refresh_token)) == (200, "server_error")
    assert (await refresh(client, login.refresh_token)).status == 200


async def test_token_posts_are_counted_and_can_be_held(parts: tuple[Simulator, Client]) -> None:
    simulator, client = parts
    login = simulator.login()
    simulator.fail_next("slow-head", path="/oauth2/token")
    answers = []

    async def ask() -> None:
        answers.append(await refresh(client, login.refresh_token))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await simulator.held()
        assert simulator.oauth.token_posts == 1
        simulator.release()
    assert [answer.status for answer in answers] == [200]


async def test_credentials_have_the_five_keys_of_the_file(parts: tuple[Simulator, Client]) -> None:
    login = parts[0].login()
    content = login.credentials(parts[0].url, lifetime_s=-5)
    assert set(content) == {"access_token", "refresh_token", "token_type", "resource_url", "expiry_date"}
    assert login.access_token not in repr(login)
    assert login.refresh_token not in repr(login)

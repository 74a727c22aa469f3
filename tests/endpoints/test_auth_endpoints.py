"""The admin endpoints of a real server, with the simulator as the login's server and as the upstream."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from qproxy import app
from qproxy.edge.login_desk import MAX_OPEN
from qproxy.simulator import Options, Simulator
from qproxy.simulator import running as simulator_running
from tests.support.http_client import Answer, Client, http_client
from tests.support.live import settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

TOKEN = "/oauth2/token"
SECRETS = re.compile(rb"sim-access|sim-refresh|device_code|code_verifier|verifier")
BRIEF = Options(poll_interval_s=0.02)
PATHS = [("/auth/initiate", "/auth/poll"), ("/v1/debug/auth/initiate", "/v1/debug/auth/poll")]


@dataclass
class Stage:
    """A simulator, a proxy that logs in there, and a client of it."""

    simulator: Simulator
    client: Client
    home: Path

    async def begin(self, path: str = "/auth/initiate", **fields: str) -> dict[str, Any]:
        answer = await self.client.post(path, fields)
        assert answer.status == 200, answer.content
        assert not SECRETS.search(answer.content)
        begun: dict[str, Any] = answer.json()
        return begun

    async def poll(self, handle: str, path: str = "/auth/poll") -> dict[str, Any]:
        answer = await self.client.post(path, {"handle": handle})
        assert answer.status == 200
        assert not SECRETS.search(answer.content)
        standing: dict[str, Any] = answer.json()
        return standing

    async def ended(self, handle: str) -> dict[str, Any]:
        """How the login stands when it is open no more."""
        while (standing := await self.poll(handle))["state"] in ("pending", "slow_down"):
            await anyio.sleep(0.005)
        return standing

    def login(self, name: str = "oauth_creds.json") -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.home / name).read_text())
        return document


@asynccontextmanager
async def stage(home: Path, options: Options = BRIEF, **flags: object) -> AsyncIterator[Stage]:
    async with simulator_running(options) as simulator:
        given = {"qwen_home": str(home), "oauth_base_url": simulator.url, **flags}
        async with (
            app.running(settings_for(str(given.pop("upstream", "qwen-oauth")), None, **given)) as proxy,
            http_client(proxy.url) as client,
        ):
            yield Stage(simulator, client, home)


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def code_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["error"]["code"]


class TestLogin:
    @pytest.mark.parametrize(("initiate", "poll"), PATHS)
    async def test_a_login_is_begun_approved_and_kept(self, tmp_path: Path, initiate: str, poll: str) -> None:
        async with stage(tmp_path) as parts:
            begun = await parts.begin(initiate)
            assert sorted(begun) == [
                "expires_in", "handle", "interval", "user_code", "verification_uri", "verification_uri_complete",
            ]  # fmt: skip
            assert begun["verification_uri_complete"].startswith(f"{parts.simulator.url}/authorize?user_code=")
            assert (begun["expires_in"], begun["interval"]) == (600, 0.02)
            handle = begun["handle"]
            assert await parts.poll(handle, poll) == {"state": "pending", "interval": 0.02}
            assert parts.simulator.oauth.approve(begun["user_code"], "alice")
            assert await parts.ended(handle) == {"state": "done", "interval": 0.0}
            assert parts.simulator.oauth.account_of(parts.login()["access_token"]) == "alice"
            assert await parts.poll(handle) == {"state": "done", "interval": 0.0}

    async def test_another_account_has_a_file_of_its_own(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as parts:
            begun = await parts.begin(account="work")
            assert parts.simulator.oauth.approve(begun["user_code"], "bob")
            assert (await parts.ended(begun["handle"]))["state"] == "done"
            assert parts.simulator.oauth.account_of(parts.login("oauth_creds_work.json")["access_token"]) == "bob"
            assert not (tmp_path / "oauth_creds.json").exists()

    @pytest.mark.parametrize(
        ("scenario", "state"),
        [("oauth-denied", "denied"), ("oauth-expired", "expired"), ("oauth-invalid-grant", "failed")],
    )
    async def test_every_other_end(self, tmp_path: Path, scenario: str, state: str) -> None:
        async with stage(tmp_path) as parts:
            parts.simulator.fail_next(scenario, path=TOKEN)
            begun = await parts.begin()
            assert await parts.ended(begun["handle"]) == {"state": state, "interval": 0.0}
            assert names(tmp_path) == []

    async def test_slow_down_is_told(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as parts:
            parts.simulator.fail_next("oauth-slow-down", path=TOKEN)
            begun = await parts.begin()
            while (standing := await parts.poll(begun["handle"]))["state"] == "pending":
                await anyio.sleep(0.005)
            assert standing == {"state": "slow_down", "interval": pytest.approx(5.02)}

    async def test_a_login_that_cannot_be_saved_has_failed(self, tmp_path: Path) -> None:
        home = tmp_path / "file"
        async with stage(home) as parts:
            begun = await parts.begin()
            home.write_text("no folder")
            assert parts.simulator.oauth.approve(begun["user_code"])
            assert (await parts.ended(begun["handle"]))["state"] == "failed"

    async def test_a_token_for_a_foreign_host_is_not_kept(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as parts:
            parts.simulator.oauth.answer_fields = {"resource_url": "evil.example"}
            begun = await parts.begin()
            assert parts.simulator.oauth.approve(begun["user_code"])
            assert (await parts.ended(begun["handle"]))["state"] == "failed"
            assert names(tmp_path) == []

    async def test_an_unknown_handle_has_expired(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as parts:
            assert await parts.poll("made-up") == {"state": "expired", "interval": 0.0}

    async def test_there_are_only_so_many_at_once(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as parts:
            begun = [await parts.begin() for _ in range(MAX_OPEN)]
            assert len({each["handle"] for each in begun}) == MAX_OPEN
            answer = await parts.client.post("/auth/initiate", {})
            assert code_of(answer) == (429, "rate_limited")
            assert answer.header("retry-after") == "60"
            assert parts.simulator.oauth.deny(begun[0]["user_code"])
            await parts.ended(begun[0]["handle"])
            await parts.begin()

    async def test_the_logins_server_is_not_there(self, tmp_path: Path) -> None:
        async with stage(tmp_path, oauth_base_url="http://127.0.0.1:1") as parts:
            for _ in range(MAX_OPEN + 1):
                assert code_of(await parts.client.post("/auth/initiate", {})) == (502, "upstream_connect_failed")

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            ("/auth/initiate", b"{", None),
            ("/auth/initiate", b"[]", None),
            ("/auth/initiate", b'{"account": 5}', "account"),
            ("/auth/initiate", b'{"account": "../up"}', "account"),
            ("/auth/poll", b"", "handle"),
            ("/auth/poll", b'{"handle": null}', "handle"),
        ],
    )
    async def test_bodies_that_cannot_be_meant(self, tmp_path: Path, path: str, body: bytes, param: str | None) -> None:
        async with stage(tmp_path) as parts:
            answer = await parts.client.ask("POST", path, body, {})
            assert code_of(answer) == (400, "invalid_json")
            assert answer.json()["error"]["param"] == param


class TestAdmission:
    ROWS = (
        ("POST", "/auth/initiate"),
        ("POST", "/auth/poll"),
        ("GET", "/v1/debug/token"),
        ("GET", "/v1/debug/auth/test"),
        ("GET", "/v1/debug/prompts"),
    )

    @pytest.mark.parametrize(
        "headers", [{"origin": "http://127.0.0.1"}, {"x_forwarded_for": "10.0.0.1"}, {"host": "box"}, {"via": "1.1 a"}]
    )
    async def test_without_an_admin_key_only_this_machine(self, tmp_path: Path, headers: dict[str, str]) -> None:
        async with stage(tmp_path, cors_origins=("*",)) as parts:
            for method, path in self.ROWS:
                assert code_of(await parts.client.ask(method, path, b"", headers)) == (403, "admin_not_allowed")
            assert parts.simulator.counters.requests == 0

    async def test_with_one_whoever_has_it(self, tmp_path: Path) -> None:
        async with stage(tmp_path, admin_key="admin", api_keys=("client",)) as parts:
            for method, path in self.ROWS:
                for headers in ({}, {"authorization": "Bearer client"}):
                    assert code_of(await parts.client.ask(method, path, b"", headers)) == (401, "invalid_api_key")
            headers = {"x_api_key": "admin", "host": "box.example", "x_forwarded_for": "10.0.0.1"}
            assert (await parts.client.ask("POST", "/auth/initiate", b"", headers)).status == 200


class TestDiagnosis:
    async def test_logins_are_shown_without_names_and_secrets(self, tmp_path: Path) -> None:
        async with simulator_running(BRIEF) as simulator:
            for name, lives_s in (("oauth_creds.json", 3600), ("oauth_creds_work.json", -3600)):
                document = simulator.login().credentials(f"{simulator.url}/v1", lives_s)
                (tmp_path / name).write_text(json.dumps(document))
            async with stage(tmp_path) as parts:
                answer = await parts.client.get("/v1/debug/token")
        assert answer.status == 200
        assert not SECRETS.search(answer.content)
        assert b"work" not in answer.content
        first, second = answer.json()["accounts"]
        assert (first["id"], first["source"], first["state"]) == ("d…t", "file", "valid")
        assert first["expires_at"].endswith("Z")
        assert (second["id"], second["state"]) == ("w…k", "expired")
        assert set(first) == {"id", "source", "state", "expires_at", "last_refresh_at"}

    async def test_one_real_call(self, tmp_path: Path) -> None:
        async with simulator_running() as simulator:
            login = simulator.login()
            (tmp_path / "oauth_creds.json").write_text(json.dumps(login.credentials(f"{simulator.url}/v1")))
            async with stage(tmp_path) as parts:
                found = (await parts.client.get("/v1/debug/auth/test")).json()
                (request,) = simulator.requests
                assert (request.path, request.json()["max_tokens"]) == ("/v1/chat/completions", 1)
                assert (found["ok"], found["status"], found["hint"]) == (True, 200, "")
                assert found["ms"] > 0
                simulator.oauth.expire(login.access_token)
                found = (await parts.client.get("/v1/debug/auth/test")).json()
                assert (found["ok"], found["status"]) == (False, 401)
                assert "free tier behind this login ended" in found["hint"]

    async def test_an_upstream_without_a_known_model_is_asked_for_its_list(self, tmp_path: Path) -> None:
        async with simulator_running(Options(keys=frozenset({"right"}))) as simulator:
            for key, expected in (("right", (True, 200)), ("wrong", (False, 401))):
                async with stage(tmp_path, upstream=f"{simulator.url}/v1", upstream_key=key) as parts:
                    found = (await parts.client.get("/v1/debug/auth/test")).json()
                    assert (found["ok"], found["status"]) == expected
            assert [request.path for request in simulator.requests] == ["/v1/models", "/v1/models"]

    async def test_nothing_to_call(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as parts:
            found = (await parts.client.get("/v1/debug/auth/test")).json()
            assert (found["ok"], found["status"]) == (False, None)
            assert "qproxy auth login" in found["hint"]
        async with stage(tmp_path, upstream="http://127.0.0.1:1/v1") as parts:
            found = (await parts.client.get("/v1/debug/auth/test")).json()
            assert (found["ok"], found["status"]) == (False, None)
            assert "cannot be reached" in found["hint"]

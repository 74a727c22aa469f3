"""One request, several accounts: what the client sees of it, which is one clean answer or one clean error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.core.account import Standing
from tests.support.account_stage import CHAT, MODEL, error_of, key_stage, until_noticed, with_keys
from tests.support.live import settings_for
from tests.support.raw_client import post, raw_client, request_head
from tests.support.scripted_upstream import answer, expect_request, scripted_upstream, send

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


pytestmark = pytest.mark.anyio

BODY = b'{"model":"qwen3-coder-plus","messages":[{"role":"user","content":"Hello"}]}'
ONE, TWO, THREE, FOUR = "sk-one", "sk-two", "sk-three", "sk-four"
LIMITED = [
    *("429-quota", "429-free", "429-tokens", "429-rate", "429-throttling", "429-burst", "429-flat", "429-sse"),
    *("429-nested", "429-hour", "429-week", "429-month", "429-usage", "429-concurrency", "429-billing"),
    *("429-retry-after", "429-retry-after-ms", "429-retry-after-date"),
    *("403-quota", "403-free-tier", "403-denied", "403-purchase", "400-arrearage"),
]
REFUSED = ["401", "401-expired", "403-plan-key"]
BUSY = ["503", "503-retry-after"]
FINAL = [
    *("400", "400-context", "400-max-tokens", "400-thinking", "400-inspection", "400-flat", "400-sse", "400-nested"),
    *("404", "404-model", "404-unsupported", "500", "500-timeout"),
]
NOT_JSON = ["500-html", "502-text", "504"]


class TestAnotherAccountAnswers:
    @pytest.mark.parametrize("scenario", [*LIMITED, *REFUSED, *BUSY])
    async def test_the_client_sees_one_clean_answer(self, tmp_path: Path, scenario: str) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next(scenario)
            answered = await stage.chat()
            assert (answered.status, answered.json()["object"]) == (200, "chat.completion")
            assert not answered.header("retry-after")
            assert stage.bearers() == [ONE, TWO]
            assert await stage.used() == ("key-2", 2)

    @pytest.mark.parametrize("scenario", ["429-quota", "401", "503"])
    async def test_a_stream_begins_on_the_second_one(self, tmp_path: Path, scenario: str) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next(scenario)
            answered = await stage.stream()
            assert answered.content.endswith(b"data: [DONE]\n\n")
            assert all("choices" in event for event in answered.events())
            assert await stage.used() == ("key-2", 2)

    async def test_the_third_one_answers(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, THREE, FOUR) as stage:
            for key in (ONE, TWO):
                stage.simulator.account(key).answer_next("429-rate")
            assert (await stage.chat()).status == 200
            assert await stage.used() == ("key-3", 3)

    async def test_a_request_is_sent_three_times_at_most(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, THREE, FOUR) as stage:
            for key in (ONE, TWO, THREE):
                stage.simulator.account(key).answer_next("429-rate")
            status, code, _ = error_of(await stage.chat())
            assert (status, code) == (429, "limit_requests"), "the upstream's own words: one account was not asked"
            assert stage.bearers() == [ONE, TWO, THREE]
            assert await stage.used() == ("key-3", 3)

    async def test_the_connection_to_the_first_one_is_used_again(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next("429-rate")
            await stage.chat()
            assert {request.connection for request in stage.simulator.requests} == {1}


class TestTheAnswerIsTheClients:
    @pytest.mark.parametrize("scenario", FINAL)
    async def test_what_every_account_would_answer(self, tmp_path: Path, scenario: str) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next(scenario)
            answered = await stage.chat()
            assert answered.status == int(scenario[:3])
            assert b"InvalidParameter" in answered.content or b"error" in answered.content
            assert stage.bearers() == [ONE]
            assert await stage.used() == ("key-1", 1)
            assert stage.view("key-1").standing is Standing.READY
            assert (await stage.chat()).status == 200
            assert stage.bearers() == [ONE, ONE]

    @pytest.mark.parametrize("scenario", NOT_JSON)
    async def test_a_page_is_put_into_words(self, tmp_path: Path, scenario: str) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next(scenario)
            answered = await stage.chat()
            assert answered.status == int(scenario[:3])
            assert answered.json()["error"]["message"]
            assert await stage.used() == ("key-1", 1)

    @pytest.mark.parametrize("scenario", BUSY)
    async def test_all_of_them_are_busy(self, tmp_path: Path, scenario: str) -> None:
        """The upstream's own 503 passes, the last one, and no account is held to be at fault."""
        async with key_stage(tmp_path, ONE, TWO) as stage:
            for key in (ONE, TWO):
                stage.simulator.account(key).close(scenario)
            answered = await stage.chat()
            assert error_of(answered)[:2] == (503, "ModelServingError")
            assert answered.header("retry-after") == ("1" if scenario == "503-retry-after" else "")
            assert await stage.used() == ("key-2", 2)
            assert {each.standing for each in stage.proxy.app.accounts.views()} == {Standing.READY}

    async def test_an_answer_that_breaks_off_is_not_asked_for_again(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next("cut-before-head")
            assert error_of(await stage.chat())[:2] == (502, "upstream_closed")
            assert stage.bearers() == [ONE]

    async def test_an_upstream_that_cannot_be_reached(self, tmp_path: Path) -> None:
        settings = with_keys(settings_for("http://127.0.0.1:9/v1"), ONE, TWO)
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            given = await client.ask(post(CHAT, BODY))
            assert (given.status, given.error_code) == (502, "upstream_connect_failed")
            await until_noticed(lambda: {each.in_flight for each in proxy.app.accounts.views()} == {0})


ODD_ANSWERS = [
    (401, ((b"content-type", b"application/json"),), b'{ "error" : {"code":"invalid_api_key","message":"No."}}\n'),
    (403, ((b"content-type", b"text/plain;charset=utf-8"), (b"x-odd", b"yes")), b"insufficient_quota"),
    (429, ((b"content-type", b"application/json"), (b"retry-after", b"7")), b'{"code":"Throttling"}'),
    (429, ((b"content-type", b"text/event-stream"),), b'data: {"error":{"code":"insufficient_quota"}}\n\n'),
]


@pytest.mark.parametrize(("status", "headers", "body"), ODD_ANSWERS)
async def test_the_answer_to_a_lone_key_passes_byte_for_byte(
    status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> None:
    script = [expect_request(), send(answer(status, headers, body)), expect_request(), send(answer(200, body=b"{}"))]
    async with scripted_upstream(script) as upstream:
        settings = with_keys(settings_for(upstream.url + "/v1"), ONE)
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            given = await client.ask(post(CHAT, BODY))
            assert (given.status, bytes(given.body)) == (status, body)
            for name, value in headers:
                assert given.header(name) == value
            assert (await client.ask(post(CHAT, BODY))).status == 200
            assert len(upstream.connections) == 1


class TestAllAreOut:
    @pytest.mark.parametrize(
        ("scenarios", "retry_after"),
        [
            (("429-rate", "429-hour"), 60),
            (("429-hour", "429-rate"), 60),
            (("429-retry-after", "429-rate"), 2),
            (("429-retry-after-ms", "429-rate"), 1),
            (("403-quota", "400-arrearage"), 900),
            (("401", "429-usage"), 3600),
        ],
    )
    async def test_the_soonest_one_is_waited_for(
        self, tmp_path: Path, scenarios: tuple[str, str], retry_after: int
    ) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            for key, scenario in zip((ONE, TWO), scenarios, strict=True):
                stage.simulator.account(key).answer_next(scenario)
            answered = await stage.chat()
            status, code, message = error_of(answered)
            assert (status, code) == (429, "all_accounts_limited")
            assert retry_after - 2 <= int(answered.header("retry-after")) <= retry_after
            assert answered.header("x-should-retry") == "true"
            assert "2 accounts: " in message
            assert "key-1" not in message
            assert await stage.used() == ("key-2", 2)

    async def test_the_message_counts_the_states(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, THREE) as stage:
            for key, scenario in ((ONE, "401"), (TWO, "429-rate"), (THREE, "429-hour")):
                stage.simulator.account(key).answer_next(scenario)
            await stage.chat()
            message = error_of(await stage.chat())[2]
            assert "3 accounts: 2 are cooling down, 1 is closed" in message
            assert len(stage.bearers()) == 3, "nobody was asked again"
            last = (await stage.lines())[-1]
            assert (last["status"], last["account"], last["attempts"]) == ("429", "-", "0")

    async def test_every_key_is_wrong(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            for key in (ONE, TWO):
                stage.simulator.account(key).close("401")
            answered = await stage.chat()
            status, code, message = error_of(answered)
            assert (status, code, answered.header("x-should-retry")) == (503, "no_healthy_account", "false")
            assert "2 accounts: 2 are closed" in message
            assert "check or replace it" in message
            assert "Incorrect API key" not in answered.content.decode()

    async def test_as_many_as_are_tried(self, tmp_path: Path) -> None:
        """The last attempt finds out that nobody is left."""
        async with key_stage(tmp_path, ONE, TWO, THREE) as stage:
            for key in (ONE, TWO, THREE):
                stage.simulator.account(key).answer_next("429-rate")
            status, code, message = error_of(await stage.chat())
            assert (status, code) == (429, "all_accounts_limited")
            assert "3 accounts: 3 are cooling down" in message

    async def test_an_upload_meets_the_last_one(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage, raw_client(stage.proxy.url) as client:
            for key in (ONE, TWO):
                stage.simulator.account(key).close("403-quota")
            await stage.chat()
            await stage.simulator.completed(2)
            given = await client.ask(request_head("POST", "/v1/files", b"Content-Length: 4") + b"file")
            assert (given.status, given.error_code) == (429, "all_accounts_limited")
            assert len(stage.bearers()) == 2

    async def test_a_cooling_account_is_left_alone(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, rotation="round_robin") as stage:
            stage.simulator.account(ONE).answer_next("429-rate")
            for _ in range(4):
                assert (await stage.chat()).status == 200
            assert stage.bearers() == [ONE, TWO, TWO, TWO, TWO]

    async def test_a_limit_of_one_model_is_none_of_another(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next("429-rate")
            for model in (MODEL, MODEL, "qwen3-max"):
                assert (await stage.chat(model)).status == 200
            assert stage.bearers() == [ONE, TWO, TWO, ONE]

    async def test_a_wait_of_nothing_is_over(self, tmp_path: Path) -> None:
        """`Retry-After: 0` leaves the account usable, by the next request."""
        refusal = answer(429, ((b"content-type", b"application/json"), (b"retry-after", b"0")), b"{}")
        script = [*[expect_request(), send(refusal)] * 2, expect_request(), send(answer(200, body=b"{}"))]
        async with scripted_upstream(script) as upstream:
            settings = with_keys(settings_for(upstream.url + "/v1", rotation="fill_first"), ONE, TWO)
            async with app.running(settings) as proxy, raw_client(proxy.url) as client:
                given = await client.ask(post(CHAT, BODY))
                assert (given.status, given.error_code) == (429, "all_accounts_limited")
                assert given.header(b"retry-after") == b"1"
                assert (await client.ask(post(CHAT, BODY))).status == 200
                assert len(upstream.connections) == 1, "an answer that was read to its end costs no connection"


class TestARefusedKey:
    async def test_it_is_not_used_again(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next("401")
            for _ in range(3):
                assert (await stage.chat()).status == 200
            assert stage.bearers() == [ONE, TWO, TWO, TWO]
            assert stage.view("key-1").standing is Standing.CLOSED

    async def test_the_last_attempt_is_refused(self, tmp_path: Path) -> None:
        """There is an account that may take it, so the client is told to come again, not that its key is wrong."""
        async with key_stage(tmp_path, ONE, TWO, THREE, FOUR) as stage:
            for key in (ONE, TWO, THREE):
                stage.simulator.account(key).answer_next("401")
            answered = await stage.chat()
            assert error_of(answered)[:2] == (503, "credentials_unavailable")
            assert (answered.header("retry-after"), answered.header("x-should-retry")) == ("1", "true")
            assert (await stage.chat()).status == 200
            assert stage.bearers() == [ONE, TWO, THREE, FOUR]

    @pytest.mark.parametrize("beside", [1, 2])
    async def test_a_file_is_not_sent_again(self, tmp_path: Path, beside: int) -> None:
        keys = (ONE, TWO, THREE)[: beside + 1]
        async with key_stage(tmp_path, *keys) as stage, raw_client(stage.proxy.url) as client:
            stage.simulator.account(ONE).answer_next("401")
            given = await client.ask(request_head("POST", "/v1/files", b"Content-Length: 4") + b"file")
            assert (given.status, given.error_code) == (503, "credentials_unavailable")
            assert stage.bearers() == [ONE]
            assert stage.view("key-1").standing is Standing.CLOSED


class TestANamedAccount:
    async def test_it_is_used_and_its_name_goes_no_further(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            for name, key in (("key-2", TWO), ("key-1", ONE), ("key-2", TWO)):
                assert (await stage.chat(x_qwen_account=name)).status == 200
                request = stage.simulator.requests[-1]
                assert request.head.bearer == key
                assert b"x-qwen-account" not in request.head.raw.lower()
                assert b"key-" not in request.head.raw

    async def test_also_where_it_is_the_only_one(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE) as stage:
            assert (await stage.chat(x_qwen_account="key")).status == 200
            assert b"x-qwen-account" not in stage.simulator.requests[-1].head.raw.lower()

    @pytest.mark.parametrize("name", ["nobody", "key-3", "KEY-1", "", "\x7fodd".replace("\x7f", "%7f")])
    async def test_nobody_has_that_name(self, tmp_path: Path, name: str) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            answered = await stage.chat(x_qwen_account=name)
            status, code, message = error_of(answered)
            assert (status, code) == (400, "unknown_account")
            assert not name or name not in message
            assert stage.bearers() == []

    @pytest.mark.parametrize("scenario", ["429-rate", "403-quota", "401", "400-arrearage", "503"])
    async def test_its_own_answer_is_what_the_client_asked_for(self, tmp_path: Path, scenario: str) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(TWO).answer_next(scenario)
            answered = await stage.chat(x_qwen_account="key-2")
            assert answered.status == int(scenario[:3])
            assert error_of(answered)[1] not in ("all_accounts_limited", "no_healthy_account")
            assert stage.bearers() == [TWO]

    async def test_others_learn_from_its_answer(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, rotation="round_robin") as stage:
            stage.simulator.account(TWO).answer_next("401")
            await stage.chat(x_qwen_account="key-2")
            for _ in range(2):
                assert (await stage.chat()).status == 200
            assert stage.bearers() == [TWO, ONE, ONE]

    async def test_while_it_cools_down(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(TWO).answer_next("429-rate")
            await stage.chat(x_qwen_account="key-2")
            answered = await stage.chat(x_qwen_account="key-2")
            assert error_of(answered)[:2] == (429, "all_accounts_limited")
            assert int(answered.header("retry-after")) in (59, 60)
            assert stage.bearers() == [TWO]


class TestRotation:
    @pytest.mark.parametrize(
        ("rotation", "expected"),
        [
            ("round_robin", [ONE, TWO, THREE, ONE, TWO]),
            ("fill_first", [ONE] * 5),
            ("least_in_flight", [ONE, TWO, THREE, ONE, TWO]),
        ],
    )
    async def test_by_setting(self, tmp_path: Path, rotation: str, expected: list[str]) -> None:
        async with key_stage(tmp_path, ONE, TWO, THREE, rotation=rotation) as stage:
            for _ in expected:
                await stage.chat()
            assert stage.bearers() == expected

    async def test_the_least_busy_one(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, rotation="least_in_flight") as stage:
            stage.simulator.account(ONE).answer_next("slow-head")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stage.chat)
                await stage.simulator.held()
                for _ in range(3):
                    await stage.chat()
                assert stage.bearers() == [ONE, TWO, TWO, TWO]
                assert stage.in_flight() == 1
                stage.simulator.release()

    async def test_a_conversation_that_grows_stays_on_its_account(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, THREE, rotation="sticky") as stage:
            talks = [[{"role": "user", "content": f"{number} " * 800}] for number in range(3)]
            for turn in range(4):
                for talk in talks:
                    body = {"model": MODEL, "messages": talk}
                    assert (await stage.client.post(CHAT, body)).status == 200
                    talk.append({"role": "assistant", "content": f"answer {turn} " * 40})
                    talk.append({"role": "user", "content": "and then? " * 40})
            used = stage.bearers()
            assert sorted(used[:3]) == sorted((ONE, TWO, THREE))
            assert used == used[:3] * 4

    async def test_a_long_conversation_that_goes_up_while_it_arrives(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, rotation="sticky") as stage:
            talk = [{"role": "user", "content": "no end to it. " * 50_000}]
            for number in range(3):
                assert (await stage.client.post(CHAT, {"messages": talk, "model": MODEL})).status == 200
                assert (await stage.chat()).status == 200
                talk.append({"role": "user", "content": f"more {number}"})
            long_ones = [request for request in stage.simulator.requests if len(request.body) > 500_000]
            assert len({request.head.bearer for request in long_ones}) == 1
            assert [line["up"] for line in (await stage.lines())] == ["live", "stored"] * 3

    async def test_a_conversation_moves_with_its_account_out(self, tmp_path: Path) -> None:
        async with key_stage(tmp_path, ONE, TWO, rotation="sticky") as stage:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hello " * 500}]}
            stage.simulator.account(ONE).limit(1, "429-free")
            for _ in range(4):
                assert (await stage.client.post(CHAT, body)).status == 200
            assert stage.bearers() == [ONE, ONE, TWO, TWO, TWO]


async def test_the_list_of_models_is_asked_for_with_an_account(tmp_path: Path) -> None:
    async with key_stage(tmp_path, ONE, TWO) as stage:
        assert json.loads((await stage.client.get("/v1/models")).content)["data"]
        assert stage.bearers() == [ONE]

"""A second attempt sends what the first one did, byte for byte, however much of it had gone up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import orjson
import pytest

from qproxy import app
from qproxy.simulator import Options, running
from tests.support.account_stage import account_stage, until_noticed, with_keys
from tests.support.live import settings_for
from tests.support.raw_client import End, chunks, post, raw_client, request_head
from tests.support.scripted_upstream import answer, close, expect_head, expect_request, scripted_upstream, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qproxy.config import Settings
    from tests.support.account_stage import AccountStage
    from tests.support.scripted_upstream import Connection, Step

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
JSON = b"Content-Type: application/json"
ONE, TWO, THREE = "sk-one", "sk-two", "sk-three"
MODEL = "qwen3-coder-plus"
NAME = f"default:{MODEL}"  # so that no attempt sends the bytes as they came
SMALL, STORED, LONG = 200, 100 * 1024, 700 * 1024
PIECE_BYTES = 100_000
LIMITED = answer(429, [(b"connection", b"close")], b'{"error":{"code":"insufficient_quota"}}')
GOOD = answer(200, [(b"content-type", b"application/json")], b"{}")


def body_of(size: int, *, model_first: bool = True) -> bytes:
    text = "no end to it. "
    messages = {"messages": [{"role": "user", "content": text * (size // len(text))}]}
    named = {"model": NAME}
    return orjson.dumps(named | messages if model_first else messages | named)


def settings_of(url: str, *keys: str) -> Settings:
    return with_keys(settings_for(url, rotation="fill_first"), *keys)


def renamed(body: bytes) -> bytes:
    """As it goes up where all of it is stored, or its beginning shows the model."""
    return body.replace(NAME.encode(), MODEL.encode())


def head_of(body: bytes, *lines: bytes) -> bytes:
    return request_head("POST", CHAT, JSON, b"Content-Length: %d" % len(body), *lines)


def cut(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


@asynccontextmanager
async def stage_of(folder: Path, *keys: str) -> AsyncIterator[AccountStage]:
    async with running(Options(tokens=2)) as simulator:
        async with account_stage(simulator, settings_of(simulator.base_url, *keys), folder) as stage:
            yield stage


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("size", [SMALL, STORED, LONG])
@pytest.mark.parametrize("scenario", ["429-quota", "401", "503", "early-429", "early-401"])
async def test_the_same_bytes_go_to_the_next_account(
    tmp_path: Path, size: int, model_first: bool, scenario: str
) -> None:
    body = body_of(size, model_first=model_first)
    async with stage_of(tmp_path, ONE, TWO) as stage, raw_client(stage.proxy.url) as client:
        await client.send(head_of(body), *cut(body))
        assert (await client.answer()).status == 200
        stage.simulator.account(ONE).answer_next(scenario)
        await client.send(head_of(body), *cut(body))
        given = await client.answer()
        assert (given.status, given.end) == (200, End.WHOLE)
        once, *again = [bytes(request.body) for request in stage.simulator.requests]
        assert orjson.loads(once) == orjson.loads(renamed(body))
        assert again == [once] * (1 if scenario.startswith("early") else 2)
        assert stage.simulator.requests[-1].head.bearer == TWO
        assert await stage.used() == ("key-2", 2)
        assert (await stage.lines())[-1]["up"] == ("live" if size == LONG else "stored")
        assert (await client.ask(post(CHAT, body_of(SMALL)))).status == 200, "the client's connection lives on"


def answers_early(behind_bytes: int) -> list[Step]:
    """429 as soon as so many bytes of the body have come; then nothing more is read."""

    async def take_some(connection: Connection) -> None:
        await connection.read_exactly(behind_bytes)

    return [expect_head(), take_some, send(LIMITED)]


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("behind_bytes", [0, 1, 20_000, 200_000, 1_500_000])
async def test_a_refusal_in_the_middle_of_an_upload(tmp_path: Path, behind_bytes: int, model_first: bool) -> None:
    """4 MB, of which the first account's upstream takes some and answers. The rest is still at the client."""
    body = body_of(4 * 1024 * 1024, model_first=model_first)
    half = len(body) // 2
    whole = [expect_request(), send(GOOD), close()]
    async with (
        scripted_upstream(whole, answers_early(behind_bytes), whole) as upstream,
        app.running(settings_of(upstream.url + "/v1", ONE, TWO)) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(head_of(body), *cut(body))
        assert (await client.answer()).status == 200
        await client.send(head_of(body), *cut(body[:half]))
        await (await upstream.connected(2)).peer_left.wait()
        assert len(upstream.connections) == 2, "the next attempt waits until all of the body is here"
        await client.send(*cut(body[half:]))
        given = await client.answer()
        assert (given.status, given.end) == (200, End.WHOLE)
        once, _, again = [each.received.partition(b"\r\n\r\n")[2] for each in upstream.connections]
        assert again == once
        assert orjson.loads(once) == orjson.loads(renamed(body))
        await until_noticed(lambda: {each.in_flight for each in proxy.app.accounts.views()} == {0})


async def test_every_account_refuses_it_early(tmp_path: Path) -> None:
    body = body_of(1024 * 1024)
    async with (
        scripted_upstream(*[answers_early(1000)] * 3) as upstream,
        app.running(settings_of(upstream.url + "/v1", ONE, TWO, THREE)) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(post(CHAT, body))
        given = await client.answer()
        assert (given.status, given.error_code) == (429, "all_accounts_limited")
        assert len(upstream.connections) == 3
        await until_noticed(lambda: {each.in_flight for each in proxy.app.accounts.views()} == {0})


async def test_a_client_that_waits_for_an_invitation(tmp_path: Path) -> None:
    body = body_of(LONG)
    async with stage_of(tmp_path, ONE, TWO) as stage, raw_client(stage.proxy.url) as client:
        stage.simulator.account(ONE).answer_next("early-429")
        await client.send(head_of(body, b"Expect: 100-continue"))
        interim = await client.begin()
        assert interim.status == 100
        await client.send(*cut(body))
        assert (await client.answer()).status == 200
        assert bytes(stage.simulator.requests[-1].body) == renamed(body)


async def test_a_body_in_chunks(tmp_path: Path) -> None:
    body = body_of(STORED)
    async with stage_of(tmp_path, ONE, TWO) as stage, raw_client(stage.proxy.url) as client:
        stage.simulator.account(ONE).answer_next("429-quota")
        await client.send(request_head("POST", CHAT, JSON, b"Transfer-Encoding: chunked"), *chunks(cut(body)))
        assert (await client.answer()).status == 200
        first, second = stage.simulator.requests
        assert bytes(first.body) == bytes(second.body) == renamed(body)
        assert first.header("content-length") == second.header("content-length") == str(len(renamed(body)))


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("scenario", ["429-quota", "503", "403-quota"])
async def test_what_is_passed_on_unseen_is_sent_once(tmp_path: Path, framing: str, scenario: str) -> None:
    async with stage_of(tmp_path, ONE, TWO) as stage, raw_client(stage.proxy.url) as client:
        stage.simulator.account(ONE).answer_next(scenario)
        if framing == "length":
            await client.send(request_head("POST", "/v1/files", b"Content-Length: 4"), b"file")
        else:
            await client.send(request_head("POST", "/v1/files", b"Transfer-Encoding: chunked"), *chunks([b"file"]))
        given = await client.answer()
        assert (given.status, given.end) == (int(scenario[:3]), End.WHOLE)
        assert await stage.used() == ("key-1", 1)
        assert stage.bearers() == [ONE]


async def test_the_rest_of_the_body_is_too_long_in_coming(tmp_path: Path) -> None:
    """The client gives up on its upload between two attempts: nobody is asked again."""
    body = body_of(LONG)
    async with (
        scripted_upstream(answers_early(1000), [expect_request(), send(GOOD)]) as upstream,
        app.running(settings_of(upstream.url + "/v1", ONE, TWO)) as proxy,
    ):
        async with raw_client(proxy.url) as client:
            await client.send(post(CHAT, body)[: LONG // 2])
            await (await upstream.connected()).peer_left.wait()
        await until_noticed(lambda: {each.in_flight for each in proxy.app.accounts.views()} == {0})
        assert len(upstream.connections) == 1

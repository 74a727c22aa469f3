"""`/v1/tokenize` and `/v1/messages/count_tokens`, over sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qproxy import app
from tests.support.http_client import Client, http_client
from tests.support.live import settings_for
from tests.support.vocabulary import qwen

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def asking(**flags: Any) -> AsyncIterator[Client]:
    async with app.running(settings_for("http://127.0.0.1:1/v1", **flags)) as proxy, http_client(proxy.url) as client:
        yield client


async def test_tokenize() -> None:
    async with asking() as client:
        answer = await client.post("/v1/tokenize", {"model": "qwen3-8b", "prompt": "one two three"})
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        assert answer.json() == {"count": 3, "max_model_len": 262_144, "exact": True}
        messages = [{"role": "user", "content": "one two three"}]
        asked = {"model": "qwen3-8b", "messages": messages, "return_tokens": True}
        found = (await client.post("/v1/tokenize", asked)).json()
        assert found["count"] == len(found["tokens"]) == 3 + 5 + 3
        assert found["tokens"][3:6] == qwen().ids("one two three")
        found = (await client.post("/v1/tokenize", {**asked, "return_tokens": False})).json()
        assert found == {"count": 11, "max_model_len": 262_144, "exact": True}


async def test_models_of_another_vocabulary_are_estimates() -> None:
    async with asking() as client:
        for model, window_tokens in (("qwen3.5-plus", 1_000_000), ("some-model", None)):
            answer = await client.post("/v1/tokenize", {"model": model, "prompt": "one two three"})
            assert answer.json() == {"count": 3, "max_model_len": window_tokens, "exact": False}


async def test_count_tokens() -> None:
    async with asking() as client:
        body = {"model": "qwen3-8b", "system": "Be brief.", "messages": [{"role": "user", "content": "one two three"}]}
        answer = await client.post("/v1/messages/count_tokens", body)
        assert (answer.status, answer.json()) == (200, {"input_tokens": 11 + 5 + 3})


@pytest.mark.parametrize("path", ["/v1/tokenize", "/v1/messages/count_tokens"])
async def test_what_is_wrong_with_a_request_is_said(path: str) -> None:
    async with asking() as client:
        for body in (b"", b"[]", b'{"model": "x"}', b'{"messages": "x"}', b'{"messages": [{"role": "user", "text": '):
            answer = await client.ask("POST", path, body, {})
            assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_json")
            assert answer.json()["error"]["message"]


async def test_long_bodies_are_taken_and_keys_are_asked_for() -> None:
    async with asking(api_keys=("secret",)) as client:
        body = {"model": "qwen3-8b", "prompt": "word " * 100_000}
        assert (await client.post("/v1/tokenize", body)).status == 401
        answer = await client.post("/v1/tokenize", body, authorization="Bearer secret")
        assert answer.json()["count"] == 100_001
    async with asking(body_bytes=2048) as client:
        answer = await client.post("/v1/tokenize", {"prompt": "word " * 500})
        assert (answer.status, answer.json()["error"]["code"]) == (413, "body_too_large")

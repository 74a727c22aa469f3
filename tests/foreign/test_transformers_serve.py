"""`qproxy serve` in front of a real model server of other people: `transformers serve` with a tiny random Qwen3.

It answers in its own ways: no `[DONE]`, errors in a shape of its own, no model list. What comes through the proxy is
compared with what it says when it is asked directly: without sampling, equal questions get equal answers, and the id of
an answer is the request id it is given.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpcore
import openai
import pytest

from tests.support.foreign_server import MODEL, foreign_server, installed_program
from tests.support.shell import BACKENDS, Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)  # the first start of the server compiles what it imports

CHAT = "/chat/completions"
TOKENS = 24
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Grüße 通义"}], "max_tokens": TOKENS, "temperature": 0}
OWN_HEADERS = {b"x-accel-buffering", b"cache-control"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with foreign_server(installed_program(), tmp_path_factory.mktemp("foreign")) as base_url:
        yield base_url


@pytest.fixture(scope="module", params=BACKENDS)
def proxy(request: pytest.FixtureRequest, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    shell = Shell(tmp_path_factory.mktemp("proxy"))
    with shell.serving("--backend", request.param, "--upstream", server) as (url, _):
        yield f"{url}/v1"


def sdk(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(api_key="unused", base_url=base_url, max_retries=0)


def post(base_url: str, path: str, content: object) -> httpcore.Response:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"the-same")]
    return httpcore.request("POST", base_url + path, headers=headers, content=json.dumps(content).encode())


def without_times(body: bytes) -> bytes:
    return re.sub(rb'"(created|created_at)":[\d.]+', rb'"\1":0', body)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CHAT, ASK),
        (CHAT, ASK | {"stream": True}),
        ("/completions", {"model": MODEL, "prompt": "Grüße", "max_tokens": TOKENS, "temperature": 0, "stream": True}),
        ("/responses", {"model": MODEL, "input": "hi", "max_output_tokens": TOKENS, "temperature": 0, "stream": True}),
    ],
    ids=["chat", "chat-stream", "completions-stream", "responses-stream"],
)
def test_every_byte_of_an_answer_comes_through(server: str, proxy: str, path: str, content: object) -> None:
    direct, proxied = post(server, path, content), post(proxy, path, content)
    assert (proxied.status, without_times(proxied.content)) == (200, without_times(direct.content))
    assert b"[DONE]" not in proxied.content
    names = [{name.lower() for name, _ in response.headers} for response in (direct, proxied)]
    assert names[1] - names[0] <= OWN_HEADERS


def test_the_sdk_chats(server: str, proxy: str) -> None:
    def ask(base_url: str) -> openai.types.chat.ChatCompletion:
        with sdk(base_url) as client:
            return client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=TOKENS, temperature=0
            )

    direct, proxied = ask(server), ask(proxy)
    assert proxied.choices == direct.choices
    assert proxied.choices[0].finish_reason == "length"
    assert proxied.usage == direct.usage
    assert proxied.usage is not None
    assert proxied.usage.completion_tokens == TOKENS


def streamed(base_url: str) -> list[openai.types.chat.ChatCompletionChunk]:
    with (
        sdk(base_url) as client,
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream,
    ):
        return list(stream)


def test_a_stream_without_done_is_whole_for_the_sdk(server: str, proxy: str) -> None:
    direct, proxied = streamed(server), streamed(proxy)
    assert [chunk.choices for chunk in proxied] == [chunk.choices for chunk in direct]
    assert len(proxied) > 3
    assert proxied[-1].choices[0].finish_reason == "length"
    assert proxied[-1].usage is not None
    assert proxied[-1].usage.completion_tokens == TOKENS


def test_streams_at_the_same_time_do_not_mix(server: str, proxy: str) -> None:
    expected = [chunk.choices for chunk in streamed(server)]
    with ThreadPoolExecutor(4) as threads:
        for chunks in threads.map(streamed, [proxy] * 8):
            assert [chunk.choices for chunk in chunks] == expected
            assert len({chunk.id for chunk in chunks}) == 1


def test_a_client_that_leaves_stops_nothing(proxy: str) -> None:
    with sdk(proxy) as client:
        for _ in range(3):
            stream = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=3000, stream=True
            )
            assert next(stream).choices[0].delta.role == "assistant"
            stream.close()
    assert streamed(proxy)[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"model": "another"}, 400, openai.BadRequestError),
        ({"no_such_field": 0}, 422, openai.UnprocessableEntityError),
    ],
)
def test_its_errors_pass_in_their_own_shape(
    server: str, proxy: str, changes: dict[str, object], status: int, error: type[openai.APIStatusError]
) -> None:
    direct, proxied = post(server, CHAT, ASK | changes), post(proxy, CHAT, ASK | changes)
    assert (proxied.status, proxied.content) == (status, direct.content)
    assert "detail" in json.loads(proxied.content)
    with sdk(proxy) as client, pytest.raises(error) as caught:
        client.post(CHAT, body=ASK | changes, cast_to=object)
    assert caught.value.body == json.loads(direct.content)


def test_a_plain_text_500_gets_our_envelope(server: str, proxy: str) -> None:
    direct, proxied = post(server, CHAT, {"model": MODEL}), post(proxy, CHAT, {"model": MODEL})
    assert (direct.status, direct.content) == (500, b"Internal Server Error")
    assert proxied.status == 500
    assert json.loads(proxied.content)["error"]["code"] == "upstream_error"
    assert [name.lower() for name, _ in proxied.headers].count(b"x-request-id") == 1


def test_an_error_in_its_stream_is_an_error_for_the_sdk(proxy: str) -> None:
    with sdk(proxy) as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=-1, stream=True
        )
        assert next(stream).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError) as caught:
            next(stream)
        stream.close()
    assert caught.value.body == "`max_new_tokens` must be greater than 0, but is -1."


def test_a_model_list_that_fails_is_no_empty_list(server: str, proxy: str) -> None:
    """Without a model cache the server cannot list models; what it serves is not known to us."""
    assert httpcore.request("GET", f"{server}/models").status == 500
    with sdk(proxy) as client, pytest.raises(openai.InternalServerError, match="model list answered 500") as caught:
        client.models.list()
    assert caught.value.status_code == 502
    assert streamed(proxy)[-1].choices[0].finish_reason == "length"

"""What goes wrong becomes the right class of the official SDK, once or repeated as the proxy says."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import openai
import pytest

from qproxy.simulator import Options
from qproxy.simulator.text import tokens
from tests.support.sdk_stage import CLIENT_KEY, UPSTREAM_KEY, Stage, canned, canned_json, keyed, stage_on

if TYPE_CHECKING:
    from pathlib import Path

    from openai.types.chat import ChatCompletionMessageParam

ANSWER = "".join(tokens(16))
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


def ask(client: openai.OpenAI, model: str, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=HI, **more)


def text_of(chunk: Any) -> str:
    return chunk.choices[0].delta.content or ""


def body_of(error: openai.APIError) -> dict[str, Any]:
    assert isinstance(error.body, dict)
    return error.body


def test_a_wrong_client_key_reaches_no_upstream(client: openai.OpenAI, stage: Stage) -> None:
    wrong = client.with_options(api_key="sk-wrong", max_retries=2)

    def call() -> None:
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(wrong, "qwen3-max")
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
        assert "sk-wrong" not in str(caught.value)

    assert stage.attempts(call) == 0


def test_a_wrong_upstream_key_shows_the_upstreams_answer(backend: str) -> None:
    with (
        stage_on(backend, Options(keys=frozenset({"another"}))) as stage,
        openai.OpenAI(base_url=stage.base_url, api_key=CLIENT_KEY, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"),
    ):
        ask(client, "qwen3-max")


@pytest.mark.parametrize(
    ("scenario", "error", "code"),
    [
        ("400", openai.BadRequestError, "invalid_parameter_error"),
        ("403-quota", openai.PermissionDeniedError, "insufficient_quota"),
        ("404-model", openai.NotFoundError, "model_not_found"),
        ("429-quota", openai.RateLimitError, "insufficient_quota"),
        ("429-burst", openai.RateLimitError, "limit_burst_rate"),
        ("500", openai.InternalServerError, "internal_error"),
        ("503", openai.InternalServerError, "ModelServingError"),
        ("early-401", openai.AuthenticationError, "invalid_api_key"),
        ("early-429", openai.RateLimitError, "insufficient_quota"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_upstreams_errors_pass(
    client: openai.OpenAI, stage: Stage, scenario: str, error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    stage.fail_next(scenario)
    with pytest.raises(error) as caught:
        ask(client, "qwen3-max", stream=stream)
    assert caught.value.code == code
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("scenario", "code", "limit"),
    [("400-context", "context_length_exceeded", "258048"), ("400-max-tokens", "invalid_request", "65536")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_too_much_for_a_model_is_said_clearly(
    client: openai.OpenAI, stage: Stage, scenario: str, code: str, limit: str, stream: bool
) -> None:
    stage.fail_next(scenario)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "qwen3-max", stream=stream)
    assert caught.value.code == code
    assert limit in caught.value.message


@pytest.mark.parametrize(
    ("scenario", "status", "code"),
    [
        ("500-html", 500, "upstream_error"),
        ("502-text", 502, "upstream_error"),
        ("504", 504, "upstream_error"),
        ("html-waf", 502, "upstream_protocol_error"),
        ("redirect", 502, "upstream_protocol_error"),
        ("reset-before-head", 502, "upstream_closed"),
        ("cut-before-head", 502, "upstream_closed"),
        ("cut-in-head", 502, "upstream_closed"),
    ],
)
def test_an_upstream_that_answers_nothing_usable(client: openai.OpenAI, scenario: str, status: int, code: str) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, f"sim-{scenario}")
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert body_of(caught.value)["message"]
    assert UPSTREAM_KEY not in caught.value.response.text


@pytest.mark.parametrize(
    ("scenario", "code"), [("cut-after-head", "upstream_closed"), ("empty-stream", "upstream_protocol_error")]
)
def test_a_stream_that_says_nothing_is_an_answer_of_its_own(client: openai.OpenAI, scenario: str, code: str) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, f"sim-{scenario}", stream=True)
    assert (caught.value.status_code, caught.value.code) == (502, code)


@pytest.mark.parametrize("scenario", ["cut", "truncate", "reset", "error-in-stream"])
def test_a_stream_that_breaks_between_events_says_so(client: openai.OpenAI, scenario: str) -> None:
    got: list[str] = []
    with pytest.raises(openai.APIError) as caught:
        got.extend(text_of(chunk) for chunk in ask(client, f"sim-{scenario}", stream=True))
    code = {"truncate": "stream_truncated", "error-in-stream": "internal_error"}.get(scenario, "upstream_closed")
    assert (body_of(caught.value)["code"], not isinstance(caught.value, openai.APIStatusError)) == (code, True)
    arrived = {"truncate": 17}.get(scenario, 3)
    assert got == ["", *tokens(16)][:arrived]


def test_an_error_as_the_first_event_is_an_answer_of_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, "sim-error-first-event", stream=True)
    assert (caught.value.status_code, caught.value.code) == (429, "limit_requests")


def test_a_stream_that_breaks_inside_an_event_ends_without_an_end(client: openai.OpenAI) -> None:
    got: list[str] = []
    with pytest.raises(openai.APIConnectionError):
        got.extend(text_of(chunk) for chunk in ask(client, "sim-cut-in-event", stream=True))
    assert got == ["", *tokens(2)]


@pytest.mark.parametrize("scenario", ["cut", "reset"])
def test_a_plain_answer_that_breaks_is_no_answer(client: openai.OpenAI, scenario: str) -> None:
    with pytest.raises(openai.APIConnectionError):
        ask(client, f"sim-{scenario}")


def test_a_broken_exchange_leaves_the_client_usable(client: openai.OpenAI) -> None:
    """The proxy says before the end that the connection ends, so no second call is sent into a closing one."""
    for scenario in ("cut", "truncate", "early-413", "reset-before-head") * 3:
        with pytest.raises(openai.APIError):
            list(ask(client, f"sim-{scenario}", stream=True))
        assert ask(client, "qwen3-max").choices[0].message.content == ANSWER


def test_the_proxys_own_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as lost:
        client.post("/chat/completion", body={}, cast_to=object)
    assert (lost.value.code, "/v1/chat/completions" in lost.value.message) == ("unknown_route", True)
    with pytest.raises(openai.APIStatusError) as method:
        client.get("/chat/completions", cast_to=object)
    assert (method.value.status_code, method.value.response.headers["allow"]) == (405, "OPTIONS, POST")
    with pytest.raises(openai.BadRequestError) as twice:
        client.post("/chat/completions", content=b'{"model":"a","model":"b"}', cast_to=object, options=_as_json())
    assert (twice.value.code, twice.value.param) == ("duplicate_key", "model")


def _as_json() -> Any:
    return {"headers": {"content-type": "application/json"}}


def test_a_refused_connection(backend: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with (
            stage_on(backend, settings=lambda _: keyed(f"http://127.0.0.1:{port}/v1")) as stage,
            openai.OpenAI(base_url=stage.base_url, api_key=CLIENT_KEY, max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as caught,
        ):
            ask(client, "qwen3-max")
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_connect_failed")


@pytest.mark.parametrize(
    ("scenario", "attempts"),
    [("reset-before-head", 2), ("redirect", 2), ("429-retry-after-ms", 2), ("400", 1), ("404-model", 1)],
)
def test_how_often_the_sdk_tries(client: openai.OpenAI, stage: Stage, scenario: str, attempts: int) -> None:
    """The proxy adds no attempt of its own: what the SDK may repeat is its own affair."""
    trying = client.with_options(max_retries=1)

    def call() -> None:
        with pytest.raises(openai.APIStatusError):
            ask(trying, f"sim-{scenario}")

    assert stage.attempts(call) == attempts


def test_a_second_try_succeeds_where_the_first_could_not(client: openai.OpenAI, stage: Stage) -> None:
    stage.fail_next("429-retry-after-ms")
    assert ask(client.with_options(max_retries=1), "qwen3-max").choices[0].message.content == ANSWER


def test_a_timeout_after_the_whole_request_went_up_is_not_repeated(backend: str, tmp_path: Path) -> None:
    """The SDK repeats every 5xx unless `x-should-retry: false` tells it that the work may have been done."""
    path = tmp_path / "qproxy.toml"
    path.write_text("[timeouts]\nfirst_byte_plain_s = 0.05\nfirst_byte_stream_s = 0.05\n", encoding="utf-8")
    with (
        stage_on(backend, settings=lambda url: keyed(url, config=str(path))) as stage,
        openai.OpenAI(base_url=stage.base_url, api_key=CLIENT_KEY, max_retries=3) as client,
    ):

        def call() -> None:
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, "sim-slow-head", stream=True)
            assert (caught.value.status_code, caught.value.code) == (504, "first_byte_timeout")
            assert caught.value.response.headers["x-should-retry"] == "false"

        assert stage.attempts(call) == 1


def test_an_answer_that_is_no_json_is_the_upstreams_own(backend: str) -> None:
    """A 200 passes as it is, so the SDK's complaint is the one that it would have without the proxy."""
    with (
        canned(backend, canned_json(b"not json")) as base_url,
        openai.OpenAI(base_url=base_url, api_key=CLIENT_KEY, max_retries=0) as client,
    ):
        raw = client.chat.completions.with_raw_response.create(model="m", messages=HI)
        assert raw.content == b"not json"

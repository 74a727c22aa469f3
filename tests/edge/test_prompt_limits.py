"""Prompts that are too long and `max_tokens` that is too high: before they are sent, and when the upstream says so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson
import pytest

from tests.support.backends import (
    CHAT,
    DONE,
    GOOD,
    JSON,
    LONG_BYTES,
    Early,
    backend,
    chat_body,
    error,
    fallback,
    proxy_before,
)
from tests.support.raw_client import Answer, End, post, raw_client
from tests.support.scripted_upstream import answer, chunk, event, stream_head

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.backends import Backend

pytestmark = pytest.mark.anyio

REFUSE = 'window_check = "refuse"\n'
SMALL = "[windows]\n" + '"small" = 1000\n"qwen3-coder-small" = 1000\n'
LOGGER = "qproxy.edge.windows"
IMAGE = b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,%b"}}'


def refused(message: str, status: int = 400) -> bytes:
    said = {"error": {"message": message, "code": "invalid_parameter_error"}, "request_id": "r-1"}
    return answer(status, [JSON], orjson.dumps(said))


def said_by(got: Answer) -> dict[str, str]:
    error: dict[str, str] = orjson.loads(bytes(got.body))["error"]
    return error


async def asked(folder: Path, toml: str, upstream: Backend, *bodies: bytes, path: str = CHAT) -> list[Answer]:
    """What becomes of requests with these bodies, one after the other."""
    async with proxy_before(folder, toml, only=upstream) as proxy, raw_client(proxy.url) as client:
        return [await client.ask(post(path, body)) for body in bodies]


class TestBeforeItIsSent:
    @pytest.mark.parametrize("padding", [5_000, LONG_BYTES], ids=["stored", "long"])
    async def test_what_is_over_the_window_is_refused(self, tmp_path: Path, padding: int) -> None:
        async with backend(GOOD) as only:
            (got,) = await asked(tmp_path, REFUSE + SMALL, only, chat_body("small", padding_bytes=padding))
        assert (got.status, said_by(got)["code"]) == (400, "context_length_exceeded")
        message = said_by(got)["message"]
        assert "maximum context length is 1000 tokens" in message
        assert f"about {len(chat_body('small', padding_bytes=padding)) // 4} tokens" in message
        assert only.heads == 0

    async def test_a_model_without_images_is_refused_before_its_body_came(self, tmp_path: Path) -> None:
        head_and_begin = post(CHAT, chat_body("qwen3-coder-small", padding_bytes=LONG_BYTES))[:40_000]
        async with backend(GOOD) as only, proxy_before(tmp_path, REFUSE + SMALL, only=only) as proxy:
            async with raw_client(proxy.url) as client:
                got = await client.ask(head_and_begin)
        assert (got.status, said_by(got)["code"], only.heads) == (400, "context_length_exceeded", 0)

    async def test_what_fits_is_sent(self, tmp_path: Path) -> None:
        async with backend(GOOD) as only:
            bodies = chat_body("small", padding_bytes=3_900), chat_body("unknown", padding_bytes=9_000)
            for got in await asked(tmp_path, REFUSE + SMALL, only, *bodies):
                assert got.status == 200
        assert only.bodies == list(bodies)

    @pytest.mark.parametrize("size", [5_000, LONG_BYTES], ids=["stored", "long"])
    async def test_images_say_nothing_about_tokens(self, tmp_path: Path, size: int) -> None:
        body = b'{"model": "small", "messages": [%b]}' % (IMAGE % (b"A" * size))
        async with backend(GOOD) as only:
            (got,) = await asked(tmp_path, REFUSE + SMALL, only, body)
        assert (got.status, only.bodies) == (200, [body])

    async def test_one_that_cannot_be_kept_to_look_for_images_is_sent(self, tmp_path: Path) -> None:
        body = chat_body("small", padding_bytes=LONG_BYTES)
        async with backend(GOOD) as only:
            (got,) = await asked(tmp_path, REFUSE + SMALL + "[limits]\nreplay_bytes = 1000\n", only, body)
        assert (got.status, only.bodies) == (200, [body])

    async def test_one_whose_end_does_not_come(self, tmp_path: Path) -> None:
        begun = post(CHAT, chat_body("small", padding_bytes=LONG_BYTES))[:100_000]
        async with (
            backend(GOOD) as only,
            proxy_before(tmp_path, REFUSE + SMALL, timeouts={"body_s": 0.05}, only=only) as proxy,
        ):
            async with raw_client(proxy.url) as client:
                got = await client.ask(begun)
        assert (got.status, said_by(got)["code"], only.heads) == (408, "body_timeout", 0)

    async def test_other_paths_hold_no_prompt(self, tmp_path: Path) -> None:
        async with backend(GOOD) as only:
            (got,) = await asked(
                tmp_path, REFUSE + SMALL, only, chat_body("small", padding_bytes=9_000), path="/v1/embeddings"
            )
        assert got.status == 200

    async def test_a_warning_is_a_line_in_the_log(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, LOGGER)
        async with backend(GOOD) as only:
            (got,) = await asked(
                tmp_path, 'window_check = "warn"\n' + SMALL, only, chat_body("small", padding_bytes=9_000)
            )
        assert got.status == 200
        (record,) = [each for each in caplog.records if each.name == LOGGER]
        assert "model 'small': about 2261 tokens, and its window has 1000" in record.getMessage()

    async def test_off_it_costs_nothing_and_does_nothing(self, tmp_path: Path) -> None:
        async with backend(GOOD) as only:
            (got,) = await asked(tmp_path, SMALL, only, chat_body("small", padding_bytes=9_000))
        assert got.status == 200

    @pytest.mark.parametrize("padding", [5_000, LONG_BYTES], ids=["stored", "long"])
    async def test_a_rule_leads_to_a_larger_window(self, tmp_path: Path, padding: int) -> None:
        toml = REFUSE + fallback("small", "large", "context") + SMALL
        async with backend(GOOD) as only:
            (got,) = await asked(tmp_path, toml, only, chat_body("small", padding_bytes=padding))
        assert (got.status, only.models) == (200, ["large"])

    async def test_the_estimate_learns_from_usage(self, tmp_path: Path) -> None:
        """4,000 bytes are 1,000 tokens until the upstream says that they are 2,000."""
        usage = answer(200, [JSON], b'{"usage": {"prompt_tokens": 1950, "completion_tokens": 1}}')
        body = chat_body("small", padding_bytes=3_900)
        async with backend(usage) as only:
            first, second = await asked(tmp_path, REFUSE + SMALL, only, body, body)
        assert (first.status, second.status, only.heads) == (200, 400, 1)
        assert "about 1950 tokens" in said_by(second)["message"]


class TestWhatUpstreamsSay:
    @pytest.mark.parametrize("padding", [100, LONG_BYTES], ids=["stored", "long"])
    async def test_a_window_with_both_numbers(self, tmp_path: Path, padding: int) -> None:
        reply = refused("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]")
        body = chat_body("m", padding_bytes=padding)
        async with backend(reply) as only:
            (got,) = await asked(tmp_path, "", only, body)
        assert (got.status, got.end, said_by(got)["code"]) == (400, End.WHOLE, "context_length_exceeded")
        assert "maximum context length is 30720 tokens" in said_by(got)["message"]
        assert f"about {len(body) // 4} tokens" in said_by(got)["message"]
        assert orjson.loads(bytes(got.body))["request_id"] == "r-1"

    @pytest.mark.parametrize("padding", [0, LONG_BYTES], ids=["stored", "long"])
    async def test_max_tokens_with_both_numbers(self, tmp_path: Path, padding: int) -> None:
        body = b'{"model": "m", "x": "%b", "max_tokens": 70000}' % (b"x" * padding)
        async with backend(refused("Range of max_tokens should be [1, 65536]")) as only:
            (got,) = await asked(tmp_path, "", only, body)
        assert (got.status, said_by(got)["code"], said_by(got)["param"]) == (400, "invalid_request", "max_tokens")
        assert said_by(got)["message"].startswith("max_tokens is 70000; this model takes 1 to 65536.")

    async def test_an_answer_before_the_body_came(self, tmp_path: Path) -> None:
        reply = Early(refused("Range of input length should be [1, 30720]"))
        async with backend(reply) as only:
            (got,) = await asked(tmp_path, "", only, chat_body("m", padding_bytes=4 * LONG_BYTES))
        assert (got.status, said_by(got)["code"]) == (400, "context_length_exceeded")

    async def test_one_that_hides_in_a_stream(self, tmp_path: Path) -> None:
        hidden = event(b'{"error": {"message": "Range of input length should be [1, 30720]", "code": "x"}}')
        async with backend(stream_head() + chunk(hidden) + chunk(DONE) + chunk(b"")) as only:
            (got,) = await asked(tmp_path, "", only, chat_body("m", stream=True))
        assert (got.status, said_by(got)["code"]) == (400, "context_length_exceeded")

    async def test_other_errors_pass_as_they_are(self, tmp_path: Path) -> None:
        async with backend(error(400), error(413), error(500)) as only:
            answers = await asked(tmp_path, "", only, *[chat_body("m")] * 3)
        assert [(got.status, bytes(got.body)) for got in answers] == [
            (status, b'{"error":{"message":"This is some_code.","code":"some_code"}}') for status in (400, 413, 500)
        ]

    async def test_they_teach_the_check_and_the_clamp(self, tmp_path: Path) -> None:
        toml = REFUSE + "clamp_max_tokens = true\n"
        window, output = "Range of input length should be [1, 100]", "Range of max_tokens should be [1, 64]"
        capped = b'{"model": "m", "max_tokens": 70000}'
        async with backend(refused(window), refused(output), GOOD) as only:
            answers = await asked(tmp_path, toml, only, capped, capped, capped, chat_body("m", padding_bytes=900))
        assert [got.status for got in answers] == [400, 400, 200, 400]
        assert only.bodies == [capped, capped, b'{"model": "m", "max_tokens": 64}']
        assert "maximum context length is 100 tokens" in said_by(answers[3])["message"]


class TestClamping:
    TOML = 'clamp_max_tokens = true\n[windows]\n"m" = { output = 1000 }\n'

    async def test_what_is_above_the_cap_comes_down(self, tmp_path: Path) -> None:
        bodies = [b'{"model": "m", "max_tokens": %d, "max_completion_tokens":5000}' % asked for asked in (1_000, 1_001)]
        async with backend(GOOD) as only:
            await asked(tmp_path, self.TOML, only, *bodies)
        assert only.bodies == [b'{"model": "m", "max_tokens": 1000, "max_completion_tokens":1000}'] * 2

    async def test_a_long_body_is_left_alone(self, tmp_path: Path) -> None:
        body = b'{"model": "m", "x": "%b", "max_tokens": 5000}' % (b"x" * LONG_BYTES)
        async with backend(GOOD) as only:
            await asked(tmp_path, self.TOML, only, body)
        assert only.bodies == [body]

    async def test_off_nothing_is_changed(self, tmp_path: Path) -> None:
        body = b'{"model": "m", "max_tokens": 5000}'
        async with backend(GOOD) as only:
            await asked(tmp_path, self.TOML.replace("true", "false"), only, body)
        assert only.bodies == [body]

    async def test_the_model_it_goes_to_counts(self, tmp_path: Path) -> None:
        toml = self.TOML.replace("[windows]", fallback("big", "m") + "[windows]")
        async with backend(error(503), GOOD) as only:
            await asked(tmp_path, toml, only, b'{"model": "big", "max_tokens": 5000}')
        assert only.bodies == [b'{"model": "big", "max_tokens": 5000}', b'{"model": "m", "max_tokens": 1000}']

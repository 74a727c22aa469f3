"""One request, several accounts: what the client sees of it, which is one clean answer or one clean error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qproxy import app
from qproxy.simulator import Options, running
from tests.support.account_stage import CHAT, chat_body, key_settings, key_stage, with_keys
from tests.support.live import settings_for
from tests.support.raw_client import post, raw_client
from tests.support.scripted_upstream import answer, expect_request, scripted_upstream, send

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

ONE, TWO, THREE, FOUR = "sk-one", "sk-two", "sk-three", "sk-four"
LIMITS = [
    *("429-quota", "429-free", "429-tokens", "429-rate", "429-throttling", "429-burst", "429-flat", "429-sse"),
    *("429-nested", "429-hour", "429-week", "429-month", "429-usage", "429-concurrency", "429-billing"),
    *("429-retry-after", "429-retry-after-ms", "429-retry-after-date"),
    *("403-quota", "403-free-tier", "403-denied", "403-plan-key", "400-arrearage", "401", "503", "503-retry-after"),
]
FINAL = [
    *("400", "400-context", "400-max-tokens", "400-thinking", "400-inspection", "400-flat", "400-sse", "400-nested"),
    *("404", "404-model", "404-unsupported", "500", "500-timeout", "500-html", "502-text", "504"),
]


class TestAnotherAccountAnswers:
    @pytest.mark.parametrize("scenario", LIMITS)
    async def test_the_client_sees_one_clean_answer(self, tmp_path: Path, scenario: str) -> None:
        async with key_stage(tmp_path, ONE, TWO) as stage:
            stage.simulator.account(ONE).answer_next(scenario)
            answered = await stage.chat()
            assert (answered.status, answered.json()["object"]) == (200, "chat.completion")
            assert not answered.header("retry-after")
            assert stage.bearers() == [ONE, TWO]
            assert stage.used() == ("key-2", 2)
            assert stage.in_flight() == 0

"""Whose User-Agent an upstream sees: the proxy's own, or the client's where the upstream asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from qproxy import __version__
from tests.support.sdk_stage import CLIENT_KEY, Stage, keyed, stage_on

if TYPE_CHECKING:
    from pathlib import Path

    from qproxy.config import Settings

OWN = f"qproxy/{__version__}"


def test_the_proxys_own_by_default(client: openai.OpenAI, stage: Stage) -> None:
    client.embeddings.create(model="m", input="x")
    assert stage.last_request.header("user-agent") == OWN
    assert client.user_agent.startswith("OpenAI/Python ")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('preset = "coding-plan"', None),
        ('preset = "token-plan-intl"', None),
        ('preset = "coding-plan"\nforward_user_agent = false', OWN),
        ('preset = "dashscope"', OWN),
        ("forward_user_agent = true", None),
        ('headers = { User-Agent = "own/1", X-Extra = "2" }', "own/1"),
    ],
)
def test_it_is_the_upstreams_to_say(backend: str, tmp_path: Path, lines: str, expected: str | None) -> None:
    """None: the client's."""

    def settings(url: str) -> Settings:
        path = tmp_path / "qproxy.toml"
        path.write_text(f'[upstreams.mine]\nurl = "{url}"\n{lines}\n', encoding="utf-8")
        return keyed("mine", config=str(path))

    with (
        stage_on(backend, settings=settings) as stage,
        openai.OpenAI(base_url=stage.base_url, api_key=CLIENT_KEY, max_retries=0) as client,
    ):
        client.embeddings.create(model="m", input="x")
        seen = stage.last_request
        assert seen.header("user-agent") == (client.user_agent if expected is None else expected)
        assert [name.lower() for name, _ in seen.headers].count(b"user-agent") == 1
        assert seen.header("x-extra") == ("2" if "X-Extra" in lines else "")

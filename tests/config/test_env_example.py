"""`.env.example` is loaded as it is, and line by line with the # taken off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qproxy.config.options import OPTIONS
from qproxy.upstreams import PRESETS
from tests.support.config_place import Place

EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")
LINES = re.findall(r"^# ([A-Z0-9_]+)=(.+)$", EXAMPLE, re.MULTILINE)
LOGIN = '{"access_token": "t", "refresh_token": "r", "token_type": "Bearer", "expiry_date": 4000000000000}'
KNOWN = {
    "STREAM",
    *(preset.key_variable for preset in PRESETS.values()),
    *(name for option in OPTIONS for name in (option.variable, *option.legacy, *option.private_legacy)),
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_as_it_is_it_changes_nothing(place: Place) -> None:
    before = place.load()
    place.write_env(EXAMPLE)
    assert place.load() == before


@pytest.mark.parametrize(("name", "value"), LINES, ids=lambda part: str(part)[:40])
def test_every_line_is_accepted(place: Place, name: str, value: str) -> None:
    place.write("k", "cwd/key")
    place.environ |= {"MY_UPSTREAM_KEY": "k", "DASHSCOPE_API_KEY": "k", "MY_LOGIN": LOGIN}
    place.flags |= {"upstream": "vllm"} if name == "QPROXY_UPSTREAM_KEY" else {}
    place.write_env(f"{name}={re.sub('file:/run/secrets/.*', 'file:key', value)}\n")
    place.load()
    assert name in KNOWN


def test_it_names_every_option_of_the_top_level() -> None:
    named = {name for name, _ in LINES}
    missing = [
        option.name
        for option in OPTIONS
        if option.flag and option.name != "config" and not {option.variable, *option.legacy} & named
    ]
    assert missing == []

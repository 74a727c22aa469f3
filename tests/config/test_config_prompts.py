"""`[windows]` and the settings about prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qproxy.core.windows import ModelLimits, WindowRule
from tests.support.config_place import Place

if TYPE_CHECKING:
    from pathlib import Path

UPSTREAM = 'upstream = "gpu"\n[upstreams.gpu]\nurl = "http://127.0.0.1:1/v1"\n'


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_defaults(place: Place) -> None:
    settings = place.load()
    assert (settings.window_check, settings.clamp_max_tokens, settings.count_tokens) == ("off", False, False)
    assert settings.cache_watch
    assert settings.windows == ()


@pytest.mark.parametrize("mode", ["off", "warn", "refuse"])
def test_the_window_check(place: Place, mode: str) -> None:
    place.flags["window_check"] = mode
    assert place.load().window_check == mode


def test_an_unknown_window_check(place: Place) -> None:
    place.environ["QPROXY_WINDOW_CHECK"] = "maybe"
    assert place.refused() == "QPROXY_WINDOW_CHECK = 'maybe': must be off, warn or refuse"


def test_windows(place: Place) -> None:
    place.write(
        f'{UPSTREAM}[windows]\n"a" = 8192\n"gpu:b*" = {{ window = 4096, output = 64 }}\n"c:7b" = {{ output = 100 }}\n'
    )
    assert place.load().windows == (
        WindowRule(None, "a", ModelLimits(8_192)),
        WindowRule("gpu", "b*", ModelLimits(4_096, 64)),
        WindowRule(None, "c:7b", ModelLimits(None, 100)),
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('"a" = "8k"', "'a' in [windows]"),
        ('"a" = 1', "must be a number of tokens"),
        ('"a" = true', "must be a number of tokens"),
        ('"a" = {}', "must be a number of tokens, or a table"),
        ('"a" = { window = -1 }', "window of 'a' in [windows]"),
        ('"a" = { windows = 4096 }', "did you mean window?"),
        ('"a*b" = 4096', "must be a model's name, or a prefix and one * at its end"),
        ('"gpu:" = 4096', "must be a model's name"),
        ('"" = 4096', "must be a model's name"),
    ],
)
def test_rows_that_stop_the_start(place: Place, row: str, said: str) -> None:
    place.write(f"{UPSTREAM}[windows]\n{row}\n")
    assert said in place.refused()


def test_cache_markers_bring_their_header(place: Place) -> None:
    place.write(f"{UPSTREAM}cache_markers = true\n")
    upstream = place.load().upstreams["gpu"].upstream
    assert upstream.cache_markers
    assert upstream.headers == ((b"X-DashScope-CacheControl", b"enable"),)


def test_a_header_of_ones_own_wins(place: Place) -> None:
    place.write(f'{UPSTREAM}cache_markers = true\nheaders = {{ "x-dashscope-cachecontrol" = "disable" }}\n')
    assert place.load().upstreams["gpu"].upstream.headers == ((b"x-dashscope-cachecontrol", b"disable"),)

"""What models take: rules of the settings, words of upstreams, the table."""

from __future__ import annotations

import pytest

from qproxy.core import windows
from qproxy.core.windows import FEWEST_TOKENS, MOST_TOKENS, ModelLimits, WindowRule, WindowTable, reads_text_alone


def rule(pattern: str, window: int | None = None, output: int | None = None, upstream: str | None = None) -> WindowRule:
    return WindowRule(upstream, pattern, ModelLimits(window, output))


@pytest.mark.parametrize(
    ("model", "window", "output"),
    [
        ("coder-model", 1_048_576, 65_536),
        ("qwen3.7-max", 1_000_000, 131_072),
        ("qwen3-coder-plus-2025-09-23", 1_000_000, 65_536),
        ("qwen3-coder-next", 262_144, 32_768),
        ("Qwen/Qwen3-32B", 262_144, 32_768),
        ("qwen-plus-latest", 1_000_000, 32_768),
        ("kimi/kimi-k3", 1_000_000, None),
        ("glm-5.2", 1_000_000, None),
        ("glm-5.1", 202_752, None),
        ("gpt-4o", None, None),
        ("text-embedding-v4", None, None),
        ("", None, None),
    ],
)
def test_the_built_in_table(model: str, window: int | None, output: int | None) -> None:
    table = WindowTable()
    assert (table.window_of(model), table.output_cap_of(model)) == (window, output)


def test_a_rule_of_the_settings_wins_and_leaves_the_rest_to_the_table() -> None:
    table = WindowTable([rule("qwen3-max", output=65_536), rule("mine*", 8_192)])
    assert table.limits_of("qwen3-max") == ModelLimits(262_144, 65_536)
    assert table.limits_of("Team/Mine-7b") == ModelLimits(8_192, None)


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_rules_the_nearest_wins(turned: bool) -> None:
    rules = [
        rule("m*", 100, 10),
        rule("model*", 200),
        rule("model-1", 300),
        rule("m*", 400, upstream="gpu"),
    ]
    table = WindowTable(rules[::-1] if turned else rules)
    assert table.window_of("m") == 100
    assert table.limits_of("model-2") == ModelLimits(200, 10)
    assert table.window_of("model-1") == 300
    assert table.window_of("model-1", "gpu") == 400
    assert table.window_of("model-1", "other") == 300


def test_an_upstream_teaches_its_own_models_alone() -> None:
    table = WindowTable([rule("fixed", 1_000)])
    assert table.limits_of("qwen3-max", "a") == ModelLimits(262_144, 32_768)  # and is remembered
    assert table.learn("qwen3-max", "a", ModelLimits(window_tokens=131_072))
    assert table.learn("qwen3-max", "a", ModelLimits(output_tokens=8_192))
    assert table.limits_of("qwen3-max", "a") == ModelLimits(131_072, 8_192)
    assert table.limits_of("qwen3-max", "b") == table.limits_of("qwen3-max") == ModelLimits(262_144, 32_768)
    assert not table.learn("QWEN3-max", "a", ModelLimits(window_tokens=131_072))
    assert table.learn("fixed", "a", ModelLimits(window_tokens=500))
    assert table.window_of("fixed", "a") == 1_000


@pytest.mark.parametrize("tokens", [None, -1, 0, FEWEST_TOKENS - 1, MOST_TOKENS + 1])
def test_what_is_no_limit_of_a_model_teaches_nothing(tokens: int | None) -> None:
    table = WindowTable()
    assert not table.learn("qwen3-max", "a", ModelLimits(tokens, tokens))
    assert table.learned() == {}


def test_a_name_without_end_teaches_nothing() -> None:
    table = WindowTable()
    assert not table.learn("m" * 1_000, "a", ModelLimits(1_000))
    assert table.window_of("qwen3.7-" + "m" * 1_000) == 1_000_000


def test_what_was_learned_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MOST_LEARNED", 3)
    monkeypatch.setattr(windows, "MOST_REMEMBERED", 3)
    table = WindowTable()
    for number in range(10):
        table.learn(f"m{number}", "a", ModelLimits(1_000 + number))
        assert table.window_of(f"m{number}", "a") == 1_000 + number
    assert list(table.learned()) == [("a", "m7"), ("a", "m8"), ("a", "m9")]
    assert table.window_of("m0", "a") is None


def test_which_models_read_text_alone() -> None:
    assert reads_text_alone("qwen3-coder-plus")
    assert reads_text_alone("vendor/qwen-plus")
    assert not any(map(reads_text_alone, ["qwen3-vl-plus", "qwen3.7-max", "coder-model", "unknown"]))

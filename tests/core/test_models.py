from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.models import Choice, ModelRouter
from qproxy.errors import DownstreamError, InternalError

RULES = (
    ("fast", "qwen3-coder-flash"),
    ("house", "mine:qwen3:8b"),
    ("second", "fast"),
    ("local/*", "mine:*"),
    ("local/big/*", "mine:big-*"),
    ("old/*", "qwen3.7-plus"),
    ("mine:taken", "elsewhere"),
)
NAMES = ("cloud", "mine", "qwen-oauth")
names = st.text(alphabet="ab:/*-", max_size=8)


def router(**changes: object) -> ModelRouter:
    arguments: dict[str, object] = {"rules": RULES, "upstream_names": NAMES, "default_upstream": "cloud"} | changes
    return ModelRouter(**arguments)  # type: ignore[arg-type] # the tests vary one argument at a time


@pytest.mark.parametrize(
    ("model", "upstream", "name"),
    [
        ("qwen3-max", "cloud", "qwen3-max"),
        ("fast", "cloud", "qwen3-coder-flash"),
        ("second", "cloud", "fast"),  # one step only
        ("house", "mine", "qwen3:8b"),
        ("local/qwen3-4b", "mine", "qwen3-4b"),
        ("local/", "mine", ""),
        ("local", "cloud", "local"),
        ("local/big/72b", "mine", "big-72b"),  # the longest prefix wins
        ("old/qwen-turbo", "cloud", "qwen3.7-plus"),
        ("mine:qwen3:8b", "mine", "qwen3:8b"),
        ("qwen-oauth:coder-model", "qwen-oauth", "coder-model"),
        ("mine:star*", "mine", "star*"),
        ("mine:taken", "cloud", "elsewhere"),  # a rule comes before the prefix
        ("mine:", "cloud", "mine:"),
        ("qwen3:8b", "cloud", "qwen3:8b"),
        ("", "cloud", ""),
    ],
)
def test_the_model_decides(model: str, upstream: str, name: str) -> None:
    assert router().resolve(model) == Choice(upstream, name, rename=name != model)


def test_a_bare_star_catches_what_no_other_rule_does() -> None:
    catching = router(rules=(("*", "mine:*"), ("fast", "x")))
    assert catching.resolve("anything") == Choice("mine", "anything", rename=False)
    assert catching.resolve("fast") == Choice("cloud", "x", rename=True)


@pytest.mark.parametrize(
    ("model", "pin", "upstream", "name"),
    [
        ("qwen3-max", "mine", "mine", "qwen3-max"),
        ("fast", "mine", "mine", "qwen3-coder-flash"),  # the rule names no upstream
        ("house", "mine", "mine", "qwen3:8b"),
        ("house", "cloud", "cloud", "house"),  # the rule leads elsewhere
        ("mine:m", "mine", "mine", "m"),
        ("mine:m", "cloud", "cloud", "mine:m"),
    ],
)
def test_a_pin_wins_over_rules_that_lead_elsewhere(model: str, pin: str, upstream: str, name: str) -> None:
    assert router().resolve(model, pin) == Choice(upstream, name, rename=name != model)


def test_an_unknown_pin_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(DownstreamError, match="cloud, mine, qwen-oauth") as caught:
        router().resolve("m", "nowhere")
    assert caught.value.code == "unknown_upstream"


@pytest.mark.parametrize(
    ("default_model", "pin", "upstream", "name"),
    [
        ("", None, "cloud", None),
        ("", "qwen-oauth", "qwen-oauth", "qwen3-coder-plus"),
        ("given", None, "cloud", "given"),
        ("given", "qwen-oauth", "qwen-oauth", "given"),
        ("house", None, "mine", "qwen3:8b"),  # the default is routed like a model that was asked for
    ],
)
def test_a_missing_model_is_filled_in_and_is_no_rename(
    default_model: str, pin: str | None, upstream: str, name: str | None
) -> None:
    filling = router(default_model=default_model, default_models={"qwen-oauth": "qwen3-coder-plus", "cloud": ""})
    assert filling.resolve(None, pin) == Choice(upstream, name, rename=False)


@pytest.mark.parametrize("model", [None, "m", "fast"])
def test_without_an_upstream_the_message_says_what_to_set(model: str | None) -> None:
    with pytest.raises(InternalError, match="--upstream") as caught:
        router(default_upstream=None).resolve(model)
    assert (caught.value.code, caught.value.kind.status) == ("no_upstream", 503)


def test_a_rule_reaches_an_upstream_although_there_is_no_default() -> None:
    assert router(default_upstream=None).resolve("house").upstream == "mine"


@given(model=names, rules=st.dictionaries(names.filter(bool), names.filter(bool), max_size=4))
def test_any_model_goes_to_a_configured_upstream(model: str, rules: dict[str, str]) -> None:
    choice = ModelRouter(tuple(rules.items()), ("a", "b"), "a").resolve(model)
    assert choice.upstream in ("a", "b")
    assert choice.rename == (choice.model != model)


@given(model=names)
def test_without_rules_only_the_prefix_of_a_configured_upstream_is_taken_off(model: str) -> None:
    head, _, tail = model.partition(":")
    direct = head in ("a", "b") and tail != ""
    expected = Choice(head, tail, rename=True) if direct else Choice("b", model, rename=False)
    assert ModelRouter((), ("a", "b"), "b").resolve(model) == expected

"""`[[fallback]]` and what goes with it: what is accepted, what it becomes, and what stops the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qproxy.config.fallback import DEFAULT_ON
from qproxy.core.fallback import FallbackRule, Trigger
from tests.support.config_place import Place

if TYPE_CHECKING:
    from pathlib import Path

UPSTREAMS = """
upstream = "mine"
[upstreams.mine]
url = "http://127.0.0.1:8000/v1"
[upstreams.other]
url = "http://127.0.0.1:8001/v1"
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def fallback(source: object, target: object, on: object = None) -> str:
    """One table; values in TOML's notation."""
    lines = [f"from = {source}", f"to = {target}", *([] if on is None else [f"on = {on}"])]
    return "\n".join([UPSTREAMS, "[[fallback]]", *lines])


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("big", "small", (None, "big", None, "small")),
        ("big", "other:small", (None, "big", "other", "small")),
        ("big", "other:*", (None, "big", "other", None)),
        ("mine:big", "small", ("mine", "big", None, "small")),
        ("mine:*", "other:*", ("mine", None, "other", None)),
        ("mine:*", "mine:small", ("mine", None, "mine", "small")),
        ("*", "other:*", (None, None, "other", None)),
        ("qwen3:8b", "other:qwen3:8b", (None, "qwen3:8b", "other", "qwen3:8b")),
        ("unknown:model", "vendor/model", (None, "unknown:model", None, "vendor/model")),
    ],
)
def test_places(place: Place, source: str, target: str, rule: tuple[str | None, ...]) -> None:
    place.write(fallback(f'"{source}"', f'"{target}"'))
    (found,) = place.load().fallbacks
    assert (found.upstream, found.model, found.to_upstream, found.to_model) == rule
    assert found.on == DEFAULT_ON


def test_the_rules_keep_their_order(place: Place) -> None:
    rules = "".join(f'[[fallback]]\nfrom = "m{number}"\nto = "other:*"\n' for number in range(5))
    place.write(UPSTREAMS + rules)
    assert [rule.model for rule in place.load().fallbacks] == ["m0", "m1", "m2", "m3", "m4"]


def test_without_causes_it_is_for_whatever_leaves_the_request_undone(place: Place) -> None:
    assert set(Trigger) - DEFAULT_ON == {Trigger.CONTEXT, Trigger.SERVER_ERROR}


def test_causes_by_their_names(place: Place) -> None:
    place.write(fallback('"big"', '"small"', '["quota", "429", "503", "connect", "account", "context"]'))
    (rule,) = place.load().fallbacks
    assert rule.on == set(Trigger) - {Trigger.SERVER_ERROR}


def test_a_preset_that_a_rule_names_is_an_upstream(place: Place) -> None:
    place.environ["DASHSCOPE_API_KEY"] = "sk-made-up"
    place.write(UPSTREAMS + '[[fallback]]\nfrom = "mine:*"\nto = "dashscope-intl:qwen3-max"\n')
    settings = place.load()
    assert "dashscope-intl" in settings.upstreams
    assert settings.fallbacks == (FallbackRule("mine", None, "dashscope-intl", "qwen3-max", DEFAULT_ON),)


FROM = "must be model, upstream:model or upstream:*, or * for all"
TO = "must be model, upstream:model or upstream:*"


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ('""', '"small"', f"from ... = '': {FROM}"),
        ("5", '"small"', f"from ... = 5: {FROM}"),
        ('"a*"', '"small"', f"from ... = 'a*': {FROM}, with a configured upstream"),
        ('"mine:a*"', '"b"', f"from ... = 'mine:a*': {FROM}, with a configured upstream"),
        ('"mine:"', '"b"', f"from ... = 'mine:': {FROM}, with a configured upstream"),
        ('"nobody:*"', '"b"', f"from ... = 'nobody:*': {FROM}, with a configured upstream"),
        ('"mine"', '"b"', f"from ... = 'mine': {FROM}; the upstream is mine:*"),
        ('"a"', '"*"', f"to ... = '*': {TO}, with a configured upstream"),
        ('"a"', '"other"', f"to ... = 'other': {TO}; the upstream is other:*"),
        ('"a"', '"b\\n"', f"to ... = 'b\\n': {TO}"),
        ('"a"', '"a"', "to ... = 'a': must be another place than from"),
        ('"mine:*"', '"mine:*"', "to ... = 'mine:*': must be another place than from"),
        ('"mine:a"', '"a"', "to ... = 'a': must be another place than from"),
    ],
)
def test_places_that_are_none(place: Place, source: str, target: str, message: str) -> None:
    place.write(fallback(source, target))
    assert place.refused() == message.replace("...", "in [[fallback]] in qproxy.toml")


@pytest.mark.parametrize("on", ['"quota"', "[]", '["404"]', "[429]", '["quota", ["503"]]', "true"])
def test_causes_that_are_none(place: Place, on: str) -> None:
    place.write(fallback('"a"', '"b"', on))
    message = place.refused()
    assert message.startswith("on in [[fallback]] in qproxy.toml = ")
    assert message.endswith("must be a list of connect, quota, 429, 503, account, context, 5xx")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('fallback = "x"', "fallback in qproxy.toml = 'x': must be tables, each under [[fallback]]"),
        ("fallback = [1]", "[[fallback]] in qproxy.toml = 1: must be a table"),
        ("[fallback]\nfrom = 'a'", "fallback in qproxy.toml = {'from': 'a'}: must be tables, each under [[fallback]]"),
        ("[[fallback]]\nfrom = 'a'", "to in [[fallback]] in qproxy.toml = None: must be model"),
        ("[[fallback]]\nto = 'a'", "from in [[fallback]] in qproxy.toml = None: must be model"),
        ("[[fallback]]\nfrom = 'a'\nto = 'b'\nwhen = []", "when in [[fallback]] in qproxy.toml is unknown"),
    ],
)
def test_tables_that_are_none(place: Place, toml: str, message: str) -> None:
    place.write(toml)
    assert place.refused().startswith(message)


class TestAnErrorOfWhichNobodyKnows:
    def test_it_needs_the_setting(self, place: Place) -> None:
        place.write(fallback('"a"', '"b"', '["5xx"]'))
        assert place.refused() == (
            "on in [[fallback]] in qproxy.toml = ['5xx']: 5xx needs retry_on_5xx = true (--retry-on-5xx), "
            "since work may be done twice"
        )

    @pytest.mark.parametrize("how", ["file", "flag", "variable"])
    def test_with_it_it_is_a_cause_like_any(self, place: Place, how: str) -> None:
        text = fallback('"a"', '"b"', '["5xx"]')
        place.write(f"retry_on_5xx = true\n{text}" if how == "file" else text)
        if how == "flag":
            place.flags["retry_on_5xx"] = True
        if how == "variable":
            place.environ["QPROXY_RETRY_ON_5XX"] = "yes"
        settings = place.load()
        assert settings.retry_on_5xx
        assert settings.fallbacks[0].on == {Trigger.SERVER_ERROR}

    def test_by_default_it_is_off(self, place: Place) -> None:
        assert not place.load().retry_on_5xx


@pytest.mark.parametrize(("given", "is_on"), [("", True), ("off", False), ("false", False), ("on", True), ("1", True)])
def test_the_breaker_can_be_switched_off(place: Place, given: str, is_on: bool) -> None:
    place.environ["QPROXY_BREAKER"] = given
    assert place.load().breaker is is_on


@pytest.mark.parametrize("name", ["total_s", "keepalive_after_s", "peek_s"])
def test_clocks_that_may_be_switched_off(place: Place, name: str) -> None:
    place.write(f"[timeouts]\n{name} = 0")
    assert getattr(place.load().timeouts, name) == 0.0
    place.write(f"[timeouts]\n{name} = -1")
    assert place.refused().startswith(f"{name} in qproxy.toml = -1: must be a number of seconds from 0")

"""The catalogue of a running server: concurrency, caching, failures, cancellation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import anyio
import orjson
import pytest
from anyio.lowlevel import checkpoint

from qproxy.core.upstream import Upstream
from qproxy.endpoints.catalogue import ModelCatalogue
from qproxy.errors import InternalError, QProxyError, UpstreamError

pytestmark = pytest.mark.anyio

Answer = list[str] | bytes | QProxyError

LIFETIME_S = 60.0
FAILURE_S = 5.0


def upstream(name: str, *models: str, has_model_list: bool = True) -> Upstream:
    return Upstream(name, "openai", None, models=models, has_model_list=has_model_list)


def refused(name: str) -> UpstreamError:
    return UpstreamError("upstream_connect_failed", f"{name} refused the connection")


@dataclass
class ScriptedLister:
    """A lister whose answers and pace the test decides, and a clock that moves when told."""

    answers: dict[str, Answer]
    now: float = 1000.0
    asked: Counter[str] = field(default_factory=Counter)
    asking: set[str] = field(default_factory=set)
    gate: anyio.Event = field(default_factory=anyio.Event)

    async def list_models(self, upstream: str) -> bytes:
        assert upstream not in self.asking, "asked twice at once"
        self.asked[upstream] += 1
        self.asking.add(upstream)
        try:
            await self.gate.wait()
        finally:
            self.asking.remove(upstream)
        answer = self.answers[upstream]
        if isinstance(answer, QProxyError):
            raise answer
        if isinstance(answer, bytes):
            return answer
        return orjson.dumps({"data": [{"id": model} for model in answer]})

    def catalogue(self, *upstreams: Upstream, fetch_s: float = 30.0) -> ModelCatalogue:
        return ModelCatalogue(
            upstreams, self, clock=self.clock, lifetime_s=LIFETIME_S, failure_s=FAILURE_S, fetch_s=fetch_s
        )

    def clock(self) -> float:
        return self.now


def ready_lister(**answers: Answer) -> ScriptedLister:
    lister = ScriptedLister(dict(answers))
    lister.gate.set()
    return lister


async def ids(catalogue: ModelCatalogue) -> list[str]:
    return [entry.id for entry in await catalogue.listing()]


async def until(asking: set[str], lister: ScriptedLister) -> None:
    while lister.asking != asking:
        await checkpoint()


async def test_lists_are_merged_in_the_order_of_the_configuration() -> None:
    lister = ready_lister(one=["a", "b"], two=["b", "c"])
    assert await ids(lister.catalogue(upstream("two"), upstream("one"))) == ["b", "c", "a", "one:b"]


async def test_a_list_is_asked_for_once_in_its_lifetime() -> None:
    lister = ready_lister(one=["a"])
    catalogue = lister.catalogue(upstream("one"))
    await ids(catalogue)
    lister.answers["one"] = ["b"]
    lister.now += LIFETIME_S - 1
    assert await ids(catalogue) == ["a"]
    lister.now += 1
    assert await ids(catalogue) == ["b"]
    assert lister.asked["one"] == 2


async def test_a_stale_list_is_served_while_the_upstream_fails() -> None:
    lister = ready_lister(one=["a"])
    catalogue = lister.catalogue(upstream("one"))
    await ids(catalogue)
    lister.answers["one"] = refused("one")
    lister.now += 10 * LIFETIME_S
    assert await ids(catalogue) == ["a"]
    assert await ids(catalogue) == ["a"]
    assert lister.asked["one"] == 2  # left alone after the failure
    lister.answers["one"] = ["b"]
    lister.now += FAILURE_S
    assert await ids(catalogue) == ["b"]


async def test_one_failing_upstream_does_not_hide_the_others() -> None:
    lister = ready_lister(one=refused("one"), two=["a"])
    assert await ids(lister.catalogue(upstream("one"), upstream("two"))) == ["a"]


async def test_where_nobody_has_a_list_the_first_error_is_raised_each_time() -> None:
    lister = ready_lister(one=refused("one"), two=refused("two"))
    catalogue = lister.catalogue(upstream("one"), upstream("two"))
    for _ in range(3):
        with pytest.raises(UpstreamError, match="one refused"):
            await ids(catalogue)
    assert lister.asked == {"one": 1, "two": 1}


async def test_a_list_that_is_none_is_an_error() -> None:
    lister = ready_lister(one=b"<html>")
    with pytest.raises(UpstreamError, match="no OpenAI model list"):
        await ids(lister.catalogue(upstream("one")))


async def test_an_upstream_without_a_list_is_not_asked() -> None:
    lister = ready_lister(one=["a"])
    listing = await lister.catalogue(upstream("oauth", "coder-model", has_model_list=False), upstream("one")).listing()
    assert [(entry.id, entry.built_in) for entry in listing] == [("coder-model", True), ("a", False)]
    assert "oauth" not in lister.asked


async def test_an_upstream_with_neither_list_nor_table_has_no_models() -> None:
    assert await ids(ready_lister().catalogue(upstream("bare", has_model_list=False))) == []


async def test_the_built_in_table_stands_in_for_a_list_that_cannot_be_had() -> None:
    lister = ready_lister(plan=refused("plan"))
    catalogue = lister.catalogue(upstream("plan", "qwen3-max"))
    assert [(entry.id, entry.built_in) for entry in await catalogue.listing()] == [("qwen3-max", True)]
    lister.answers["plan"] = ["qwen3-max", "qwen3.8-max"]
    lister.now += FAILURE_S
    assert [entry.built_in for entry in await catalogue.listing()] == [False, False]


async def test_without_an_upstream_the_answer_says_what_to_set() -> None:
    with pytest.raises(InternalError, match="--upstream") as caught:
        await ready_lister().catalogue().listing()
    assert caught.value.code == "no_upstream"


async def test_upstreams_are_asked_side_by_side() -> None:
    lister = ScriptedLister({"one": ["a"], "two": ["b"]})
    catalogue = lister.catalogue(upstream("one"), upstream("two"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(catalogue.listing)
        await until({"one", "two"}, lister)
        lister.gate.set()


async def test_many_waiters_cost_one_request() -> None:
    lister = ScriptedLister({"one": ["a"]})
    catalogue = lister.catalogue(upstream("one"))
    answers: list[list[str]] = []

    async def wait() -> None:
        answers.append(await ids(catalogue))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(wait)
        await until({"one"}, lister)
        lister.gate.set()
    assert answers == [["a"]] * 20
    assert lister.asked["one"] == 1


async def test_many_waiters_of_a_failing_upstream_cost_one_request() -> None:
    lister = ScriptedLister({"one": refused("one")})
    catalogue = lister.catalogue(upstream("one"))
    codes: list[str] = []

    async def wait() -> None:
        try:
            await catalogue.listing()
        except QProxyError as error:
            codes.append(error.code)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(wait)
        await until({"one"}, lister)
        lister.gate.set()
    assert codes == ["upstream_connect_failed"] * 20
    assert lister.asked["one"] == 1


async def test_when_the_one_that_asks_leaves_the_next_one_asks() -> None:
    lister = ScriptedLister({"one": ["a"]})
    catalogue = lister.catalogue(upstream("one"))
    answers: list[list[str]] = []
    leaver = anyio.CancelScope()

    async def leave() -> None:
        with leaver:
            await catalogue.listing()

    async def stay() -> None:
        answers.append(await ids(catalogue))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        await until({"one"}, lister)
        tasks.start_soon(stay)
        await checkpoint()
        leaver.cancel()
        while lister.asked["one"] < 2:
            await checkpoint()
        lister.gate.set()
    assert answers == [["a"]]
    assert leaver.cancelled_caught


async def test_when_one_that_waits_leaves_the_others_are_served() -> None:
    lister = ScriptedLister({"one": ["a"]})
    catalogue = lister.catalogue(upstream("one"))
    answers: list[list[str]] = []
    leaver = anyio.CancelScope()

    async def stay() -> None:
        answers.append(await ids(catalogue))

    async def leave() -> None:
        with leaver:
            await catalogue.listing()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stay)
        await until({"one"}, lister)
        tasks.start_soon(leave)
        await checkpoint()
        leaver.cancel()
        await checkpoint()
        lister.gate.set()
    assert answers == [["a"]]
    assert lister.asked["one"] == 1


async def test_a_silent_upstream_is_given_up() -> None:
    lister = ScriptedLister({"one": ["a"]})
    catalogue = lister.catalogue(upstream("one"), fetch_s=0.01)
    with pytest.raises(UpstreamError, match="did not send its model list") as caught:
        await catalogue.listing()
    assert caught.value.code == "first_byte_timeout"
    assert not lister.asking

"""Counting beside the loop: who goes first, what is dropped, and what a cancelled or broken count leaves behind."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import orjson
import pytest

from qproxy.core.tokens import Counted, Shape, Unencodable, Vocabulary
from qproxy.core.tokens.estimate import EstimatedVocabulary
from qproxy.edge import token_counter
from qproxy.edge.runtime import current_runtime
from qproxy.edge.token_counter import TokenCounter
from qproxy.errors import DownstreamError, InternalError
from tests.support.leaks import cancelled_at_every_await
from tests.support.vocabulary import ByWords, qwen

pytestmark = pytest.mark.anyio

PATIENCE_S = 5


class Gated(ByWords):
    """Counts when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy = threading.Event()
        self.may_go_on = threading.Event()

    def count(self, text: str) -> int:
        self.is_busy.set()
        assert self.may_go_on.wait(PATIENCE_S)
        return super().count(text)


@asynccontextmanager
async def counting(load: Callable[[], Vocabulary] = qwen) -> AsyncIterator[TokenCounter]:
    async with anyio.create_task_group() as tasks:
        counter = TokenCounter(current_runtime(tasks), load)
        try:
            yield counter
        finally:
            counter.close()
            tasks.cancel_scope.cancel()


def prompt(text: str, **fields: object) -> bytes:
    return orjson.dumps({"prompt": text, **fields})


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.002)


async def test_a_count_that_is_waited_for() -> None:
    async with counting() as counter:
        for _ in range(3):
            found = await counter.count(prompt("one two three", model="qwen3-8b"), Shape.OPENAI)
            assert found == Counted(3, is_exact=True, model="qwen3-8b")
        found = await counter.count(prompt("a", return_tokens=True), Shape.OPENAI, "qwen3-8b", may_want_ids=True)
        assert found.ids_json == b"[64]"


async def test_what_is_not_countable_is_the_clients_fault() -> None:
    async with counting() as counter:
        with pytest.raises(DownstreamError) as refused:
            await counter.count(b"{}", Shape.OPENAI)
        assert refused.value.code == "invalid_json"


async def test_a_noted_body_is_counted_on_the_side() -> None:
    found: list[tuple[Counted, int]] = []
    async with counting() as counter:
        body = prompt("one two three")
        pieces = [body[:3], body[3:9], body[9:]]
        counter.note(pieces, "qwen3-8b", lambda counted: found.append((counted, threading.get_ident())))
        await until(lambda: found)
        counter.note([b"no JSON"], "qwen3-8b", lambda counted: found.append((counted, 0)))
        await counter.count(prompt("one"), Shape.OPENAI)
    assert found == [(Counted(3, is_exact=True, model="qwen3-8b"), threading.get_ident())]


async def test_whoever_waits_goes_first_then_the_newest() -> None:
    vocabulary = Gated()
    async with counting(lambda: vocabulary) as counter, anyio.create_task_group() as tasks:
        counter.note([prompt("begun")], "", lambda _: None)
        await until(vocabulary.is_busy.is_set)
        for text in ("older", "newer"):
            counter.note([prompt(text)], "", lambda _: None)
        for text in ("first", "second"):
            tasks.start_soon(counter.count, prompt(text), Shape.OPENAI)
            await anyio.wait_all_tasks_blocked()
        vocabulary.may_go_on.set()
        await until(lambda: len(vocabulary.seen) == 5)
    assert vocabulary.seen == ["begun", "first", "second", "newer", "older"]


async def test_too_many_notes_push_out_the_oldest() -> None:
    vocabulary = Gated()
    done: list[int] = []
    async with counting(lambda: vocabulary) as counter:
        counter.note([prompt("begun")], "", lambda counted: done.append(counted.tokens))
        await until(vocabulary.is_busy.is_set)
        for number in range(token_counter.MAX_NOTED + 5):
            counter.note([prompt(f"{number}")], "", lambda counted: done.append(counted.tokens))
        vocabulary.may_go_on.set()
        await until(lambda: len(done) == token_counter.MAX_NOTED + 1)
    assert vocabulary.seen == ["begun", *(f"{number}" for number in reversed(range(5, token_counter.MAX_NOTED + 5)))]


async def test_long_notes_push_out_others_and_are_taken() -> None:
    vocabulary = Gated()
    async with counting(lambda: vocabulary) as counter:
        counter.note([prompt("begun")], "", lambda _: None)
        await until(vocabulary.is_busy.is_set)
        counter.note([prompt("older")], "", lambda _: None)
        counter.note([b" " * token_counter.MAX_NOTED_BYTES, prompt("long")], "", lambda _: None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(counter.count, prompt("asked"), Shape.OPENAI)
            await anyio.wait_all_tasks_blocked()
            vocabulary.may_go_on.set()
        await until(lambda: len(vocabulary.seen) == 3)
        assert vocabulary.seen == ["begun", "asked", "long"]


async def fill(counter: TokenCounter, vocabulary: Gated, tasks: anyio.abc.TaskGroup) -> None:
    """One is counted, and as many wait as may."""
    for _ in range(token_counter.MAX_ASKED + 1):
        tasks.start_soon(counter.count, prompt("one"), Shape.OPENAI)
        await anyio.wait_all_tasks_blocked()
        await until(vocabulary.is_busy.is_set)


async def test_too_many_who_wait_are_refused() -> None:
    vocabulary = Gated()
    async with counting(lambda: vocabulary) as counter:
        async with anyio.create_task_group() as tasks:
            await fill(counter, vocabulary, tasks)
            with pytest.raises(InternalError) as refused:
                await counter.count(prompt("one"), Shape.OPENAI)
            assert refused.value.code == "overloaded"
            vocabulary.may_go_on.set()
        assert (await counter.count(prompt("one"), Shape.OPENAI)).tokens == 1


async def test_who_gives_up_leaves_the_thread_to_others() -> None:
    vocabulary = Gated()
    async with counting(lambda: vocabulary) as counter:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(counter.count, prompt("x" * 70_000 * 9), Shape.OPENAI)
            await until(vocabulary.is_busy.is_set)
            tasks.cancel_scope.cancel()
        vocabulary.may_go_on.set()
        assert (await counter.count(prompt("one two"), Shape.OPENAI)).tokens == 2
        assert len(vocabulary.seen) == 2


async def test_who_gives_up_leaves_the_place_to_others() -> None:
    vocabulary = Gated()
    async with counting(lambda: vocabulary) as counter:
        async with anyio.create_task_group() as tasks:
            await fill(counter, vocabulary, tasks)
            tasks.cancel_scope.cancel()
        vocabulary.may_go_on.set()
        async with anyio.create_task_group() as tasks:
            for _ in range(token_counter.MAX_ASKED):
                tasks.start_soon(counter.count, prompt("one two"), Shape.OPENAI)


async def test_counts_that_nobody_waits_for_rest_until_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counter, "REST", 1e9)
    monkeypatch.setattr(token_counter, "PART_S", 0.0)
    vocabulary = ByWords()
    noted: list[int] = []
    long = [{"role": "user", "content": text} for text in ("one", "two three", "four five six")]
    async with counting(lambda: vocabulary) as counter:
        for _ in range(2):
            counter.note([orjson.dumps({"messages": long})], "qwen3-8b", lambda found: noted.append(found.tokens))
        await until(lambda: len(counter._noted) == 1)  # the other one is begun, and asking does not come before it
        await anyio.sleep(0.05)
        assert noted == []
        assert (await counter.count(prompt("one two"), Shape.OPENAI)).tokens == 2
        assert len(noted) == 1


async def test_cancelled_at_any_time() -> None:
    async with counting() as counter:
        await cancelled_at_every_await(lambda: counter.count(prompt("one"), Shape.OPENAI))
        assert (await counter.count(prompt("one two"), Shape.OPENAI)).tokens == 2


async def test_the_end_of_the_server() -> None:
    """Who still waits is told; the thread ends without having been waited for."""
    vocabulary = Gated()
    refused: list[str] = []

    async def ask(counter: TokenCounter) -> None:
        with suppress(InternalError):
            await counter.count(prompt("one"), Shape.OPENAI)
            return
        refused.append("refused")

    async with counting(lambda: vocabulary) as counter, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, counter)
        await until(vocabulary.is_busy.is_set)
        tasks.start_soon(ask, counter)
        await anyio.wait_all_tasks_blocked()
        counter.close()
        vocabulary.may_go_on.set()
        await until(lambda: len(refused) == 1)
        counter.note([prompt("late")], "", lambda _: None)
        counter.warm()
        with pytest.raises(InternalError):
            await counter.count(prompt("late"), Shape.OPENAI)


class Panicking(ByWords):
    def count(self, text: str) -> int:
        if "panic" in text:
            raise Unencodable
        return super().count(text)


async def test_a_text_that_the_tokenizer_cannot_take_is_estimated() -> None:
    async with counting(Panicking) as counter:
        found = await counter.count(prompt("panic now"), Shape.OPENAI, "qwen3-8b")
        assert (found.tokens, found.is_exact) == (2, False)


async def test_without_the_ranks_there_is_an_estimate_and_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    async with counting(lambda: EstimatedVocabulary("they are gone")) as counter:
        body = prompt("one two three", return_tokens=True)
        found = await counter.count(body, Shape.OPENAI, "qwen3-8b", may_want_ids=True)
        assert (found.tokens, found.is_exact, found.ids_json) == (3, False, None)
    assert "they are gone" in caplog.text


class Broken(ByWords):
    def count(self, text: str) -> int:
        if "defect" in text:
            raise ZeroDivisionError
        return super().count(text)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_defect_costs_one_count() -> None:
    async with counting(Broken) as counter:
        with pytest.raises(InternalError) as failed:
            await counter.count(prompt("defect"), Shape.OPENAI)
        assert failed.value.code == "internal_error"
        assert (await counter.count(prompt("one"), Shape.OPENAI)).tokens == 1


async def test_it_is_loaded_once_and_ahead_where_asked() -> None:
    loads: list[int] = []

    def load() -> Vocabulary:
        loads.append(threading.get_ident())
        return ByWords()

    async with counting(load) as counter:
        counter.warm()
        await until(lambda: loads)
        await counter.count(prompt("one"), Shape.OPENAI)
    assert len(loads) == 1
    assert loads != [threading.get_ident()]

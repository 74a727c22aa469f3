"""`python -m bench lag`: how long the event loop stands still while tokens are counted beside it.

One process: a loop that wants to wake every millisecond, and the counter's thread with a conversation of a million
tokens. What is shown is how much later than wanted the loop woke, with the interpreter's own switch interval and with
the server's (`qproxy/edge/process.py`), and with nothing counted at all.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import anyio
import orjson

from qproxy.core.tokens import Shape
from qproxy.edge.process import SWITCH_INTERVAL_S
from qproxy.edge.runtime import current_runtime, run
from qproxy.edge.token_counter import TokenCounter

TOKENS = 1_000_000
PAUSE_S = 0.001
IDLE_S = 1.0
WORDS = 20_000
MESSAGE_WORDS = 2_000
MESSAGE_TOKENS = 5_000
PYTHONS_INTERVAL_S = 0.005
GOAL_MS = 5.0


@dataclass(frozen=True, slots=True)
class Lag:
    """Of one block of time, in ms."""

    what: str
    took_s: float
    median_ms: float
    p99_ms: float
    most_ms: float

    def __str__(self) -> str:
        return f"{self.what:<42}{self.took_s:6.2f} s {self.median_ms:8.2f} {self.p99_ms:8.2f} {self.most_ms:8.2f}"


def command(options: argparse.Namespace) -> int:
    """1 where the lag with the server's interval is above the goal."""
    print(f"{'':<42}{'took':>8} {'median':>8} {'p99':>8} {'most':>8}   ms late, {options.backend}")
    return run(_measure, options.tokens, backend=options.backend)


def add_options(parser: argparse.ArgumentParser, backends: tuple[str, ...]) -> None:
    parser.add_argument("--backend", choices=backends, default=backends[0])
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.set_defaults(action=command)


async def _measure(tokens: int) -> int:
    async with anyio.create_task_group() as tasks:
        counter = TokenCounter(current_runtime(tasks))
        print(await _lag("nothing counted", lambda: anyio.sleep(IDLE_S)))
        print(await _lag("the first one, which builds the tokenizer", lambda: _count(counter, _body(10, 0))))
        before_s = sys.getswitchinterval()
        for number, interval_s in enumerate((PYTHONS_INTERVAL_S, SWITCH_INTERVAL_S)):
            sys.setswitchinterval(interval_s)
            count = partial(_count, counter, _body(tokens, number))
            lag = await _lag(f"switching after {interval_s * 1000:g} ms", count)
            print(lag)
            print(await _lag("the same again", count))
        sys.setswitchinterval(before_s)
        counter.close()
        tasks.cancel_scope.cancel()
    return 0 if lag.most_ms < GOAL_MS else 1


async def _count(counter: TokenCounter, body: bytes) -> int:
    return (await counter.count(body, Shape.OPENAI)).tokens


async def _lag(what: str, work: Callable[[], Awaitable[int | None]]) -> Lag:
    late_s: list[float] = []

    async def wake() -> None:
        while True:
            wanted_s = time.perf_counter() + PAUSE_S
            await anyio.sleep(PAUSE_S)
            late_s.append(time.perf_counter() - wanted_s)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wake)
        await anyio.sleep(0.05)
        late_s.clear()
        begun_s = time.perf_counter()
        tokens = await work()
        took_s = time.perf_counter() - begun_s
        await anyio.sleep(10 * PAUSE_S)  # short work is over before the loop wakes
        tasks.cancel_scope.cancel()
    late_s.sort()
    median, p99 = late_s[len(late_s) // 2], late_s[len(late_s) * 99 // 100]
    return Lag(what if tokens is None else f"{what}: {tokens}", took_s, median * 1000, p99 * 1000, late_s[-1] * 1000)


def _body(tokens: int, seed: int) -> bytes:
    """A conversation of about so many tokens: words of made-up prose and code, with what JSON has to escape."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(WORDS)]
    words += ['"', "\n", "\n    ", "()", "= 1", "中文", "é", "{", "};\n"] * (WORDS // 100)
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": " ".join(chance.choices(words, k=MESSAGE_WORDS))}
        for number in range(max(1, tokens // MESSAGE_TOKENS))
    ]
    return orjson.dumps({"model": "qwen3-8b", "messages": messages})

"""A request that gets no answer leaves nothing to the garbage collector: whoever is refused asks again and again, and
each time with the whole body."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson
import pytest

from qproxy import app
from qproxy.simulator import Options, Simulator, running
from tests.support.account_stage import chat_body, key_settings, log_in, login_settings
from tests.support.garbage import kept_garbage
from tests.support.leaks import turns
from tests.support.live import settings_for
from tests.support.raw_client import post, raw_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from qproxy.config import Settings

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
SOON_S = 0.05
TEXTS = {"short": "hello", "long": "hello " * 60_000}  # the long one goes up while it arrives
HELD = "sim-slow-head"


def logged_out(simulator: Simulator, home: Path) -> Settings:
    home.mkdir()
    return login_settings(simulator, home)


def logged_in(simulator: Simulator, home: Path) -> Settings:
    log_in(simulator, home)
    return login_settings(simulator, home)


def two_keys(simulator: Simulator, _: Path) -> Settings:
    return key_settings(simulator, "sk-one", "sk-two")


def within_a_moment(simulator: Simulator, _: Path) -> Settings:
    settings = settings_for(simulator.base_url)
    return replace(settings, timeouts=replace(settings.timeouts, total_s=SOON_S))


def one_place(simulator: Simulator, _: Path) -> Settings:
    settings = settings_for(simulator.base_url)
    return replace(
        settings,
        limits=replace(settings.limits, max_exchanges=1),
        timeouts=replace(settings.timeouts, queue_wait_s=SOON_S),
    )


def one_connection(simulator: Simulator, _: Path) -> Settings:
    settings = settings_for(simulator.base_url)
    upstreams = {
        name: replace(each, upstream=replace(each.upstream, max_connections=1))
        for name, each in settings.upstreams.items()
    }
    return replace(settings, upstreams=upstreams, timeouts=replace(settings.timeouts, pool_wait_s=SOON_S))


@dataclass(frozen=True)
class Refusal:
    """Settings, a model, and how a request for it ends. `beside_another`: one that is held takes what there is."""

    settings: Callable[[Simulator, Path], Settings]
    model: str
    code: bytes
    beside_another: bool = False


REFUSALS = {
    "no login": Refusal(logged_out, "m", b"credentials_unavailable"),
    "a login that is refused": Refusal(logged_in, "sim-401", b""),
    "all keys have used up their allowance": Refusal(two_keys, "sim-429-rate", b""),
    "all keys are refused": Refusal(two_keys, "sim-401", b""),
    "no answer in time": Refusal(within_a_moment, HELD, b"total_timeout"),
    "half an answer in time": Refusal(within_a_moment, "sim-stall", b"total_timeout"),
    "no place": Refusal(one_place, "m", b"overloaded", beside_another=True),
    "no connection": Refusal(one_connection, "m", b"overloaded", beside_another=True),
}


@asynccontextmanager
async def another(simulator: Simulator, proxy: app.Running) -> AsyncIterator[None]:
    """A request that is held upstream for as long as the block takes."""
    async with raw_client(proxy.url) as client:
        await client.wire.send(request("short", HELD))
        await simulator.held()
        yield


def request(text: str, model: str) -> bytes:
    body = chat_body(model, stream=True, messages=[{"role": "user", "content": TEXTS[text]}])
    return post(PATH, orjson.dumps(body), b"Connection: close")


async def ask(proxy: app.Running, request: bytes) -> bytes:
    """All that came of it."""
    async with raw_client(proxy.url) as client:
        await client.wire.send(request)
        said = await client.closed()
    await turns(20)
    return said


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", REFUSALS)
async def test_nothing_waits_for_the_collector(tmp_path: Path, name: str, text: str) -> None:
    row = REFUSALS[name]
    async with running(Options(record=0)) as simulator:
        async with app.running(row.settings(simulator, tmp_path / "home")) as proxy:
            async with another(simulator, proxy) if row.beside_another else nullcontext():
                said = [await ask(proxy, request(text, row.model))]
                with kept_garbage() as found:
                    said += [await ask(proxy, request(text, row.model)) for _ in range(3)]
    assert found == {}
    assert all(b'"error"' in each and row.code in each for each in said), said

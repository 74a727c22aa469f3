"""An exchange that fails leaves nothing to the garbage collector either: what waits for it holds whole bodies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest

from qproxy import app
from qproxy.config import Settings
from qproxy.simulator import Options, running
from qproxy.simulator.wire import PeerLeft
from tests.support.garbage import kept_garbage
from tests.support.leaks import turns
from tests.support.live import settings_for
from tests.support.raw_client import RawClient, chunks, post, raw_client, request_head

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
SOON_S = 0.1
PATIENT_S = 30.0  # where an answer is to come
SHORT = "hello"
LONG = "hello " * 60_000  # goes up while it arrives
BROKEN_ANSWERS = ("cut", "cut-in-event", "cut-after-head", "cut-before-head", "reset", "reset-before-head", "truncate",
                  "empty-stream", "stall", "slow-head", "early-413")  # fmt: skip


def body(model: str, text: str, *, stream: bool = True) -> bytes:
    return orjson.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]})


def settings(upstream: str, wait_s: float) -> Settings:
    usual = settings_for(upstream)
    clocks = replace(
        usual.timeouts,
        first_byte_stream_s=wait_s,
        first_byte_per_100k_tokens_s=0.1,
        stream_idle_s=wait_s,
        body_s=wait_s,
    )
    return replace(usual, timeouts=clocks)


async def left_behind(work: Callable[[RawClient], Awaitable[object]], wait_s: float = SOON_S) -> Counter[str]:
    """The proxy's objects that wait for the collector after a few exchanges."""
    async with running(Options(record=0)) as simulator, app.running(settings(simulator.base_url, wait_s)) as proxy:

        async def exchange() -> None:
            async with raw_client(proxy.url) as client:
                try:
                    await work(client)
                    await client.closed()
                except PeerLeft:
                    pass
            await turns(20)

        await exchange()
        with kept_garbage() as found:
            for _ in range(3):
                await exchange()
        return found


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("scenario", BROKEN_ANSWERS)
async def test_broken_answers(scenario: str, text: str) -> None:
    request = post(PATH, body(f"sim-{scenario}", text), b"Connection: close")

    async def ask(client: RawClient) -> None:
        await client.wire.send(request)

    assert await left_behind(ask) == {}


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("end", ["silence", "FIN", "RST"])
async def test_half_bodies(end: str, text: str) -> None:
    request = post(PATH, body("m", text))

    async def send_half(client: RawClient) -> None:
        await client.wire.send(request[: len(request) * 3 // 4])
        await turns(5)
        if end == "FIN":
            client.wire.half_close()
        elif end == "RST":
            client.wire.reset()
            raise PeerLeft

    assert await left_behind(send_half) == {}


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
async def test_broken_chunks(text: str) -> None:
    head = request_head("POST", PATH, b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    pieces = [head, *chunks([body("m", text)])[:-1], b"-1\r\n"]

    async def send_broken(client: RawClient) -> None:
        for piece in pieces:
            await client.wire.send(piece)

    assert await left_behind(send_broken) == {}


async def test_bodies_that_name_two_models() -> None:
    request = post(PATH, body("m", LONG)[:-1] + b',"model":"n"}', b"Connection: close")

    async def ask(client: RawClient) -> None:
        answer = await client.ask(request)
        assert answer.error_code == "duplicate_key"

    assert await left_behind(ask, PATIENT_S) == {}


async def test_clients_that_leave_while_they_wait() -> None:
    async def ask_and_leave(client: RawClient) -> None:
        await client.wire.send(post(PATH, body("sim-slow-head", SHORT)))
        await turns(20)
        raise PeerLeft

    assert await left_behind(ask_and_leave) == {}


async def test_kept_connections_that_the_upstream_closes() -> None:
    async def ask_twice(client: RawClient) -> None:
        answer = await client.ask(post(PATH, body("m", SHORT)))
        assert answer.status == 200
        await client.ask(post(PATH, body("sim-cut-before-head", SHORT), b"Connection: close"))

    assert await left_behind(ask_twice, PATIENT_S) == {}

"""A client that leaves takes everything along that runs for it, in whatever phase, and leaves nothing behind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.hostile.conftest import Recorder, guarded, recording
from tests.support.leaks import nothing_left, open_sockets, turns
from tests.support.raw_client import RawClient, post, raw_client, request_head
from tests.support.scripted_upstream import scripted_upstream, wait_without_reading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qproxy import app

pytestmark = pytest.mark.anyio

JSON = b"Content-Type: application/json"
LEAVE = ["fin", "reset"]


def leave(client: RawClient, how: str) -> None:
    if how == "reset":
        client.wire.reset()
    else:
        client.wire.close()


async def in_the_head(client: RawClient, _: Recorder) -> None:
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a")


async def behind_the_head(client: RawClient, _: Recorder) -> None:
    await client.send(request_head("POST", "/v1/chat/completions", JSON, b"Content-Length: 10"))


async def in_a_stored_body(client: RawClient, _: Recorder) -> None:
    await client.send(request_head("POST", "/v1/chat/completions", JSON, b"Content-Length: 10"), b'{"mode')


async def in_a_body_that_is_passed_on(client: RawClient, recorder: Recorder) -> None:
    before = recorder.received_bytes
    await client.send(request_head("POST", "/v1/files", b"Content-Length: 10"), b'"wai')
    while b'"wai' not in _tail(recorder, before):
        await turns(1)


async def while_the_upstream_thinks(client: RawClient, recorder: Recorder) -> None:
    await client.send(post("/v1/chat/completions", b'{"model":"wait"}'))
    await recorder.until_waiting()


async def behind_an_upload_while_the_upstream_thinks(client: RawClient, recorder: Recorder) -> None:
    await client.send(request_head("POST", "/v1/files", b"Content-Length: 6"), b'"wait"')
    await recorder.until_waiting()


async def behind_a_chunked_upload_while_the_upstream_thinks(client: RawClient, recorder: Recorder) -> None:
    await client.send(
        request_head("POST", "/v1/files", b"Transfer-Encoding: chunked"), b'6\r\n"wait"\r\n', b"0\r\n\r\n"
    )
    await recorder.until_waiting()


async def in_the_stream(client: RawClient, recorder: Recorder) -> None:
    await client.send(post("/v1/chat/completions", b'{"model":"stall","stream":true}'))
    answer = await client.begin()
    await client.until(answer, b"data: ")


async def in_the_stream_of_an_old_client(client: RawClient, recorder: Recorder) -> None:
    await client.send(post("/v1/chat/completions", b'{"model":"stall","stream":true}', version=b"1.0"))
    answer = await client.begin()
    await client.until(answer, b"data: ")


async def in_a_flood_that_it_does_not_read(client: RawClient, recorder: Recorder) -> None:
    before = recorder.open_connections
    await client.send(post("/v1/chat/completions", b'{"model":"flood","stream":true}'))
    while recorder.open_connections == before:
        await turns(1)
    await anyio.sleep(0.05)


def _tail(recorder: Recorder, before: int) -> bytes:
    assert recorder.scripted is not None
    return b"".join(connection.received for connection in recorder.scripted.connections)[before:]


PHASES: list[Callable[[RawClient, Recorder], Awaitable[None]]] = [
    in_the_head,
    behind_the_head,
    in_a_stored_body,
    in_a_body_that_is_passed_on,
    while_the_upstream_thinks,
    behind_an_upload_while_the_upstream_thinks,
    behind_a_chunked_upload_while_the_upstream_thinks,
    in_the_stream,
    in_the_stream_of_an_old_client,
    in_a_flood_that_it_does_not_read,
]


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
async def test_nothing_is_left(
    proxy: app.Running, recorder: Recorder, phase: Callable[[RawClient, Recorder], Awaitable[None]], how: str
) -> None:
    """C07, C08, C09."""
    await recorder.until_idle()
    async with nothing_left():
        async with raw_client(proxy.url) as client:
            await phase(client, recorder)
            leave(client, how)
        await recorder.until_idle()
    assert recorder.waiting == 0
    async with raw_client(proxy.url) as client:
        assert (await client.ask(post("/v1/embeddings", b'{"model":"m"}', b"Connection: close"))).status == 200


@pytest.mark.parametrize("body", [b'{"model":"wait"}', b'{"model":"stall","stream":true}'])
async def test_a_half_closed_client_has_left(proxy: app.Running, recorder: Recorder, body: bytes) -> None:
    """C05: FIN is the only sign that a waiting client has gone."""
    async with raw_client(proxy.url) as client:
        await client.send(post("/v1/chat/completions", body))
        await recorder.until_waiting()
        client.wire.half_close()
        await client.closed()
    await recorder.until_idle()


@pytest.mark.parametrize(
    "request_bytes",
    [
        post("/v1/chat/completions", b'{"model":"wait","x":"%b"}' % (b"y" * 300_000)),
        request_head("POST", "/v1/files", b"Content-Length: 6") + b'"wait"',
        request_head("POST", "/v1/files", b"Transfer-Encoding: chunked") + b'6\r\n"wait"\r\n0\r\n\r\n',
    ],
    ids=["stored", "passed on", "passed on in chunks"],
)
async def test_also_one_that_ends_together_with_its_request(
    proxy: app.Running, recorder: Recorder, request_bytes: bytes
) -> None:
    async with raw_client(proxy.url) as client:
        await client.wire.send(request_bytes)
        client.wire.half_close()
        await client.closed()
    await recorder.until_idle()
    assert recorder.waiting == 0


async def test_one_in_line_for_a_connection() -> None:
    """C09."""
    async with recording() as recorder, guarded(recorder.url) as proxy:
        pool = await _narrow(proxy, recorder)
        async with raw_client(proxy.url) as first:
            await first.send(post("/v1/chat/completions", b'{"model":"wait"}'))
            await recorder.until_waiting()
            for how in LEAVE * 3:
                async with raw_client(proxy.url) as client:
                    await client.send(post("/v1/embeddings", b'{"model":"in line"}'))
                    while not pool._line:  # type: ignore[attr-defined]
                        await turns(1)
                    leave(client, how)
                while pool._line:  # type: ignore[attr-defined]
                    await turns(1)
            async with raw_client(proxy.url) as last:
                await last.send(post("/v1/embeddings", b'{"model":"last"}'))
                while not pool._line:  # type: ignore[attr-defined]
                    await turns(1)
                leave(first, "reset")
                assert (await last.answer()).status == 200
        assert not any(b"in line" in request for request in recorder.requests)


async def _narrow(proxy: app.Running, recorder: Recorder) -> object:
    """One connection to the upstream, and no more."""
    async with raw_client(proxy.url) as client:
        assert (await client.ask(post("/v1/embeddings", b'{"model":"m"}'))).status == 200
    (pool,) = proxy.app.upstreams._pools.values()
    pool._capacity = 1
    return pool


async def test_one_whose_upload_finds_no_taker() -> None:
    for how in LEAVE:
        has_left = anyio.Event()
        async with nothing_left(), scripted_upstream([wait_without_reading(has_left)]) as upstream:
            async with guarded(upstream.url) as proxy, raw_client(proxy.url) as client:
                await client.send(request_head("POST", "/v1/files", b"Content-Length: 60000000"), bytes(65536))
                connection = await upstream.connected()
                with anyio.move_on_after(0.2):
                    while True:
                        await client.wire.send(bytes(65536))
                leave(client, how)
                has_left.set()
                await connection.peer_left.wait()


async def test_hundreds_that_leave_at_any_time_leave_the_pool_whole() -> None:
    """R9, C08."""
    chance = random.Random(5)
    bodies = [b'{"model":"%b","stream":true}' % model for model in (b"m", b"wait", b"stall")]
    async with recording() as recorder, guarded(recorder.url) as proxy:

        async def visit(times: int) -> None:
            for _ in range(times):
                async with raw_client(proxy.url) as client:
                    await client.wire.send(post("/v1/chat/completions", chance.choice(bodies)))
                    await turns(chance.randrange(25))
                    leave(client, chance.choice(LEAVE))

        async with raw_client(proxy.url) as client:
            assert (await client.ask(post("/v1/embeddings", b"{}"))).status == 200
        sockets = len(open_sockets())
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(visit, 20)
        await recorder.until_idle()
        with anyio.fail_after(10):
            while len(open_sockets()) > sockets:
                await anyio.sleep(0.005)
        async with raw_client(proxy.url) as client:
            for _ in range(5):
                assert (await client.ask(post("/v1/embeddings", b"{}"))).status == 200

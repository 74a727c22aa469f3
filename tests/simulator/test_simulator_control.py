"""What tests see of the simulator and tell it: records, counters, scripts, accounts, aborts, TLS and unix sockets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import anyio
import httpcore
import orjson
import pytest

from qproxy.simulator import Options, running
from tests.support.http_client import http_client, port_of, raw_post

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
CHAT = "/chat/completions"
HI: dict[str, Any] = {"model": "qwen", "messages": [{"role": "user", "content": "hi"}]}


def raw_chat(body: bytes, *lines: bytes) -> bytes:
    return raw_post("/v1/chat/completions", body, *lines)


async def test_requests_are_recorded_to_the_byte() -> None:
    body = b'{ "model":"qwen",\n "messages":[{"role":"user","content":"\\u00e9"}], "x":1.0e5 }'
    request = raw_chat(body, b"X-Odd-CASE:  two  words ")
    async with running(Options(record=2)) as simulator:
        async with await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
            for count in (1, 2, 3):
                await stream.send(request)
                await simulator.completed(count)
        assert len(simulator.requests) == 2
        recorded = simulator.requests[-1]
        assert recorded.body == body
        assert recorded.head.raw + recorded.body == request
        assert (b"X-Odd-CASE", b"two  words") in recorded.headers
        assert (recorded.method, recorded.path, recorded.connection) == ("POST", "/v1/chat/completions", 1)
        assert recorded.header("x-odd-case") == "two  words"


async def test_keys_are_checked_as_dashscope_does() -> None:
    async with running(Options(keys=frozenset({"sk-1"}))) as simulator, http_client(simulator.base_url) as client:
        right = await client.post(CHAT, HI, authorization="Bearer sk-1")
        wrong = await client.post(CHAT, HI, authorization="Bearer sk-2")
        other = await client.post(CHAT, HI, x_api_key="sk-1")
        models = await client.get("/models")
    assert right.status == 200
    assert (wrong.status, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert wrong.json()["error"]["message"].startswith("Incorrect API key provided")
    assert (other.status, other.json()["error"]["message"]) == (401, "No API-key provided.")
    assert models.status == 401


async def test_scripted_failures_come_once_each_and_in_order() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        simulator.fail_next("429-quota")
        simulator.fail_next("500", times=2)
        simulator.fail_next("404", path="/models")
        statuses = [(await client.post(CHAT, HI)).status for _ in range(4)]
        assert statuses == [429, 500, 500, 200]
        assert (await client.get("/models")).status == 404
        assert (await client.get("/models")).status == 200
        with pytest.raises(ValueError, match="no scenario is called 'nope'"):
            simulator.fail_next("nope")


async def test_accounts_have_scripts_and_limits_of_their_own() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:

        async def status(key: str) -> int:
            return (await client.post(CHAT, HI, authorization=f"Bearer {key}")).status

        simulator.account("a").limit(2)
        simulator.account("b").answer_next("401", "503-retry-after")
        simulator.account("c").close()
        assert [await status("a") for _ in range(4)] == [200, 200, 429, 429]
        assert [await status("b") for _ in range(3)] == [401, 503, 200]
        assert [await status("c"), await status("c"), await status("d")] == [401, 401, 200]
        simulator.account("a").lift()
        simulator.account("c").lift()
        assert [await status("a"), await status("c")] == [200, 200]
        assert simulator.account("a").requests == 5


async def test_concurrency_of_an_account_is_limited() -> None:
    async with running() as simulator, http_client(simulator.base_url, authorization="Bearer a") as client:
        simulator.account("a").limit_concurrency(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.post, CHAT, {**HI, "model": "sim-slow-head"})
            await simulator.held()
            second = await client.post(CHAT, HI)
            simulator.release()
        assert (second.status, "concurrency" in second.json()["error"]["message"]) == (429, True)
        assert (await client.post(CHAT, HI)).status == 200


@pytest.mark.parametrize("where", ["x-sim-pace: 0.001", "x-sim-scenario: stall", "x-sim-scenario: slow-head"])
async def test_a_client_that_leaves_is_noticed_at_once(where: str) -> None:
    body = orjson.dumps({**HI, "stream": True})
    async with running() as simulator:
        stream = await anyio.connect_tcp("127.0.0.1", port_of(simulator.url))
        await stream.send(raw_chat(body, where.encode()))
        await simulator.received()
        assert simulator.counters.aborted == 0
        await stream.aclose()
        await simulator.aborted()
        await simulator.disconnected()
        assert simulator.counters.completed == 0


async def test_a_client_that_leaves_during_the_prefill_is_noticed() -> None:
    async with running(Options(prefill_s_per_mb=1e9)) as simulator:
        stream = await anyio.connect_tcp("127.0.0.1", port_of(simulator.url))
        await stream.send(raw_chat(orjson.dumps(HI)))
        await simulator.received()
        await stream.aclose()
        await simulator.aborted()


async def test_a_client_that_resets_a_long_stream_is_noticed() -> None:
    body = orjson.dumps({**HI, "stream": True})
    async with running(Options(tokens=200_000)) as simulator:
        client = socket.create_connection(("127.0.0.1", port_of(simulator.url)))
        client.sendall(raw_chat(body))
        await simulator.received()
        client.close()
        await simulator.aborted()


async def test_an_upload_that_stops_is_not_a_request() -> None:
    async with running() as simulator:
        stream = await anyio.connect_tcp("127.0.0.1", port_of(simulator.url))
        await stream.send(raw_chat(b"{}")[:-1])
        await simulator.until(lambda counters: counters.heads == 1)
        await stream.aclose()
        await simulator.until(lambda counters: counters.aborted_uploads == 1)
        assert (simulator.counters.requests, len(simulator.requests)) == (0, 0)


async def test_pipelined_requests_are_answered_in_order() -> None:
    first, second = orjson.dumps({**HI, "n": 2}), orjson.dumps({**HI, "n": 3})
    async with running(Options(tokens=0)) as simulator:
        async with await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
            await stream.send(raw_chat(first) + raw_chat(second, b"Connection: close"))
            got = b"".join([part async for part in stream])
        assert [request.body for request in simulator.requests] == [first, second]
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert got.index(b'"index":1') < got.index(b'"index":2')


async def test_expect_is_answered_and_bad_heads_are_refused() -> None:
    async with running() as simulator:
        async with await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
            head, _, body = raw_chat(orjson.dumps(HI), b"Expect: 100-continue").partition(b"\r\n\r\n")
            await stream.send(head + b"\r\n\r\n")
            assert await stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await stream.send(body)
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 OK\r\n")
        async with await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
            await stream.send(b"GET / HTTP/1.0\r\n\r\n")
            assert b"".join([part async for part in stream]).startswith(b"HTTP/1.1 400 ")
        assert simulator.counters.bad_requests == 1


async def test_a_body_that_is_not_json_is_refused_in_the_shape_of_the_api() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.ask("POST", CHAT, b'{"model":', {})
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_parameter_error")


async def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "model.sock")
    async with (
        running(socket_path=path) as simulator,
        http_client("http://localhost/v1", socket_path=path) as client,
    ):
        assert simulator.url == f"http+unix://{path}"
        assert (await client.post(CHAT, HI)).status == 200


async def test_leaving_the_block_closes_every_connection() -> None:
    async with running() as simulator:
        stream = await anyio.connect_tcp("127.0.0.1", port_of(simulator.url))
        await simulator.until(lambda counters: counters.connections_open == 1)
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await stream.receive()
    await stream.aclose()
    assert simulator.counters.connections_open == 0


async def test_the_date_can_be_wrong() -> None:
    async with running(Options(clock_skew_s=-3 * 365 * 86400)) as simulator, http_client(simulator.base_url) as client:
        skewed = await client.get("/models")
    async with running() as simulator, http_client(simulator.base_url) as client:
        right = await client.get("/models")
    assert int(right.header("date").split()[3]) - int(skewed.header("date").split()[3]) in (2, 3)


async def test_httpcore_keeps_its_connection() -> None:
    async with running() as simulator, httpcore.AsyncConnectionPool() as pool:
        for streams in (True, False, True):
            body = orjson.dumps({**HI, "stream": streams})
            headers = [(b"content-type", b"application/json")]
            await pool.request("POST", simulator.base_url + CHAT, headers=headers, content=body)
    assert simulator.counters.connections == 1

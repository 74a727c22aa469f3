"""Every row of the scenario table does what its name says, over a real connection."""

from __future__ import annotations

import re
from typing import Any

import anyio
import httpcore
import orjson
import pytest

import qproxy.simulator
from qproxy.simulator import SCENARIOS, Options, Simulator, running
from qproxy.simulator.answers import Refusal, Reply, Shape
from qproxy.simulator.scenarios import Hold
from tests.support.http_client import Answer, Client, http_client, port_of, raw_post

pytestmark = pytest.mark.anyio
CHAT = "/chat/completions"
WHOLE = [name for name, row in SCENARIOS.items() if isinstance(row.answer, Refusal) and not row.early]
EARLY = [name for name, row in SCENARIOS.items() if row.early]


def ask(scenario: str, **more: object) -> dict[str, Any]:
    return {"model": f"sim-{scenario}", "messages": [{"role": "user", "content": "hi"}], "stream": True, **more}


async def stream_of(scenario: str) -> Answer:
    async with running(Options(tokens=6)) as simulator, http_client(simulator.base_url) as client:
        return await client.post(CHAT, ask(scenario))


@pytest.mark.parametrize("name", WHOLE)
async def test_refusals_have_the_status_in_their_name_and_their_shape(name: str) -> None:
    refusal = SCENARIOS[name].answer
    assert isinstance(refusal, Refusal)
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, ask(name))
    assert str(answer.status) == name[:3]
    body = answer.content
    if refusal.shape is Shape.HTML:
        assert answer.header("content-type").startswith("text/html")
    elif refusal.shape is Shape.TEXT:
        assert answer.header("content-type") == "text/plain"
    elif refusal.shape is Shape.FLAT:
        assert (orjson.loads(body)["code"], orjson.loads(body)["message"]) == (refusal.code, refusal.message)
    elif refusal.shape is Shape.NESTED:
        raw = orjson.loads(body)["error"]["metadata"]["raw"]
        assert orjson.loads(raw.removeprefix("data: "))["error"]["code"] == refusal.code
    else:
        assert body.startswith(b"data: ") is (refusal.shape is Shape.SSE_FRAMED)
        error = orjson.loads(body.removeprefix(b"data: "))["error"]
        assert (error["code"], error["message"], error["type"]) == (refusal.code, refusal.message, refusal.type)


@pytest.mark.parametrize("name", [name for name in WHOLE if "retry-after" in name])
async def test_retry_after_is_a_header(name: str) -> None:
    answer = await stream_of(name)
    assert answer.header("retry-after") or answer.header("retry-after-ms")


@pytest.mark.parametrize("name", EARLY)
async def test_early_answers_come_before_the_body_and_end_the_connection(name: str) -> None:
    request = raw_post("/v1/chat/completions", b"{}", f"X-Sim-Scenario: {name}".encode())
    async with running() as simulator:
        async with await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
            await stream.send(request[:-1])
            got = b"".join([part async for part in stream])
        assert simulator.counters.requests == 0
    assert got.startswith(f"HTTP/1.1 {name[-3:]} ".encode())
    assert b"connection: close\r\n" in got


def test_every_scenario_is_documented() -> None:
    documented = set(re.findall(r"`([a-z0-9-]+)`", qproxy.simulator.__doc__ or ""))
    assert set(SCENARIOS) <= documented


async def test_an_unknown_scenario_in_the_header_is_said() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, ask("x", model="qwen"), x_sim_scenario="nope")
    assert (answer.status, "nope" in answer.json()["error"]["message"]) == (400, True)


async def test_the_place_of_a_fault_can_be_chosen() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post(CHAT, ask("error-in-stream"), x_sim_fault_after="7")
    assert ["error" in event for event in answer.events()] == [False] * 7 + [True]


async def test_an_early_head_does_not_wait_for_the_prefill() -> None:
    request = raw_post("/v1/chat/completions", orjson.dumps(ask("early-head")))
    async with running(Options(prefill_s_per_mb=1e9)) as simulator:
        async with await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
            await stream.send(request)
            assert (await stream.receive()).endswith(b"\r\n\r\n")
        await simulator.aborted()


async def test_an_unknown_scenario_is_an_unknown_model() -> None:
    answer = await stream_of("no-such-thing")
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["html-waf", "empty-200", "redirect", "error-200"])
async def test_replies_that_are_no_stream(name: str) -> None:
    row = SCENARIOS[name].answer
    assert isinstance(row, Reply)
    answer = await stream_of(name)
    assert (answer.status, answer.content) == (row.status, row.body)


async def test_errors_inside_a_stream() -> None:
    later = (await stream_of("error-in-stream")).events()
    assert [("error" in event) for event in later] == [False, False, False, True]
    twice = (await stream_of("error-twice")).events()
    assert twice[-1] == twice[-2]
    flat = await stream_of("error-flat")
    assert b"event: error\ndata: {" in flat.content
    assert flat.events()[-1]["code"] == "DataInspectionFailed"
    first = (await stream_of("error-first-event")).events()
    assert [event["error"]["code"] for event in first] == ["limit_requests"]
    assert (await stream_of("error-first-flat")).events()[0]["code"] == "DataInspectionFailed"


async def test_error_finish_hides_the_error_in_content() -> None:
    answer = await stream_of("error-finish")
    choice = answer.events()[-1]["choices"][0]
    assert choice["finish_reason"] == "error_finish"
    assert orjson.loads(choice["delta"]["content"])["code"] == 429
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_streams_without_their_end() -> None:
    no_done = await stream_of("no-done")
    assert b"[DONE]" not in no_done.content
    assert no_done.events()[-1]["choices"][0]["finish_reason"] == "stop"
    truncated = await stream_of("truncate")
    assert b"[DONE]" not in truncated.content
    assert {event["choices"][0]["finish_reason"] for event in truncated.events()} == {None}
    assert (await stream_of("empty-stream")).content == b""


async def test_truncate_takes_the_end_of_every_kind_of_stream() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post("/responses", {"model": "sim-truncate", "input": "hi", "stream": True})
    assert answer.events()[-1]["type"] == "response.output_item.done"


async def test_loose_framing_and_repeats_are_still_events() -> None:
    loose = await stream_of("loose")
    assert loose.content.startswith(b": keep-alive\n\n")
    assert b"\r\n\r\n" in loose.content
    assert b"\ndata:{" in loose.content
    repeated = (await stream_of("repeat")).events()
    assert repeated[0::2] == repeated[1::2]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cut", httpcore.RemoteProtocolError),
        ("cut-in-event", httpcore.RemoteProtocolError),
        ("cut-after-head", httpcore.RemoteProtocolError),
        ("cut-before-head", httpcore.RemoteProtocolError),
        ("cut-in-head", httpcore.RemoteProtocolError),
        ("reset", httpcore.ReadError),
        ("reset-before-head", httpcore.ReadError),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
async def test_connections_that_break(name: str, error: type[Exception], streams: bool) -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        with pytest.raises(error):
            await client.post(CHAT, ask(name, stream=streams))
        assert simulator.counters.completed == 0
        after = await client.post(CHAT, ask("early-head"))
    assert after.content.endswith(b"data: [DONE]\n\n")


async def test_a_cut_stream_has_delivered_three_events() -> None:
    request = raw_post("/v1/chat/completions", orjson.dumps(ask("cut")))
    async with running() as simulator, await anyio.connect_tcp("127.0.0.1", port_of(simulator.url)) as stream:
        await stream.send(request)
        got = b"".join([part async for part in stream])
    assert got.count(b"data: ") == 3
    assert got.endswith(b"\n\n\r\n")


@pytest.mark.parametrize("name", [name for name, row in SCENARIOS.items() if row.hold is not Hold.NOWHERE])
@pytest.mark.parametrize("streams", [True, False])
async def test_held_exchanges_go_on_when_they_are_released(name: str, streams: bool) -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await held(simulator, client, name, streams)
    assert answer.status == 200
    assert (b"[DONE]" in answer.content) is streams
    assert simulator.counters.held == 0


async def held(simulator: Simulator, client: Client, name: str, streams: bool) -> Answer:
    """Asks; releases what is held as soon as it is; gives the answer."""

    async def release() -> None:
        await simulator.held()
        simulator.release()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release)
        return await client.post(CHAT, ask("normal", model="qwen", stream=streams), x_sim_scenario=name)
    raise AssertionError("unreachable")

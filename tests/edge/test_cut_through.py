"""Long bodies go up while they arrive; what the model decides is decided in time, or the body is stored."""

from __future__ import annotations

from pathlib import Path

import anyio.lowlevel
import orjson
import pytest

from qproxy import app
from qproxy.config import Settings, load
from qproxy.simulator import Options, Simulator, running
from tests.support.live import NOWHERE, settings_for
from tests.support.raw_client import RawClient, raw_client
from tests.support.scripted_upstream import ScriptedUpstream, answer, expect_request, scripted_upstream, send

pytestmark = pytest.mark.anyio

LONG = 700 * 1024
TEXT = "no end to it. "


def body_of(model: str, *, model_first: bool, length: int = LONG) -> bytes:
    messages = {"messages": [{"role": "user", "content": TEXT * (length // len(TEXT))}]}
    named = {"model": model}
    return orjson.dumps(named | messages if model_first else messages | named)


def head_of(body: bytes, *extra: bytes) -> bytes:
    lines = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *extra,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def arrived(upstream: ScriptedUpstream, mark: bytes) -> None:
    connection = await upstream.connected()
    while mark not in connection.received:
        await anyio.lowlevel.checkpoint()


def file_settings(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "qproxy.toml"
    path.write_text(text, encoding="utf-8")
    return load({"port": 0, "access_log": "off", "config": str(path)}, {}, NOWHERE, NOWHERE)


@pytest.mark.parametrize("model_first", [True, False])
async def test_the_upload_starts_before_the_body_is_complete(model_first: bool) -> None:
    body = body_of("qwen3-coder-plus", model_first=model_first)
    mark = b"<the first half ends here>"
    body = body.replace(TEXT.encode() * 100, TEXT.encode() * 98 + mark.ljust(2 * len(TEXT)), 1)
    assert body.count(mark) == 1
    script = [expect_request(), send(answer(200, [(b"content-type", b"application/json")], body=b"{}"))]
    async with (
        scripted_upstream(script) as upstream,
        app.running(settings_for(upstream.url + "/v1")) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(head_of(body), body[: len(body) // 2])
        await arrived(upstream, mark)  # while the client still owes the other half
        await client.send(body[len(body) // 2 :])
        assert (await client.answer()).status == 200
        assert upstream.connections[0].received.endswith(b"\r\n\r\n" + body)


async def exchange(client: RawClient, body: bytes, *extra: bytes) -> int:
    await client.send(head_of(body, *extra), *[body[at : at + 100_000] for at in range(0, len(body), 100_000)])
    return (await client.answer()).status


async def sent_up(simulator: Simulator, proxy: app.Running, body: bytes, *extra: bytes) -> bytes:
    async with raw_client(proxy.url) as client:
        assert await exchange(client, body, *extra) == 200
    return bytes(simulator.requests[-1].body)


@pytest.mark.parametrize("model_first", [True, False])
async def test_the_name_of_the_upstream_is_taken_off_the_model(model_first: bool) -> None:
    body = body_of("default:qwen3-coder-plus", model_first=model_first)
    async with running(Options(record=2)) as simulator, app.running(settings_for(simulator.base_url)) as proxy:
        received = await sent_up(simulator, proxy, body)
    assert orjson.loads(received) == orjson.loads(body) | {"model": "qwen3-coder-plus"}
    assert received.replace(b" ", b"") == body.replace(b"default:", b"").replace(b" ", b"")


@pytest.mark.parametrize("model_first", [True, False])
async def test_an_alias_is_followed_wherever_the_model_stands(model_first: bool, tmp_path: Path) -> None:
    body = body_of("short", model_first=model_first)
    async with running(Options(record=2)) as simulator:
        settings = file_settings(
            tmp_path, f'upstream = "{simulator.base_url}"\n[models]\nshort = "qwen3-coder-plus-with-a-long-name"\n'
        )
        async with app.running(settings) as proxy:
            received = await sent_up(simulator, proxy, body)
    assert received == body.replace(b'"short"', b'"qwen3-coder-plus-with-a-long-name"')


@pytest.mark.parametrize("model_first", [True, False])
async def test_the_model_chooses_among_several_upstreams(model_first: bool, tmp_path: Path) -> None:
    body = body_of("second:qwen3", model_first=model_first)
    async with running(Options(record=2)) as first, running(Options(record=2)) as second:
        settings = file_settings(
            tmp_path,
            f'upstream = "first"\n[upstreams.first]\nurl = "{first.base_url}"\n'
            f'[upstreams.second]\nurl = "{second.base_url}"\n',
        )
        async with app.running(settings) as proxy:
            received = await sent_up(second, proxy, body)
            assert received == body.replace(b"second:", b"")
            assert not first.requests
            pinned = await sent_up(first, proxy, body_of("qwen3", model_first=False), b"X-Qproxy-Upstream: first")
            assert pinned == body_of("qwen3", model_first=False)
            async with raw_client(proxy.url) as client:
                await client.send(head_of(body).replace(b"/v1/", b"/u/first/v1/"), body.replace(b"second:", b"1234567"))
                assert (await client.answer()).status == 200
            assert len(first.requests) == 2


async def test_a_client_that_leaves_half_way_aborts_the_upload() -> None:
    body = body_of("qwen3", model_first=False)
    async with scripted_upstream([expect_request()]) as upstream, app.running(settings_for(upstream.url)) as proxy:
        async with raw_client(proxy.url) as client:
            await client.send(head_of(body), body[: len(body) // 2])
            connection = await upstream.connected()
        await connection.peer_left.wait()
        assert b"\r\n\r\n" in connection.received
        assert len(connection.received) < len(body)


async def test_an_early_refusal_ends_the_upload() -> None:
    body = body_of("qwen3", model_first=False)

    async def take_some(connection: object) -> None:
        while len(connection.received) < 300_000:  # type: ignore[attr-defined]
            await connection.wire.receive_more()  # type: ignore[attr-defined]

    refusal = answer(413, [(b"content-type", b"application/json")], body=b'{"error":{"message":"too long"}}')
    async with (
        scripted_upstream([take_some, send(refusal)]) as upstream,
        app.running(settings_for(upstream.url + "/v1")) as proxy,
        raw_client(proxy.url) as client,
    ):
        await client.send(head_of(body), body[:400_000])
        given = await client.answer()
        assert given.status == 413
        assert given.header(b"connection") == b"close"


async def test_two_long_bodies_on_one_connection() -> None:
    async with running(Options(record=2)) as simulator, app.running(settings_for(simulator.base_url)) as proxy:
        async with raw_client(proxy.url) as client:
            for model in ("one", "two"):
                body = body_of(model, model_first=model == "one")
                assert await exchange(client, body) == 200
                assert bytes(simulator.requests[-1].body) == body
        assert simulator.counters.connections == 1

"""A long body goes up while it arrives: where its end names another model than its beginning, nobody gets all of it
(faults.md C35)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qproxy import app
from tests.support.account_stage import with_keys
from tests.support.live import settings_for
from tests.support.raw_client import Answer, RawClient, post, raw_client, request_head
from tests.support.scripted_upstream import (
    answer,
    expect_head,
    expect_request,
    scripted_upstream,
    send,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qproxy.config import Settings
    from tests.support.scripted_upstream import Connection, Step

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
JSON = b"Content-Type: application/json"
TEXT = b'"' + b"no end to it. " * 30_000 + b'"'
GOOD = [expect_request(), send(answer(200, [(b"content-type", b"application/json")], b"{}"))]
PIECE_BYTES = 100_000


def body_of(end: bytes, *, model: bytes = b"qwen3", text: bytes = TEXT) -> bytes:
    return b'{"model":"%b","messages":[%b]%b}' % (model, text, end)


async def sent(client: RawClient, body: bytes, piece_bytes: int = PIECE_BYTES) -> Answer:
    await client.send(
        request_head("POST", CHAT, JSON, b"Content-Length: %d" % len(body)),
        *[body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)],
    )
    return await client.answer()


def body_received(connection: Connection) -> bytes:
    return connection.received.partition(b"\r\n\r\n")[2]


OTHERS = {
    "at the end": b',"model":"other"',
    "before other members": b',"model":"other","x":"%b"' % (b"y" * 50_000),
    "no name": b',"model":null',
    "the first one again, and another": b',"model":"qwen3","model":"other"',
}
SAME: dict[str, bytes] = {
    "none": b"",
    "the same": b',"model":"qwen3"',
    "further in": b',"tools":[{"model":"other"}]',
    "in a text": rb',"x":",\"model\":\"other\""',
    "in the middle, where nobody looks": b',"model":"other","x":"%b"' % (b"y" * 70_000),
}


@pytest.mark.parametrize("piece_bytes", [PIECE_BYTES, 1 << 24])
@pytest.mark.parametrize("case", OTHERS)
async def test_another_model_aborts_the_upload(case: str, piece_bytes: int) -> None:
    body = body_of(OTHERS[case])
    async with scripted_upstream(GOOD) as upstream:
        async with app.running(settings_for(f"{upstream.url}/v1")) as proxy, raw_client(proxy.url) as client:
            got = await sent(client, body, piece_bytes)
            assert (got.status, got.error_code) == (400, "duplicate_key")
            assert (got.header(b"x-should-retry"), got.header(b"connection")) == (b"false", b"")
            aborted = await upstream.connected()
            await aborted.peer_left.wait()
            assert aborted.steps_done == 0
            assert len(body_received(aborted)) < len(body)
            assert (await sent(client, body_of(b""))).status == 200, "the client's connection lives on"


@pytest.mark.parametrize("case", SAME)
async def test_everything_else_passes_byte_for_byte(case: str) -> None:
    body = body_of(SAME[case])
    async with scripted_upstream(GOOD) as upstream:
        async with app.running(settings_for(f"{upstream.url}/v1")) as proxy, raw_client(proxy.url) as client:
            assert (await sent(client, body)).status == 200
        assert body_received(upstream.connections[0]) == body


@pytest.mark.parametrize(
    ("end", "status"),
    [(b"", 200), (b',"model":"default:qwen3"', 200), (b',"model":"qwen3"', 200), (b',"model":"default:x"', 400)],
)
async def test_a_model_that_loses_the_name_of_its_upstream(end: bytes, status: int) -> None:
    body = body_of(end, model=b"default:qwen3")
    async with scripted_upstream(GOOD) as upstream:
        async with app.running(settings_for(f"{upstream.url}/v1")) as proxy, raw_client(proxy.url) as client:
            assert (await sent(client, body)).status == status
        received = body_received(upstream.connections[0])
        assert (received == body.replace(b"default:", b"", 1)) is (status == 200)


def impatient(settings: Settings) -> Settings:
    """Even short bodies go up while they arrive."""
    return replace(settings, limits=replace(settings.limits, inspect_bytes=100))


@pytest.mark.parametrize("model", [b"qwen3", b"default:qwen3"])
@pytest.mark.parametrize("size", [50, 5_000, 60_000, 66_000, 100_000])
async def test_a_body_whose_beginning_and_end_are_one(size: int, model: bytes) -> None:
    text = b'"%b"' % (b"x" * size)
    async with scripted_upstream(GOOD, GOOD) as upstream:
        settings = impatient(settings_for(f"{upstream.url}/v1"))
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            body = body_of(b',"n":1' * 9, model=model, text=text)
            assert (await sent(client, body, 10_000)).status == 200
            assert body_received(upstream.connections[0]) == body.replace(b"default:", b"")
            refused = await sent(client, body_of(b',"model":"other"', model=model, text=text), 10_000)
            assert (refused.status, refused.error_code) == (400, "duplicate_key")


@pytest.mark.parametrize("end", [b',"model":"other"', b""])
async def test_also_when_the_body_is_sent_again(end: bytes) -> None:
    """The first account has refused before the end was here."""
    body = body_of(end)
    early: Sequence[Step] = [
        expect_head(),
        send(answer(429, [(b"connection", b"close")], b'{"error":{"code":"insufficient_quota"}}')),
    ]
    async with scripted_upstream(early, GOOD) as upstream:
        settings = with_keys(settings_for(f"{upstream.url}/v1", rotation="fill_first"), "sk-one", "sk-two")
        async with app.running(settings) as proxy, raw_client(proxy.url) as client:
            await client.send(post(CHAT, body)[: len(body) // 2])
            await (await upstream.connected()).peer_left.wait()
            await client.send(post(CHAT, body)[len(body) // 2 :])
            got = await client.answer()
            if end:
                assert (got.status, got.error_code) == (400, "duplicate_key")
                assert len(upstream.connections) == 1
            else:
                assert got.status == 200
                assert body_received(upstream.connections[1]) == body

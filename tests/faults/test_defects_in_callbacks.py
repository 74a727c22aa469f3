"""P12, where no task is around: a defect in a read callback costs a connection, on every loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy.edge import delivery
from tests.hostile.conftest import DONE, FIRST_EVENT
from tests.support.live import live_proxy, settings_for
from tests.support.raw_client import End, post, raw_client, request_head
from tests.support.scripted_upstream import (
    answer,
    chunk,
    expect_request,
    scripted_upstream,
    send,
    stream_head,
    wait_for,
)
from tests.support.shell import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

STREAM = post("/v1/chat/completions", b'{"model":"m","stream":true}')
PLAIN = post("/v1/chat/completions", b'{"model":"m"}')


@pytest.fixture
def anyio_backend() -> str:
    """The tests' loops end a test for whatever is raised in a callback: the proxy has a loop of its own."""
    return "asyncio"


def broken(*_: object) -> Callable[[], None]:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize("backend", BACKENDS)
async def test_when_the_answer_has_begun(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is cut, and never ends as if it were whole."""
    go_on = anyio.Event()
    end = send(chunk(DONE) + chunk(b""))
    script = [expect_request(), send(stream_head() + chunk(FIRST_EVENT)), wait_for(go_on), end]
    second = [expect_request(), send(answer(200, [], b"{}"))]
    async with scripted_upstream(script, second) as upstream:
        with live_proxy(settings_for(upstream.url), backend) as proxy:
            async with raw_client(proxy.url) as client:
                await client.send(STREAM)
                got = await client.begin()
                await client.until(got, FIRST_EVENT)
                with monkeypatch.context() as patch:
                    patch.setattr(delivery, "usage_in", broken)
                    go_on.set()
                    while got.end is End.OPEN:
                        await client.more(got)
                assert got.end in (End.FIN, End.RESET)
            async with raw_client(proxy.url) as client:
                assert (await client.ask(request_head("GET", "/livez"))).status == 200
                assert (await client.ask(PLAIN)).status == 200

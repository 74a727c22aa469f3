"""An exchange leaves nothing to the garbage collector: with bodies of megabytes, what waits for it is memory."""

from __future__ import annotations

import gc
from collections import Counter

import orjson
import pytest

from qproxy import app
from qproxy.core.upstream import BaseUrl
from qproxy.simulator import Options, running
from tests.support.live import settings_for

pytestmark = pytest.mark.anyio

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
BODIES = {
    "plain": orjson.dumps(HELLO),
    "stream": orjson.dumps(HELLO | {"stream": True}),
    "long": orjson.dumps({"messages": [{"role": "user", "content": "hello " * 60_000}], "model": "m"}),
    "refused": b"{",
    "upstream error": orjson.dumps(HELLO | {"model": "sim-500"}),
}


@pytest.mark.parametrize("name", BODIES)
async def test_no_cycles(name: str) -> None:
    settings = settings_for(None)
    async with running(Options(record=0)) as simulator:
        settings = settings_for(simulator.base_url)
        async with app.running(settings) as proxy, app.direct_client(settings, BaseUrl.parse(proxy.url)) as client:

            async def ask() -> None:
                headers = [("content-type", "application/json"), ("host", "localhost")]
                await client.request("POST", proxy.url + "/v1/chat/completions", headers=headers, content=BODIES[name])

            await ask()
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for _ in range(5):
                    await ask()
                gc.collect()
                assert Counter(type(each).__name__ for each in gc.garbage) == {}
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

"""A server that has no descriptor left (`faults.md` P05)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from qproxy import app
from qproxy.edge.connect import NetworkBackend, NoDescriptors
from qproxy.edge.runtime import current_runtime
from tests.support.descriptors import no_descriptor_left
from tests.support.drain_stage import ASK, ASK_STREAM, FIRST, LAST, begin_stream, streaming, whole
from tests.support.live import settings_for
from tests.support.raw_client import End, RawClient, connect, raw_client, request_head
from tests.support.scripted_upstream import scripted_upstream
from tests.support.server_process import Server, server_process, with_descriptors

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LIVE = request_head("GET", "/livez")
READY = request_head("GET", "/readyz")
ALL_LET_IN = {"QPROXY_MAX_CONNECTIONS": "10000"}
CPU_SHARE = 0.5  # of a processor; a busy loop takes all of one


async def fill(server: Server, stack: AsyncExitStack, most: int) -> list[RawClient]:
    """Connections, as many as the server accepts before it has no descriptor left; the last one is not accepted."""
    clients = []
    while "accepting pauses" not in server.said():
        held = server.descriptors()
        wire = connect(server.url)
        stack.callback(wire.close)
        clients.append(RawClient(wire))
        assert len(clients) < most
        while server.descriptors() <= held and "accepting pauses" not in server.said():
            await anyio.sleep(0.002)
    return clients


class TestAProcess:
    @pytest.fixture
    def anyio_backend(self) -> str:
        """The loop of the test; that of the server is `backend`."""
        return "asyncio"

    @pytest.fixture(params=["uvloop", "trio"])
    def backend(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    async def test_what_is_open_lives_and_accepting_resumes(self, tmp_path: Path, backend: str) -> None:
        go_on = anyio.Event()
        async with (
            scripted_upstream([streaming(go_on)]) as upstream,
            server_process(
                tmp_path, upstream.url + "/v1", backend=backend, wrapper=with_descriptors(80), environ=ALL_LET_IN
            ) as server,
            raw_client(server.url) as streaming_client,
            raw_client(server.url) as idle,
        ):
            got = await begin_stream(streaming_client)
            assert (await idle.ask(LIVE)).status == 200
            async with AsyncExitStack() as stack:
                clients = await fill(server, stack, most=100)
                cpu_s = server.cpu_s()
                await anyio.sleep(1.0)
                assert server.cpu_s() - cpu_s < CPU_SHARE
                refused = await idle.ask(ASK)
                assert (refused.status, refused.error_code) == (503, "overloaded")
                assert (await idle.ask(READY)).status == 200
                waiting = clients.pop()
                await waiting.send(LIVE)
                for client in clients[:10]:
                    client.wire.close()
                assert (await waiting.answer()).status == 200
            go_on.set()
            assert (await whole(streaming_client, got)).end is End.WHOLE
            assert bytes(got.body) == FIRST + LAST
            assert (await idle.ask(ASK_STREAM)).status == 200
            assert server.said() == (
                "the limit of open files carries 8 connections, max_connections is 10000: raise it with ulimit -n\n"
                "accepting pauses: Too many open files\n"
            )

    async def test_the_limit_lets_in_as_many_as_descriptors_carry(self, tmp_path: Path, backend: str) -> None:
        """R1: without a setting none is accepted that could not be served."""
        async with server_process(
            tmp_path, "http://127.0.0.1:9/v1", backend=backend, wrapper=with_descriptors(100)
        ) as server:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(raw_client(server.url)) for _ in range(40)]
                statuses = [(await client.ask(LIVE)).status for client in clients]
            assert statuses == [200] * 18 + [503] * 22
            await server.until_said("\n")
            assert server.said() == (
                "the limit of open files carries 18 connections, "
                "more clients are turned away: raise it with ulimit -n\n"
            )

    async def test_a_limit_that_is_kept_needs_no_word(self, tmp_path: Path, backend: str) -> None:
        async with server_process(
            tmp_path,
            "http://127.0.0.1:9/v1",
            backend=backend,
            wrapper=with_descriptors(100),
            environ={"QPROXY_MAX_CONNECTIONS": "18"},
        ) as server:
            assert server.said() == ""


async def test_a_name_that_cannot_be_looked_up_for_that_is_no_wrong_name() -> None:
    async with anyio.create_task_group() as tasks:
        network = NetworkBackend(current_runtime(tasks))
        with no_descriptor_left(), pytest.raises(NoDescriptors):
            await network.connect_tcp("localhost", 9, timeout=10.0)
        tasks.cancel_scope.cancel()


async def test_certificates_that_cannot_be_read_for_that_are_no_defect() -> None:
    async with app.running(settings_for("https://localhost:9/v1")) as proxy, raw_client(proxy.url) as client:
        assert (await client.ask(LIVE)).status == 200
        with no_descriptor_left():
            refused = await client.ask(ASK)
        assert (refused.status, refused.error_code) == (503, "overloaded")
        assert (await client.ask(ASK)).error_code == "upstream_connect_failed"

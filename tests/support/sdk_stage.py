"""The whole proxy for SDKs: upstream and proxy each run in a thread of their own, the client in the test's.

So a client may block, and the proxy's loop need not be the client's.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio.from_thread import BlockingPortal, start_blocking_portal

from qproxy.simulator import Counters, Options, Request, Simulator, running
from tests.support.live import live_proxy, settings_for
from tests.support.scripted_upstream import answer, chunk, event, expect_request, scripted_upstream, send, stream_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qproxy.config import Settings
    from tests.support.scripted_upstream import Connection

CLIENT_KEY = "ck-of-the-client"
UPSTREAM_KEY = "sk-of-the-upstream"


@dataclass(frozen=True)
class Stage:
    """`base_url` is what an SDK is given; `simulator` lives in the thread of `portal`."""

    base_url: str
    simulator: Simulator
    portal: BlockingPortal

    @property
    def last_request(self) -> Request:
        """The newest request that the upstream received."""
        return self.simulator.requests[-1]

    def attempts(self, call: Callable[[], object]) -> int:
        """How many requests reached the upstream while `call` ran."""
        before = self.simulator.counters.heads
        call()
        return self.simulator.counters.heads - before

    def fail_next(self, scenario: str, times: int = 1) -> None:
        """The next requests get this scenario."""
        self.portal.call(lambda: self.simulator.fail_next(scenario, times=times))

    def until(self, condition: Callable[[Counters], bool]) -> None:
        """Returns when the simulator's counters fulfil the condition."""
        self.portal.call(self.simulator.until, condition)


def keyed(upstream: str, **flags: object) -> Settings:
    """Settings with the upstream's key and the client's; `flags` are further ones."""
    return settings_for(upstream, None, **{"upstream_key": UPSTREAM_KEY, "api_keys": (CLIENT_KEY,), **flags})


@contextmanager
def stage_on(
    backend: str, options: Options | None = None, settings: Callable[[str], Settings] = keyed
) -> Iterator[Stage]:
    """A proxy on `backend` in front of a simulator, whose base URL `settings` is given."""
    options = options or Options(keys=frozenset({UPSTREAM_KEY}))
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(running(options)) as simulator,
        live_proxy(settings(simulator.base_url), backend) as proxy,
    ):
        yield Stage(f"{proxy.url}/v1", simulator, portal)


@contextmanager
def canned(backend: str, reply: bytes) -> Iterator[str]:
    """The base URL of a proxy whose upstream answers every request with the bytes of `reply`."""

    async def repeat(connection: Connection) -> None:
        while True:
            await expect_request()(connection)
            await send(reply)(connection)

    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(scripted_upstream([repeat])) as upstream,
        live_proxy(keyed(f"{upstream.url}/v1"), backend) as proxy,
    ):
        yield f"{proxy.url}/v1"


def canned_stream(events: Sequence[bytes]) -> bytes:
    """A whole answer that streams the data of these events, each in a chunk of its own, and `[DONE]`."""
    return stream_head() + b"".join(chunk(event(data)) for data in (*events, b"[DONE]")) + chunk(b"")


def canned_json(body: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    """A whole JSON answer."""
    return answer(200, ((b"content-type", b"application/json"), *headers), body)

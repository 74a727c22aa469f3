"""A proxy with its own loop in its own thread, for clients that block; and settings for tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import anyio
import anyio.from_thread
from anyio.lowlevel import EventLoopToken

from qproxy import app
from qproxy.config import Settings, load
from qproxy.edge.runtime import BACKENDS

NOWHERE = Path("/nonexistent")


def settings_for(upstream: str | None, environ: Mapping[str, str] | None = None, **flags: object) -> Settings:
    """Settings that know nothing of this machine: no environment, no `.env`, no file, a free port, no access log."""
    given = {"port": 0, "access_log": "off", **flags}
    if upstream is not None:
        given["upstream"] = upstream
    return load(given, environ or {}, NOWHERE, NOWHERE)


@contextlib.contextmanager
def live_proxy(settings: Settings, backend: str = "asyncio") -> Iterator[app.Running]:
    """The proxy runs on `backend` in a thread of its own until the block is left."""
    assert backend in BACKENDS
    ready: Future[tuple[app.Running, anyio.Event]] = Future()
    portal_token: Future[EventLoopToken] = Future()

    async def main() -> None:
        stop = anyio.Event()
        portal_token.set_result(anyio.lowlevel.current_token())
        async with app.running(settings) as proxy:
            ready.set_result((proxy, stop))
            await stop.wait()

    def in_thread() -> None:
        try:
            app.run(main, backend=backend)
        except BaseException as exc:
            if not ready.done():
                ready.set_exception(exc)
            raise

    thread = threading.Thread(target=in_thread, name=f"proxy-{backend}")
    thread.start()
    try:
        proxy, stop = ready.result(timeout=30)
        yield proxy
    finally:
        if ready.done() and ready.exception() is None:
            anyio.from_thread.run_sync(stop.set, token=portal_token.result())
        thread.join(timeout=30)
        assert not thread.is_alive(), "the proxy did not stop"

"""The nginx configuration of docs/how-to/behind-nginx.md, run by nginx in front of a live proxy."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import httpcore
import pytest

from tests.docs.pages import ROOT, blocks
from tests.support.live import live_proxy, settings_for
from tests.support.other_parsers import NGINX_FRAME
from tests.support.scripted_upstream import chunk, event, expect_request, scripted_upstream, send, stream_head, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
KEY = "made-up-key"

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@contextmanager
def nginx(proxy_port: int, folder: Path) -> Iterator[str]:
    """The page's configuration, with ports of this machine's; its URL."""
    (block,) = blocks(ROOT / "docs" / "how-to" / "behind-nginx.md", "nginx")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    snippet = block.text.replace("127.0.0.1:8080", f"127.0.0.1:{proxy_port}").replace(
        "listen 80;", f"listen 127.0.0.1:{port};"
    )
    assert str(proxy_port) in snippet
    assert f":{port};" in snippet
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX_FRAME.format(folder=folder, http=snippet), encoding="utf-8")
    with subprocess.Popen([str(NGINX), "-p", folder, "-e", folder / "error.log", "-c", configuration]) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError("nginx ended")


def test_events_pass_nginx_one_by_one(tmp_path: Path) -> None:
    """The second event is sent only when the first has come through, so that a burst would wait for ever."""

    async def main() -> bytes:
        first_seen = anyio.Event()
        script = [
            expect_request(),
            send(stream_head() + chunk(event(b"one"))),
            wait_for(first_seen),
            send(chunk(event(b"[DONE]")), chunk(b"")),
        ]
        async with scripted_upstream(script) as upstream:
            with (
                live_proxy(settings_for(f"{upstream.url}/v1", api_keys=(KEY,))) as proxy,
                nginx(proxy.port, tmp_path) as url,
            ):
                async with httpcore.AsyncConnectionPool() as client:
                    return await read_stream(client, url, first_seen)

    assert anyio.run(main) == b"data: one\n\ndata: [DONE]\n\n"


async def read_stream(client: httpcore.AsyncConnectionPool, url: str, first_seen: anyio.Event) -> bytes:
    received = b""
    headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}"), ("Host", "models.example")]
    async with client.stream(
        "POST", f"{url}/v1/chat/completions", headers=headers, content=b'{"model": "m", "stream": true}'
    ) as response:
        assert response.status == 200
        async for part in response.aiter_stream():
            received += part
            first_seen.set()
    return received

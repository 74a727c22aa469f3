"""What a Python developer would write with aiohttp: a streaming relay of any path.

As a script: `aiohttp_relay.py PORT UPSTREAM_ORIGIN UPSTREAM_KEY`.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "host", "authorization",
}  # fmt: skip
BODY_MAX_BYTES = 64 * 1024 * 1024


class Relay:
    """Passes every request to one upstream and its answer back, chunk by chunk."""

    def __init__(self, origin: str, key: str) -> None:
        self.origin = origin
        self.key = key
        self.session: ClientSession | None = None

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        """One client session for the life of the server."""
        timeout = ClientTimeout(total=None, sock_connect=5)
        async with ClientSession(
            connector=TCPConnector(limit=0), timeout=timeout, auto_decompress=False
        ) as self.session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        assert self.session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        headers["Authorization"] = f"Bearer {self.key}"
        body = request.content if request.can_read_body else None
        async with self.session.request(
            request.method, self.origin + request.path_qs, headers=headers, data=body, allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def main(port: int, origin: str, key: str) -> None:
    """Serves until it is stopped."""
    relay = Relay(origin, key)
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app.cleanup_ctx.append(relay.lifetime)
    app.router.add_route("*", "/{path:.*}", relay.handle)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

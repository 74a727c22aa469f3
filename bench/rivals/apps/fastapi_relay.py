"""What a Python developer would write with FastAPI and httpx: a streaming relay of any path.

As a script: `fastapi_relay.py PORT UPSTREAM_ORIGIN UPSTREAM_KEY`.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "host", "authorization",
}  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_app(origin: str, key: str) -> FastAPI:
    """Passes every request to one upstream and its answer back, chunk by chunk."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1100)
    client = httpx.AsyncClient(base_url=origin, timeout=httpx.Timeout(300, connect=5), limits=limits)

    @contextlib.asynccontextmanager
    async def lifetime(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = FastAPI(lifespan=lifetime)

    async def relay(path: str, request: Request) -> StreamingResponse:
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
        headers.append(("authorization", f"Bearer {key}"))
        outgoing = client.build_request(
            request.method, f"/{path}", params=request.query_params, headers=headers, content=request.stream()
        )
        answer = await client.send(outgoing, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    app.add_api_route("/{path:path}", relay, methods=METHODS, response_model=None)
    return app


if __name__ == "__main__":
    uvicorn.run(
        build_app(sys.argv[2], sys.argv[3]), host="127.0.0.1", port=int(sys.argv[1]), access_log=False,
        log_level="warning", backlog=4096,
    )  # fmt: skip

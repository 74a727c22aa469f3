"""A plain HTTP client for tests: httpcore with JSON in and out."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpcore
import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    content: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    def json(self) -> Any:
        return orjson.loads(self.content)

    def events(self) -> list[Any]:
        """The data of every event of a stream, parsed, without [DONE]."""
        lines = [line[6:] for line in self.content.splitlines() if line.startswith(b"data: ")]
        return [orjson.loads(line) for line in lines if line != b"[DONE]"]


class Client:
    """One pool of connections to one base URL."""

    def __init__(self, base_url: str, pool: httpcore.AsyncConnectionPool, headers: Mapping[str, str]) -> None:
        self._base_url = base_url
        self._pool = pool
        self._headers = {"content-type": "application/json", **headers}

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, b"", headers)

    async def post(self, path: str, content: object, **headers: str) -> Answer:
        return await self.ask("POST", path, orjson.dumps(content), headers)

    async def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Underscores in header names stand for dashes."""
        merged = {**self._headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        sent = [(name.encode(), value.encode()) for name, value in merged.items()]
        response = await self._pool.request(method, self._base_url + path, headers=sent, content=body)
        got = [(name.decode().lower(), value.decode("latin-1")) for name, value in response.headers]
        return Answer(response.status, got, response.content)


@asynccontextmanager
async def http_client(base_url: str, *, socket_path: str | None = None, **headers: str) -> AsyncIterator[Client]:
    """`headers` go with every request."""
    async with httpcore.AsyncConnectionPool(uds=socket_path) as pool:
        yield Client(base_url, pool, {name.replace("_", "-"): value for name, value in headers.items()})


def raw_post(path: str, body: bytes, *lines: bytes) -> bytes:
    """The bytes of a JSON request; `lines` are further header lines."""
    head = (f"POST {path} HTTP/1.1".encode(), b"Host: a", b"Content-Type: application/json", *lines)
    return b"\r\n".join((*head, b"Content-Length: %d" % len(body), b"", body))


def port_of(url: str) -> int:
    """The port of a URL without a path."""
    return int(url.rpartition(":")[2])

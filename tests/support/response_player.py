"""A proxy in front of an upstream that answers each request with the bytes that the test hands over.

async with playing() as player, raw_client(player.url) as client:
    answer = await player.exchange(client, post("/v1/completions", b"{}"), [head, body])
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qproxy import app
from qproxy.simulator.request import Head, parse_head
from tests.support.live import settings_for
from tests.support.raw_client import Answer, RawClient, send_apart
from tests.support.scripted_upstream import Connection, ScriptedUpstream, expect_request, scripted_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@dataclass
class Player:
    """`url` is the proxy's. `pieces` is the next answer, each piece with a write of its own."""

    url: str = ""
    upstream: ScriptedUpstream | None = None
    pieces: Sequence[bytes] = ()
    closes: bool = False

    async def exchange(
        self, client: RawClient, request: bytes, pieces: Sequence[bytes], *, closes: bool = False
    ) -> Answer:
        """Sends the request, has the upstream answer with the pieces, after which it `closes` or stays."""
        self.pieces, self.closes = pieces, closes
        return await client.ask(request)

    def last_head(self) -> Head:
        """The head of the newest request, as the upstream received it."""
        assert self.upstream is not None
        received = self.upstream.connections[-1].received
        return parse_head(received[received.rindex(b"POST ") :].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

    async def play(self, connection: Connection) -> None:
        """The script of every connection."""
        expect = expect_request()
        while not connection.wire.closed:
            await expect(connection)
            pieces, closes = self.pieces, self.closes  # the next exchange may begin before the last turn of this one
            await send_apart(connection.wire, pieces)
            if closes:
                connection.wire.close()


@asynccontextmanager
async def playing(**flags: object) -> AsyncIterator[Player]:
    """A player inside the block; `flags` are settings of the proxy."""
    player = Player()
    async with (
        scripted_upstream([player.play]) as upstream,
        app.running(settings_for(f"{upstream.url}/v1", None, **flags)) as proxy,
    ):
        player.url = proxy.url
        player.upstream = upstream
        yield player

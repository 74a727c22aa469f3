"""`qproxy demo`: the simulator and the proxy in one process, talking through real sockets on loopback."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import click
import orjson
from rich import box
from rich.table import Table

from qproxy import app, simulator
from qproxy.cli.chat import JSON, Headers, chat_body, stream_chat
from qproxy.cli.console import print_line, print_rich, print_text
from qproxy.config import Settings, load
from qproxy.config.options import BACKEND
from qproxy.core.upstream import BaseUrl

if TYPE_CHECKING:
    import httpcore

    from qproxy.edge.accounts import Accounts

MODEL = "qwen3-coder-plus"
PROMPT = "Explain a reverse proxy in one paragraph."
TOKENS = 60
TOKENS_PER_S = 80.0
SHORT: Headers = ((b"x-sim-tokens", b"2"), (b"x-sim-pace", b"0"))
PAIRS = 15  # odd, so that the median is a measured value
KEYS = ("demo-key-1", "demo-key-2")
SETTINGS = """
upstream = "simulator"
rotation = "fill_first"
[upstreams.simulator]
url = "{url}/v1"
keys = ["{keys[0]}", "{keys[1]}"]
"""
CURL = """curl -N {url}/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


class Timing(NamedTuple):
    """First tokens in milliseconds: medians, and the median of the differences within each pair."""

    direct_ms: float
    proxied_ms: float
    added_ms: float


@click.command()
@click.option("--once", is_flag=True, help="Exit when everything has been shown.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the proxy. [default: a free one]")
def demo(once: bool, port: int) -> None:
    """Start a simulated Qwen and the proxy on this machine, and chat through them. No key and no network needed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            app.run(_demo, Path(folder), port, once, backend=BACKEND.default)
        except OSError as exc:
            raise click.ClickException(f"cannot listen on 127.0.0.1:{port}: {exc.strerror or exc}") from exc


async def _demo(folder: Path, port: int, once: bool) -> None:
    async with simulator.running(simulator.Options(tokens=TOKENS, tokens_per_s=TOKENS_PER_S)) as upstream:
        settings = _settings(folder, port, upstream.url)
        async with app.running(settings) as proxy:
            await _show(settings, upstream, proxy)
            if not once:
                print_line("\nServing until Ctrl-C.")
                await anyio.sleep_forever()


async def _show(settings: Settings, upstream: simulator.Simulator, proxy: app.Running) -> None:
    direct_url, url = f"{upstream.url}/v1", f"{proxy.url}/v1"
    async with (
        app.direct_client(settings, BaseUrl.parse(direct_url)) as direct,
        app.direct_client(settings, BaseUrl.parse(url)) as proxied,
    ):
        await _show_chat(proxied, url)
        await _show_embedding(proxied, url)
        _show_timing(await _measure(direct, direct_url, proxied, url))
        await _show_second_account(proxied, url, upstream, proxy.app.accounts)
    _show_usage(url)


def _settings(folder: Path, port: int, upstream_url: str) -> Settings:
    """The demo's own: in `folder`, which is empty, and without the environment, so that nothing of the user's is used.
    The simulator has two accounts, of which the first one is used until it is out."""
    (folder / "qproxy.toml").write_text(SETTINGS.format(url=upstream_url, keys=KEYS), encoding="utf-8")
    return load({"port": port, "access_log": "off"}, environ={}, cwd=folder, config_dir=folder)


async def _show_chat(client: httpcore.AsyncConnectionPool, url: str) -> None:
    print_line(f"A chat completion, streamed through the proxy:\n\n> {PROMPT}\n")
    await stream_chat(client, url, chat_body(MODEL, PROMPT), on_text=print_text)
    print_line("\n")


async def _show_embedding(client: httpcore.AsyncConnectionPool, url: str) -> None:
    body = orjson.dumps({"model": "text-embedding-v4", "input": PROMPT})
    response = await client.request("POST", f"{url}/embeddings", headers=list(JSON), content=body)
    vector = orjson.loads(response.content)["data"][0]["embedding"]
    print_line(f"An embedding through the proxy: {len(vector)} dimensions, the first is {vector[0]:.6f}.\n")


async def _measure(
    direct: httpcore.AsyncConnectionPool, direct_url: str, proxied: httpcore.AsyncConnectionPool, url: str
) -> Timing:
    """Direct and proxied requests in turn; the first pair only warms the connections up."""
    pairs = [(await _first_token_ms(direct, direct_url), await _first_token_ms(proxied, url)) for _ in range(1 + PAIRS)]
    pairs = pairs[1:]
    return Timing(
        statistics.median(direct for direct, _ in pairs),
        statistics.median(proxied for _, proxied in pairs),
        statistics.median(proxied - direct for direct, proxied in pairs),
    )


async def _first_token_ms(client: httpcore.AsyncConnectionPool, url: str) -> float:
    transcript = await stream_chat(client, url, chat_body(MODEL, PROMPT), SHORT)
    assert transcript.first_token_s is not None, "the simulator answers with text"
    return transcript.first_token_s * 1000


def _show_timing(timing: Timing) -> None:
    table = Table("first token", "ms", box=box.SIMPLE_HEAD)
    table.columns[1].justify = "right"
    table.add_row("direct", f"{timing.direct_ms:.2f}")
    table.add_row("through qproxy", f"{timing.proxied_ms:.2f}")
    table.add_row("added", f"{timing.added_ms:.2f}")
    print_rich(table)
    print_line(f"Medians of {PAIRS} pairs. Client, proxy and simulator share one process here.\n")


async def _show_second_account(
    client: httpcore.AsyncConnectionPool, url: str, upstream: simulator.Simulator, accounts: Accounts
) -> None:
    """The first account's quota ends, and the next request is answered all the same."""
    upstream.account(KEYS[0]).limit(0, "429-free")
    transcript = await stream_chat(client, url, chat_body(MODEL, PROMPT), SHORT)
    assert transcript.text, "the simulator answers with text"
    print_line("The first account's quota is used up now. The next request was answered all the same:")
    table = Table("account", "requests", "state", box=box.SIMPLE_HEAD)
    for view in accounts.views():
        waits = "".join(f" for {cooling.remaining_s:.0f} s: {cooling.cause.name.lower()}" for cooling in view.cooling)
        table.add_row(view.account_id, str(view.leases), view.standing.value + waits)
    print_rich(table)


def _show_usage(url: str) -> None:
    print_line(f"Base URL for your client, with any API key:\n\n  {url}\n")
    print_line(f"Or try it with curl:\n\n{CURL.format(url=url, model=MODEL)}")

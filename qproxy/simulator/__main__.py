"""`python -m qproxy.simulator`: a simulator of its own process; see `--help`."""

from __future__ import annotations

import argparse
import signal
import sys

import anyio

from qproxy.simulator.options import Options
from qproxy.simulator.server import running

_BACKENDS: dict[str, tuple[str, dict[str, bool]]] = {
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "trio": ("trio", {}),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="python -m qproxy.simulator", description="An upstream that acts like Qwen's."
    )
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=0, help="0 picks a free one")
    command.add_argument("--key", action="append", default=[], help="an API key to let in; none lets everyone in")
    command.add_argument("--tokens", type=int, default=Options().tokens, help="tokens of an answer")
    command.add_argument("--pace", type=float, default=0.0, metavar="TOKENS_PER_S", help="0 is flat out")
    command.add_argument("--prefill", type=float, default=0.0, metavar="S_PER_MB", help="wait before an answer")
    command.add_argument("--record", type=int, default=0, help="how many requests to keep in memory")
    command.add_argument("--backend", choices=_BACKENDS, default="asyncio")
    return command


async def serve(options: Options, host: str, port: int) -> None:
    """Until SIGINT or SIGTERM."""
    async with running(options, host=host, port=port) as simulator:
        sys.stdout.write(f"qproxy simulator listening on {simulator.url}\n")
        sys.stdout.flush()
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                return


def main() -> None:
    """Parses the command line and serves."""
    given = parser().parse_args()
    options = Options(
        keys=frozenset(given.key),
        tokens=given.tokens,
        tokens_per_s=given.pace,
        prefill_s_per_mb=given.prefill,
        record=given.record,
    )
    backend, backend_options = _BACKENDS[given.backend]
    anyio.run(serve, options, given.host, given.port, backend=backend, backend_options=backend_options)


if __name__ == "__main__":
    main()

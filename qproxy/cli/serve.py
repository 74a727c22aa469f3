"""`qproxy serve`: the proxy itself."""

from __future__ import annotations

import os
import signal
import threading

import click

from qproxy import app
from qproxy.cli.console import print_note
from qproxy.cli.options import load_settings, setting_options
from qproxy.config import Settings
from qproxy.edge.writer import print_beside

EXIT_S = 1.0


@click.command()
@setting_options
def serve(**flags: object) -> None:
    """Serve the OpenAI API in front of the configured upstreams, until SIGINT or SIGTERM.

    Every option can also be set by an environment variable (--api-key: QPROXY_API_KEY), in .env or in qproxy.toml.
    """
    settings = load_settings(flags)
    for notice in settings.notices:
        print_note(f"qproxy: {notice}")
    try:
        app.run(_serve, settings, backend=settings.backend)
    except OSError as exc:
        where = settings.unix_socket or f"{settings.host}:{settings.port}"
        raise click.ClickException(f"cannot listen on {where}: {exc.strerror or exc}") from exc


async def _serve(settings: Settings) -> None:
    await app.serve(settings, lambda url: print_beside(f"qproxy listening on {url}\n"))
    _exit_soon()


def _exit_soon() -> None:
    """Everything is saved and said. Another signal, and threads that hang in a resolver or a disk, for which the loop
    and the interpreter would wait, change nothing any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    timer = threading.Timer(EXIT_S, os._exit, (0,))
    timer.daemon = True
    timer.start()

"""`qproxy serve`: the proxy itself."""

from __future__ import annotations

import click

from qproxy import app
from qproxy.cli.console import print_line, print_note
from qproxy.cli.options import load_settings, setting_options


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
        app.run(app.serve, settings, _announce, backend=settings.backend)
    except OSError as exc:
        where = settings.unix_socket or f"{settings.host}:{settings.port}"
        raise click.ClickException(f"cannot listen on {where}: {exc.strerror or exc}") from exc


def _announce(url: str) -> None:
    print_line(f"qproxy listening on {url}")

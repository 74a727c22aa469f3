"""`qproxy models`: what the configured upstreams offer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table

from qproxy import app
from qproxy.cli.console import print_note, print_rich
from qproxy.cli.options import load_settings, setting_options
from qproxy.errors import QProxyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qproxy.config import Settings
    from qproxy.core.catalogue import ModelEntry


@click.command()
@setting_options
def models(**flags: object) -> int:
    """List the models of every configured upstream, as GET /v1/models does."""
    settings = load_settings(flags)
    for notice in settings.notices:
        print_note(f"qproxy: {notice}")
    listing = app.run(_listing, settings, backend=settings.backend)
    if isinstance(listing, QProxyError):
        print_note(f"qproxy: {listing.message}")
        return 1
    print_rich(_table(listing))
    return 0


async def _listing(settings: Settings) -> Sequence[ModelEntry] | QProxyError:
    async with app.running(replace(settings, host="127.0.0.1", port=0, access_log="off")) as proxy:
        try:
            return await proxy.app.catalogue.listing()
        except QProxyError as exc:
            return exc


def _table(entries: Sequence[ModelEntry]) -> Table:
    table = Table("model", "upstream", "source", box=box.SIMPLE_HEAD)
    for entry in entries:
        table.add_row(entry.id, entry.upstream, "built-in table" if entry.built_in else "upstream")
    return table

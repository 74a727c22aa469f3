"""`qproxy models`: what the configured upstreams offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table

from qproxy import app
from qproxy.cli.console import print_note, print_rich
from qproxy.cli.options import load_settings, setting_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qproxy.config import Settings
    from qproxy.core.catalogue import ModelEntry


@click.command()
@setting_options
def models(**flags: object) -> None:
    """List the models of every configured upstream, as GET /v1/models does."""
    settings = load_settings(flags)
    for notice in settings.notices:
        print_note(f"qproxy: {notice}")
    print_rich(_table(app.run(_listing, settings, backend=settings.backend)))


async def _listing(settings: Settings) -> Sequence[ModelEntry]:
    raise NotImplementedError


def _table(entries: Sequence[ModelEntry]) -> Table:
    table = Table("model", "upstream", "source", box=box.SIMPLE_HEAD)
    for entry in entries:
        table.add_row(entry.id, entry.upstream, "built-in table" if entry.built_in else "upstream")
    return table

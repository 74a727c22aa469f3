"""`qproxy auth`: logins and what became of them today, one subcommand a task."""

from __future__ import annotations

import click

from qproxy.cli.lazy import LazyGroup

PLACES = {
    "login": "qproxy.cli.auth_login:login",
    "add": "qproxy.cli.auth_login:add",
    "list": "qproxy.cli.auth_files:list_accounts",
    "remove": "qproxy.cli.auth_files:remove",
    "status": "qproxy.cli.auth_state:status",
    "counts": "qproxy.cli.auth_state:counts",
    "import": "qproxy.cli.auth_files:import_login",
    "export": "qproxy.cli.auth_files:export_login",
}


@click.group(cls=LazyGroup, places=PLACES)
def auth() -> None:
    """Log in, and look after the accounts that are logged in. All of it works while a server runs."""

"""`qproxy auth`: logins and what became of them today, one subcommand a task."""

from __future__ import annotations

import copy

import click

from qproxy.cli.auth_files import export_login, import_login, list_accounts, remove
from qproxy.cli.auth_login import add, login
from qproxy.cli.auth_state import counts, status

COMMANDS: tuple[click.Command, ...] = (
    login, add, list_accounts, remove, status, counts, import_login, export_login,
)  # fmt: skip


@click.group(commands=COMMANDS)
def auth() -> None:
    """Log in, and look after the accounts that are logged in. All of it works while a server runs."""


def _under_its_old_name(command: click.Command) -> click.Command:
    """As users of older proxies call it: `auth:list`. No help lists it."""
    alias = copy.copy(command)
    alias.name = f"auth:{command.name}"
    alias.hidden = True
    return alias


ALIASES = tuple(map(_under_its_old_name, (list_accounts, add, remove, counts)))

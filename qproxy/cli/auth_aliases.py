"""Commands under the names that users of older proxies call them by, such as `auth:list`. No help lists them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from qproxy.cli import auth_files, auth_login, auth_state

if TYPE_CHECKING:
    import click


def _under_its_old_name(command: click.Command) -> click.Command:
    alias = copy.copy(command)
    alias.name = f"auth:{command.name}"
    alias.hidden = True
    return alias


list_accounts, add, remove, counts = map(
    _under_its_old_name, (auth_files.list_accounts, auth_login.add, auth_files.remove, auth_state.counts)
)

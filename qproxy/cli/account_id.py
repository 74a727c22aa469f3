"""The id of an account on the command line."""

from __future__ import annotations

import click

from qproxy.core.login_files import ACCOUNT_ID_RULE, is_account_id


class AccountId(click.ParamType[str]):
    """Text that can be part of a file's name."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_account_id(value):
            self.fail(f"{value!r} must be {ACCOUNT_ID_RULE}", param, ctx)
        return value


ACCOUNT = AccountId()

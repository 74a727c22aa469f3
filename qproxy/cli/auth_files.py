"""`qproxy auth list`, `remove`, `import` and `export`: the files of the accounts."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson
from rich import box
from rich.table import Table
from rich.text import Text

from qproxy.cli.account_id import ACCOUNT
from qproxy.cli.console import print_line, print_note, print_rich, print_text
from qproxy.cli.options import load_settings, some_settings
from qproxy.cli.when import span, utc
from qproxy.config.login_options import OAUTH_ALLOWED_HOSTS, OAUTH_CREDS_FILE, QWEN_HOME
from qproxy.config.options import CONFIG
from qproxy.core.login_files import ACCOUNT_ID_RULE, imported_account, is_account_id
from qproxy.core.oauth import DEFAULT_ACCOUNT, OAuthToken, json_object, token_of
from qproxy.core.token_file import imported_document, token_file
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.token_file import MAX_FILE_BYTES, TokenFile, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.config import Settings

SERVERS_LOOK_S = 3.0  # a running server looks at the folder at least every two seconds
STDIN = "-"

file_settings = some_settings(CONFIG, QWEN_HOME, OAUTH_CREDS_FILE, OAUTH_ALLOWED_HOSTS)
json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def login_files(settings: Settings) -> LoginFiles:
    """The accounts' files as these settings have them."""
    return LoginFiles(settings.login.home, settings.login.creds_file)


def known_accounts(files: LoginFiles) -> list[str]:
    """Who has a file. Raises ClickException where the folder cannot be looked into."""
    try:
        return files.accounts()
    except OSError as exc:
        raise click.ClickException(f"{exc.filename} cannot be looked into: {reason_of(exc)}.") from exc


def print_json(document: object) -> None:
    """One document for programs."""
    print_line(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def token_state(path: Path, allowed_hosts: tuple[str, ...]) -> tuple[str, float | None]:
    """What a login file holds, in a short phrase, and when its token ends, in Unix time."""
    try:
        token = token_of(json_object(TokenFile(path).read().data), allowed_hosts)
    except ValueError as exc:
        return f"unusable: {exc}", None
    except OSError as exc:
        return f"unreadable: {reason_of(exc)}", None
    return _phrase(token), token.expires_ms / 1000


def _phrase(token: OAuthToken) -> str:
    left_s = token.expires_ms / 1000 - time.time()
    if token.is_valid_at(time.time() * 1000):
        return f"valid {span(left_s)}"
    return "expired, can be renewed" if token.refresh_token else "expired"


@click.command("list")
@file_settings
@json_flag
def list_accounts(as_json: bool, **flags: object) -> int:
    """List the accounts that are logged in, and the file of each."""
    settings = load_settings(flags)
    files = login_files(settings)
    rows = [(account, files.path(account)) for account in known_accounts(files)]
    states = {account: token_state(path, settings.login.allowed_hosts) for account, path in rows}
    if as_json:
        found = [
            {
                "account": account,
                "file": str(path),
                "state": states[account][0],
                "expires_at": utc_or_none(states[account][1]),
            }
            for account, path in rows
        ]
        print_json({"accounts": found})
    elif not rows:
        print_line("Nobody is logged in. `qproxy auth login` does it.")
    else:
        table = Table("account", "token", "file", box=box.SIMPLE_HEAD)
        for account, path in rows:
            table.add_row(account, Text(states[account][0]), Text(str(path), overflow="fold"))
        print_rich(table)
    return 0


@click.command()
@click.argument("account", type=ACCOUNT, metavar="ID")
@click.option("--now", is_flag=True, help="Break off the answers that a running server still sends with it.")
@file_settings
@json_flag
def remove(account: str, now: bool, as_json: bool, **flags: object) -> int:
    """Remove an account's login. A running server lets its answers finish first."""
    files = login_files(load_settings(flags))
    try:
        if now:
            files.remove_at_once(account, SERVERS_LOOK_S)
        else:
            files.remove(account, SERVERS_LOOK_S if account == DEFAULT_ACCOUNT else 0.0)
    except FileNotFoundError:
        return fail(_no_account(files, account))
    except OSError as exc:
        return fail(f"{files.path(account)} cannot be removed: {reason_of(exc)}.")
    if as_json:
        print_json({"removed": account, "file": str(files.path(account))})
        return 0
    print_line(f"Removed {account}.")
    if account == DEFAULT_ACCOUNT:
        print_note("This was the login of the Qwen Code CLI as well.")
    return 0


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option("--account", type=ACCOUNT, metavar="ID", help="What to call it. [default: after the name of the file]")
@click.option("--force", is_flag=True, help="Replace the login of that account.")
@file_settings
@json_flag
def import_login(file: str, account: str | None, force: bool, as_json: bool, **flags: object) -> int:
    """Take over a login from FILE, or from stdin for -: of the Qwen Code CLI, or of CLIProxyAPI."""
    settings = load_settings(flags)
    files = login_files(settings)
    account = account or _account_after(file)
    path = files.path(account)
    if path.exists() and not force:
        return fail(f"{account} is logged in already: --account gives another name, --force replaces it.")
    try:
        document = imported_document(_read(file))
        token = token_of(document, settings.login.allowed_hosts)
        files.save(account, document)
    except ValueError as exc:
        return fail(f"{file} is no login: {exc}.")
    except OSError as exc:
        return fail(f"{exc.filename or path}: {reason_of(exc)}.")
    if as_json:
        expires_at = utc_or_none(token.expires_ms / 1000)
        print_json({"account": account, "file": str(path), "state": _phrase(token), "expires_at": expires_at})
        return 0
    print_line(f"Imported as {account}: the token is {_phrase(token)}.")
    if token.refresh_token is None:
        print_note("It has no refresh token, so it ends with this token.")
    else:
        print_note("A refresh token works once: where the other program renews this login, it is lost here.")
    return 0


@click.command("export")
@click.argument("account", type=ACCOUNT, metavar="ID")
@click.option("--force-tty", is_flag=True, help="Print the secret even where stdout is a terminal.")
@file_settings
@json_flag
def export_login(account: str, force_tty: bool, as_json: bool, **flags: object) -> int:
    """Print an account's login, which is a secret: whoever has it can use the account."""
    files = login_files(load_settings(flags))
    if sys.stdout is not None and sys.stdout.isatty() and not force_tty:
        return fail("This would show the login's secret on the terminal: redirect it, or say --force-tty.")
    try:
        document = json_object(TokenFile(files.path(account)).read().data)
    except FileNotFoundError:
        return fail(_no_account(files, account))
    except ValueError as exc:
        return fail(f"{files.path(account)} is no login: {exc}.")
    except OSError as exc:
        return fail(f"{files.path(account)} cannot be read: {reason_of(exc)}.")
    print_text(_in_one_line(document) if as_json else token_file(document).decode() + "\n")
    return 0


def _in_one_line(document: Mapping[str, object]) -> str:
    return orjson.dumps(document).decode() + "\n"


def _account_after(file: str) -> str:
    account = DEFAULT_ACCOUNT if file == STDIN else imported_account(Path(file).name)
    if not is_account_id(account):
        raise click.BadParameter(f"must be given for this file: {ACCOUNT_ID_RULE}", param_hint="--account")
    return account


def _read(file: str) -> bytes:
    """Raises OSError, and ValueError for what is too long."""
    if file != STDIN:
        return TokenFile(Path(file)).read().data
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError("it is larger than 1 MiB")
    return data


def _no_account(files: LoginFiles, account: str) -> str:
    known = ", ".join(known_accounts(files)) or "none"
    return f"There is no account {account}. Logged in: {known}."


def utc_or_none(time_s: float | None) -> str | None:
    """For JSON."""
    return None if time_s is None else utc(time_s)


def fail(message: str) -> int:
    """One line on stderr; the exit status."""
    print_note(f"qproxy: {message}")
    return 1

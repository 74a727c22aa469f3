"""`qproxy auth login` and `qproxy auth add`: the device flow for one account, and each of its ends."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import click

from qproxy import app
from qproxy.cli.account_id import ACCOUNT
from qproxy.cli.auth_report import End, HumanReporter, JsonReporter
from qproxy.cli.console import print_note
from qproxy.cli.options import load_settings, some_settings
from qproxy.cli.when import span, utc
from qproxy.config.login_options import LOGIN
from qproxy.config.options import CONFIG
from qproxy.core.device_flow import LoginState
from qproxy.core.oauth import DEFAULT_ACCOUNT, parse_token_file, token_of
from qproxy.edge.login import new_login
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.token_file import TokenFile, reason_of
from qproxy.errors import QProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qproxy.cli.auth_report import Reporter
    from qproxy.config import Settings
    from qproxy.core.device_flow import Progress
    from qproxy.core.oauth import OAuthToken
    from qproxy.edge.login import LoginServer, PendingLogin

FAILED, UNREACHABLE, NOT_SAVED = 1, 5, 6
ENDS = {
    LoginState.DENIED: End("denied", "The login was refused on its page. Nothing was changed.", 3),
    LoginState.EXPIRED: End("expired", "Nobody approved the login before its code expired. Nothing was changed.", 4),
}
INTERRUPTED = End("interrupted", "The login was stopped. Nothing was changed.", 130)


def _login_options(command: Callable[..., int]) -> Callable[..., int]:
    """The flags that both commands have."""
    json_help = "Print one JSON object a line, and open no browser."
    command = click.option("--json", "as_json", is_flag=True, help=json_help)(command)
    command = click.option("--force", is_flag=True, help="Log in although there is a valid login.")(command)
    command = click.option("--no-qr", is_flag=True, help="Print no QR code.")(command)
    command = click.option("--no-browser", is_flag=True, help="Open no browser.")(command)
    return some_settings(CONFIG, *LOGIN)(command)


@click.command()
@click.option("--account", type=ACCOUNT, default=DEFAULT_ACCOUNT, metavar="ID", help="Account. [default: default]")
@_login_options
def login(account: str, **flags: object) -> int:
    """Log in to Qwen by approving a code in a browser, on this machine or on another one."""
    return _log_in(account, flags)


@click.command()
@click.argument("account", type=ACCOUNT, metavar="ID")
@_login_options
def add(account: str, **flags: object) -> int:
    """Log in one more account, called ID. A running server uses it within two seconds."""
    return _log_in(account, flags)


def _log_in(account: str, flags: Mapping[str, object]) -> int:
    settings = load_settings(flags)
    reporter: Reporter = HumanReporter(browser=not flags["no_browser"], qr=not flags["no_qr"])
    if flags["as_json"]:
        reporter = JsonReporter(account)
    files = LoginFiles(settings.login.home, settings.login.creds_file)
    if settings.login.creds is not None and account == DEFAULT_ACCOUNT:
        print_note("While oauth_creds is set, a server uses that in place of this login.")
    end = None if flags["force"] else _already(settings, files, account)
    if end is None:
        end = app.run(_until_the_end, settings, files, account, reporter, backend=settings.backend)
    reporter.ended(end)
    return end.status


def _already(settings: Settings, files: LoginFiles, account: str) -> End | None:
    """The end of a login that need not begin; None: it has to."""
    try:
        token = parse_token_file(TokenFile(files.path(account)).read().data, settings.login.allowed_hosts)
    except (OSError, ValueError):
        return None
    if not token.is_valid_at(time.time() * 1000):
        return None
    return _good_end("already", f"{account} is logged in already; --force does it again.", token)


def _good_end(event: str, sentence: str, token: OAuthToken) -> End:
    expires_s = token.expires_ms / 1000
    left = span(expires_s - time.time())
    return End(event, f"{sentence} The token is valid for {left}, until {utc(expires_s)}.", 0, expires_s)


async def _until_the_end(settings: Settings, files: LoginFiles, account: str, reporter: Reporter) -> End:
    """The whole login, or what had been reached when somebody pressed Ctrl-C."""
    end = INTERRUPTED

    async def run(scope: anyio.CancelScope) -> None:
        nonlocal end
        async with app.login_server(settings) as server:
            end = await _run(server, settings, files, account, reporter)
        scope.cancel()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, tasks.cancel_scope)
            async for _ in signals:
                tasks.cancel_scope.cancel()
    return end


async def _run(server: LoginServer, settings: Settings, files: LoginFiles, account: str, reporter: Reporter) -> End:
    try:
        pending = await server.begin()
    except QProxyError as exc:
        refused = exc.code == "upstream_protocol_error"
        return End("failed", exc.message, FAILED) if refused else End("unreachable", exc.message, UNREACHABLE)
    await reporter.begun(pending.code)
    progress = await _finish(pending, reporter)
    if progress.reply is None:
        return ENDS.get(progress.state) or End("failed", progress.note, FAILED)
    try:
        document = new_login(progress.reply, time.time(), settings.login.allowed_hosts)
        with anyio.CancelScope(shield=True):  # the code is spent: what came for it must be kept
            await anyio.to_thread.run_sync(files.save, account, document)
    except QProxyError as exc:
        return End("failed", exc.message, FAILED)
    except OSError as exc:
        return End("not_saved", f"{files.path(account)} cannot be written: {reason_of(exc)}.", NOT_SAVED)
    return _good_end("done", f"{account} is logged in.", token_of(document, settings.login.allowed_hosts))


async def _finish(pending: PendingLogin, reporter: Reporter) -> Progress:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporter.wait, pending.left_s)
        progress = await pending.finish(reporter.told)
        tasks.cancel_scope.cancel()
    return progress

"""The command line. Exit status: 0 done, 1 failed, 2 wrong settings or usage, 130 stopped by Ctrl-C."""

from __future__ import annotations

import sys

import click

from qproxy import __version__
from qproxy.cli.console import prepare_output, print_note
from qproxy.cli.lazy import LazyGroup
from qproxy.config import ConfigError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


PLACES = {
    **{name: f"qproxy.cli.{name}:{name}" for name in ("serve", "demo", "models", "tokens", "check", "auth")},
    "auth:list": "qproxy.cli.auth_aliases:list_accounts",
    "auth:add": "qproxy.cli.auth_aliases:add",
    "auth:remove": "qproxy.cli.auth_aliases:remove",
    "auth:counts": "qproxy.cli.auth_aliases:counts",
}


@click.group(cls=LazyGroup, places=PLACES, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="qproxy", message="%(prog)s %(version)s")
def commands() -> None:
    """A low-level reverse proxy between any OpenAI client and a Qwen model."""


def main() -> None:
    """Run the command that the process was started with, and exit."""
    prepare_output()
    sys.exit(_status())


def _status() -> int:
    try:
        returned = commands.main(prog_name="qproxy", standalone_mode=False)
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except ConfigError as exc:
        print_note(f"qproxy: {exc}")
        return 2
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:  # trio wraps Ctrl-C where tasks were running
            return INTERRUPTED
        raise
    return returned if isinstance(returned, int) else 0

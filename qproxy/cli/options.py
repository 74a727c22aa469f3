"""The command line's side of the settings: every flag comes from the table in `qproxy.config.options`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import platformdirs

from qproxy.config import Settings, load
from qproxy.config.options import BASIC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qproxy.config.option import AnyOption

Command = TypeVar("Command", bound="Callable[..., object]")


def setting_options(command: Command) -> Command:
    """Add a flag for every setting that has one. The command gets them by option name, as text."""
    return some_settings(*BASIC)(command)


def some_settings(*rows: AnyOption) -> Callable[[Command], Command]:
    """Add the flags of these settings alone, for a command to which the others mean nothing."""

    def decorate(command: Command) -> Command:
        for option in reversed(rows):
            command = _decorator(option)(command)
        return command

    return decorate


def load_settings(flags: Mapping[str, object]) -> Settings:
    """The settings of this process. Raises ConfigError."""
    folders = platformdirs.user_config_path("qproxy"), platformdirs.user_data_path("qproxy")
    return load(flags, os.environ, Path.cwd(), *folders)


def _decorator(option: AnyOption) -> Callable[[Command], Command]:
    flag, default = f"--{option.flag}", option.default
    if default is False:
        return click.option(flag, option.name, is_flag=True, default=None, help=option.help)
    help_text = f"{option.help} [default: {default}]" if isinstance(default, str | int) and default else option.help
    metavar = option.flag.rpartition("-")[2].upper()
    return click.option(flag, option.name, multiple=isinstance(default, tuple), metavar=metavar, help=help_text)

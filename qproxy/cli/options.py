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

    from qproxy.config.options import AnyOption

Command = TypeVar("Command", bound="Callable[..., object]")


def setting_options(command: Command) -> Command:
    """Add a flag for every setting that has one. The command gets them by option name, as text."""
    for option in reversed(BASIC):
        command = _decorator(option)(command)
    return command


def load_settings(flags: Mapping[str, object]) -> Settings:
    """The settings of this process. Raises ConfigError."""
    return load(flags, os.environ, Path.cwd(), platformdirs.user_config_path("qproxy"))


def _decorator(option: AnyOption) -> Callable[[Command], Command]:
    flag, default = f"--{option.flag}", option.default
    if isinstance(default, bool):
        return click.option(flag, option.name, is_flag=True, default=None, help=option.help)
    help_text = f"{option.help} [default: {default}]" if isinstance(default, str | int) and default else option.help
    metavar = option.flag.rpartition("-")[2].upper()
    return click.option(flag, option.name, multiple=isinstance(default, tuple), metavar=metavar, help=help_text)

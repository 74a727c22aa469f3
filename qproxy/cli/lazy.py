"""Groups whose commands are imported when somebody calls them: half of the time that a short command takes are imports
of what others need."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


class LazyGroup(click.Group):
    """`places`: by their names, where commands are, such as "qproxy.cli.serve:serve"."""

    def __init__(self, places: Mapping[str, str], **others: Any) -> None:  # noqa: ANN401 - whatever click's has
        super().__init__(**others)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module, _, name = self._places.get(cmd_name, "").partition(":")
        if not module:
            return None
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

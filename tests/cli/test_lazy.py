"""A command imports what it needs, and not what others need."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from qproxy.cli.lazy import LazyGroup
from tests.support.shell import COMMAND, ROOT, TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("command", "needs", "needs_not"),
    [
        ("auth list", "qproxy.edge.login_files", "httpcore"),
        ("serve --help", "httpcore", "rich"),
        ("tokens --help", "qproxy.core.tokens.body", "httpcore"),
    ],
)
def test_imports(tmp_path: Path, command: str, needs: str, needs_not: str) -> None:
    argv = [sys.executable, "-X", "importtime", *COMMAND[1:], *command.split()]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        argv, env=environ, cwd=tmp_path, timeout=TIMEOUT_S, check=True, capture_output=True, text=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert needs in imported
    assert needs_not not in imported


def test_a_name_that_is_none() -> None:
    group = LazyGroup({"serve": "qproxy.cli.serve:serve"})
    context = group.make_context("qproxy", ["serve"])
    assert group.list_commands(context) == ["serve"]
    assert group.get_command(context, "Serve") is None

"""Which harnesses there are, and the inputs that each begins with."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (
    "chunked_bodies",
    "downstream_bytes",
    "error_answers",
    "event_streams",
    "spliced_bodies",
    "token_answers",
    "token_files",
    "upstream_bytes",
)
"""The modules of this folder with a function `one_input(data: bytes) -> None` that raises where something is wrong."""

MOST_BYTES = 4096
"""Longer inputs find nothing that shorter ones do not; sizes at the limits have tests of their own."""


def harness(name: str) -> Callable[[bytes], None]:
    """The harness of that name."""
    one_input: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.{name}").one_input
    return one_input


def corpus(name: str) -> Path:
    """The folder of its inputs."""
    return Path(__file__).with_name("corpus") / name


def inputs(name: str) -> dict[str, bytes]:
    """The inputs by the names of their files."""
    return {path.name: path.read_bytes() for path in sorted(corpus(name).iterdir())}

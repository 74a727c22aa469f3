"""What a rival is: packages that can be installed, and a command that serves on a port in front of an upstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.tools import CHAT_PATH

ROOT = Path(__file__).parents[2]
CLIENT_KEY = "sk-bench-client-key"  # LiteLLM insists on the prefix
UPSTREAM_KEY = "bench-upstream-key"
AUTHORIZATION = f"authorization: Bearer {CLIENT_KEY}"


class InstallError(Exception):
    """A rival's packages cannot be had here; the message is for the table."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a rival lives and what one start of it is given."""

    prefix: Path  # its packages
    folder: Path  # its home and working folder for this start: configuration and logs
    port: int
    upstream_port: int

    @property
    def upstream_url(self) -> str:
        """The upstream's base URL, as an OpenAI client is given it."""
        return f"http://127.0.0.1:{self.upstream_port}/v1"

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Command:
    """How to start it and how to talk to it."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    path: str = CHAT_PATH
    headers: tuple[str, ...] = (AUTHORIZATION,)
    ready_s: float = 30.0


class Packages(Protocol):
    """Software from a package index, inside a folder of the bench."""

    def install(self, prefix: Path) -> None:
        """Raises InstallError."""
        ...

    def missing(self, prefix: Path) -> str:
        """Why it cannot be started; empty where it can."""
        ...

    def version(self, prefix: Path) -> str:
        """For the table."""
        ...


@dataclass(frozen=True, slots=True)
class Rival:
    """One line of the table. `workers` is the number of cores it is meant to use; `unwatched` the same rival with its
    logs and counters off, where the bench asks what they cost; `warmed` the same with connections opened ahead."""

    name: str
    about: str
    packages: Packages
    command: Callable[[Site], Command]
    workers: int = 1
    unwatched: Rival | None = None
    warmed: Rival | None = None

"""One start of the program: its folders, environment and flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from qproxy.config import ConfigError, Settings, load

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Place:
    """Where a program starts; nothing of the real environment is seen from here."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    flags: dict[str, object] = field(default_factory=dict)

    @property
    def cwd(self) -> Path:
        return self.root / "cwd"

    @property
    def config_dir(self) -> Path:
        return self.root / "config"

    def write(self, toml: str, name: str = "cwd/qproxy.toml") -> None:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(toml, encoding="utf-8")

    def write_env(self, text: str) -> None:
        self.write(text, "cwd/.env")

    def load(self) -> Settings:
        self.cwd.mkdir(exist_ok=True)
        return load(self.flags, {"HOME": str(self.root / "home"), **self.environ}, self.cwd, self.config_dir)

    def refused(self) -> str:
        """The one line that stops the start."""
        with pytest.raises(ConfigError) as caught:
            self.load()
        message = str(caught.value)
        assert message.isprintable()
        return message

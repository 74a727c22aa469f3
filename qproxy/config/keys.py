"""Keys by reference: `env:NAME` and `file:PATH` keep them out of command lines and settings files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.config.values import ConfigError, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_KEY_FILE_BYTES = 64 * 1024


def follow(key: Secret, label: str, folder: Path, variables: Mapping[str, str]) -> Secret:
    """The key that `key` stands for. A relative path starts in `folder`.

    Raises ConfigError where the variable or file is missing, or what it holds cannot be sent in a header.
    """
    value = referenced(key, label, folder, variables)
    if not value.isprintable() or " " in value:
        raise ConfigError(f"{label} = (hidden): must be a key without spaces and control characters")
    return Secret(value)


def referenced(secret: Secret, label: str, folder: Path, variables: Mapping[str, str]) -> str:
    """The text that `secret` stands for, which is itself where it is no reference. Raises ConfigError."""
    kind, colon, target = secret.reveal().partition(":")
    if colon and kind == "env":
        value = variables.get(target, "")
        if not value:
            raise ConfigError(f"{label} = env:{target}: that variable must be set")
        return value
    if colon and kind == "file":
        return _read(folder / target, f"{label} = file:{target}")
    return secret.reveal()


def _read(path: Path, label: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
        value = data.decode("utf-8-sig").strip()
    except OSError as exc:
        raise ConfigError(f"{label}: must be a readable file ({exc.strerror})") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{label}: must be a text file") from exc
    if not value or len(data) > MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{label}: must be a file that holds one key")
    return value

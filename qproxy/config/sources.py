"""Where values come from, and which one wins: flag, environment, `.env`, file, default.

At the same level a `QPROXY_` name wins over a name that older proxies use. An empty variable counts as not set.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from qproxy.config.option import PREFIX, Option
from qproxy.config.options import CONFIG, OPTIONS
from qproxy.config.values import ConfigError, T

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE_NAME = "qproxy.toml"
OWN_TABLES = ("upstreams", "models", "fallback", "windows")  # with readers of their own
SHOWN_CHARACTERS = 100
SECRET_IN_TEXT = re.compile(r"(?<=://)[^/@]*(?=@)|(?<=\?).+(?=')|\bsk-[!-&(-~]+")  # user:password, a query, a key


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given. `label` says where, `folder` is where its relative paths start.

    `is_text` tells the text of flags and variables from TOML's own types.
    """

    value: object
    label: str
    folder: Path
    is_text: bool

    def parse(self, option: Option[T]) -> T:
        """The value in the option's type. Raises ConfigError."""
        value = option.type.from_text(self.value) if self.is_text and isinstance(self.value, str) else self.value
        try:
            return option.type.parse(value)
        except ValueError as exc:
            shown = "(hidden)" if option.type.is_secret else show(self.value)
            if reason := " ".join(str(exc).split()):
                raise ConfigError(f"{self.label} = {shown}: {reason}") from exc
            raise refusal(self.label, shown, option.type.allowed) from exc


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that was given, by level. `table` is the file, which is read last and wins least."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    dotenv: Mapping[str, str]
    cwd: Path
    table: Mapping[str, object]
    table_path: Path

    def find(self, option: Option[T]) -> Given | None:
        """The value that wins; None: the default holds. Raises ConfigError where a section of the file is no table."""
        return next(self._given(option), None)

    def get(self, option: Option[T]) -> T:
        """The option's value. Raises ConfigError."""
        given = self.find(option)
        return option.default if given is None else given.parse(option)

    def variable(self, name: str) -> str:
        """A variable of the environment or of `.env`; empty where neither has it."""
        return self.environ.get(name) or self.dotenv.get(name) or ""

    def variables(self) -> Mapping[str, str]:
        """What `env:NAME` may name."""
        return ChainMap(*({k: v for k, v in level.items() if v} for level in (self.environ, self.dotenv)))

    def section(self, name: str) -> Mapping[str, object]:
        """A table of the file; empty where it is not there."""
        return table_of(self.table.get(name, {}), f"[{name}]{self.in_file}")

    @property
    def in_file(self) -> str:
        return f" in {self.table_path.name}"

    def _given(self, option: Option[T]) -> Iterator[Given]:
        flag = self.flags.get(option.name)
        if flag is not None and flag != ():
            yield Given(flag, f"--{option.flag}", self.cwd, is_text=True)
        for names, level, where in (
            ((option.variable, *option.legacy), self.environ, ""),
            ((option.variable, *option.legacy, *option.private_legacy), self.dotenv, " in .env"),
        ):
            for name in names:
                if value := level.get(name):
                    yield Given(value, name + where, self.cwd, is_text=True)
        if not option.in_file:
            return
        table = self.section(option.section) if option.section else self.table
        for name in (option.name, *option.private_legacy):
            if name in table:
                yield Given(table[name], name + self.in_file, self.table_path.parent, is_text=name != option.name)


def read_sources(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path, config_dir: Path) -> Sources:
    """Read `.env` and the file. Raises ConfigError where one is unreadable or holds what nobody knows."""
    dotenv = _read_dotenv(cwd / ".env")
    for level, where in ((environ, ""), (dotenv, " in .env")):
        _refuse_unknown_variables(level, where)
    without_file = Sources(flags, environ, dotenv, cwd, {}, cwd / FILE_NAME)
    path = _file_path(without_file, config_dir)
    if path is None:
        return without_file
    sources = Sources(flags, environ, dotenv, cwd, _read_toml(path), path)
    _refuse_unknown_keys(sources)
    return sources


def table_of(value: object, label: str) -> Mapping[str, object]:
    """`value` as a TOML table. Raises ConfigError."""
    if isinstance(value, dict):
        return value
    raise refusal(label, show(value), "a table")


def refuse_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises ConfigError for the first name that is not known, with the nearest one that is."""
    allowed = list(known)
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(allowed)}"
            raise ConfigError(f"{show_name(name)}{where} is unknown: {advice}")


def refusal(label: str, shown: str, allowed: str) -> ConfigError:
    """One line with the key, the value and what is allowed."""
    return ConfigError(f"{label} = {shown}: must be {allowed}")


def show(value: object) -> str:
    """A value in one short line, without what looks like a secret in it."""
    shown = SECRET_IN_TEXT.sub("(hidden)", repr(value))
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


def show_name(name: str) -> str:
    return name if name.isprintable() and len(name) <= SHOWN_CHARACTERS else show(name)


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        found = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f".env cannot be read: {_reason(exc)}") from exc
    return {name: value for name, value in found.items() if value}


def _file_path(sources: Sources, config_dir: Path) -> Path | None:
    if chosen := sources.get(CONFIG):
        return sources.cwd / chosen
    return next((path for path in (sources.cwd / FILE_NAME, config_dir / FILE_NAME) if path.is_file()), None)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{show_name(path.name)} cannot be read: {_reason(exc)}") from exc


def _reason(exc: OSError | ValueError) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8"
    return (exc.strerror if isinstance(exc, OSError) else None) or " ".join(str(exc).split())


def _refuse_unknown_variables(level: Mapping[str, str], where: str) -> None:
    ours = (name for name in level if name.startswith(PREFIX))
    refuse_unknown(ours, (option.variable for option in OPTIONS), where)


def _refuse_unknown_keys(sources: Sources) -> None:
    in_file = [option for option in OPTIONS if option.in_file]
    sections = {option.section for option in in_file if option.section}
    top_level = [option.name for option in in_file if not option.section]
    legacy = [name for option in in_file for name in option.private_legacy]
    refuse_unknown(sources.table, (*top_level, *legacy, *sorted(sections), *OWN_TABLES), sources.in_file)
    for section in sections:
        known = (option.name for option in in_file if option.section == section)
        refuse_unknown(sources.section(section), known, f" in [{section}]{sources.in_file}")

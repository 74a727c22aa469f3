"""What a row of the table of settings holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias

from qproxy.config.values import Secret, T, ValueType

PREFIX = "QPROXY_"


@dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    """One setting. `name` is its key in the file, below `[section]` where that is not empty.

    `flag` is its name on the command line, without dashes; empty: no flag. `legacy` are variables of older proxies with
    the same meaning; `private_legacy` are read from `.env` and the file alone, since many shells export them for other
    ends. The row `config` alone stands in no file: it names it.
    """

    name: str
    type: ValueType[T]
    default: T
    help: str
    flag: str = ""
    section: str = ""
    legacy: tuple[str, ...] = ()
    private_legacy: tuple[str, ...] = ()
    in_file: bool = True

    @property
    def variable(self) -> str:
        """The environment variable: named after the flag, which is singular where it may be repeated."""
        return PREFIX + (self.flag or self.name).replace("-", "_").upper()


AnyOption: TypeAlias = (
    Option[str] | Option[int] | Option[bool] | Option[Secret] | Option[tuple[str, ...]] | Option[tuple[Secret, ...]]
)

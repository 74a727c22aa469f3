"""The state file: counts and the standing of accounts in SQLite, for several processes that write at once.

In WAL mode nobody who reads waits for a writer, a commit outlives the process that made it, and a power cut leaves an
older file but a whole one (`synchronous` NORMAL). Descriptors of our own are never opened on a file that exists: to
close one would drop every lock that a connection of this process has on it.
Sources: sqlite.org, "Write-Ahead Logging" and "How To Corrupt An SQLite Database File" (2.2, 4.1).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

from qproxy.core.counts import CountRow
from qproxy.core.health import StateRow
from qproxy.core.token_ratio import RatioRow
from qproxy.edge.ratio_rows import CREATE_RATIOS, put_ratios, ratios_in

log = logging.getLogger(__name__)

FILE_NAME = "qproxy.sqlite3"
GATE_NAME = "qproxy.sqlite3.lock"
KEPT_DAYS = 400
BUSY_S = 5.0  # how long a writer waits for another one; a commit takes milliseconds

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE counts (
            day TEXT NOT NULL,
            upstream TEXT NOT NULL,
            account TEXT NOT NULL,
            model TEXT NOT NULL,
            requests INTEGER NOT NULL,
            errors INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            total_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            PRIMARY KEY (day, upstream, account, model)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE account_state (
            upstream TEXT NOT NULL,
            account TEXT NOT NULL,
            standing TEXT NOT NULL,
            model TEXT NOT NULL,
            cause TEXT NOT NULL,
            since_s REAL NOT NULL,
            length_s REAL NOT NULL,
            message TEXT NOT NULL,
            PRIMARY KEY (upstream, account, standing, model)
        ) WITHOUT ROWID
        """,
    ),
    (CREATE_RATIOS,),
)
"""What leads from each schema version to the next: row 0 makes version 1 of an empty file. Rows are only ever added."""

# Columns stand in the order of the fields of CountRow and StateRow.
_ADD_COUNTS = """
    INSERT INTO counts (day, upstream, account, model,
        requests, errors, prompt_tokens, completion_tokens, total_tokens, cached_tokens)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        requests = requests + excluded.requests,
        errors = errors + excluded.errors,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        total_tokens = total_tokens + excluded.total_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens
"""
_SUM_COUNTS = """
    SELECT ?1, upstream, account, model, sum(requests), sum(errors), sum(prompt_tokens), sum(completion_tokens),
        sum(total_tokens), sum(cached_tokens)
    FROM counts WHERE day BETWEEN date(?1, ?2) AND ?1
    GROUP BY upstream, account, model ORDER BY upstream, account, model
"""
# By the days that there are, not by the calendar: a clock that was wrong for an hour must not empty the table.
_DROP_OLD_COUNTS = """
    DELETE FROM counts WHERE day < (SELECT min(day) FROM (SELECT DISTINCT day FROM counts ORDER BY day DESC LIMIT ?))
"""
_PUT_STATE = """
    REPLACE INTO account_state (upstream, account, standing, model, cause, since_s, length_s, message)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_DROP_STATE = "DELETE FROM account_state WHERE (upstream, account, standing, model) = (?, ?, ?, ?)"
_ALL_STATES = """
    SELECT upstream, account, standing, model, cause, since_s, length_s, message
    FROM account_state ORDER BY upstream, account, standing, model
"""


class StateUnusable(Exception):
    """The state file cannot be read or written. The message says why."""


class StateDamaged(StateUnusable):
    """It is no database, or not a whole one."""


class StateFile:
    """The open file. Belongs to one thread. After any StateUnusable it can only be closed."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._identity = _identity(path)
        self._newest_day = ""
        self._states = _states_in(connection)
        self.ratios = ratios_in(connection)
        """What was there when it was opened."""

    @property
    def account_states(self) -> list[StateRow]:
        """As far as this process knows: what was there at first, and then what it wrote."""
        return self._states

    @property
    def was_replaced(self) -> bool:
        """The file was deleted or moved, so that what is written to it is lost. Never raises."""
        try:
            return _identity(self._path) != self._identity
        except OSError:
            return True

    def write(self, counts: Sequence[CountRow], states: list[StateRow] | None, ratios: Sequence[RatioRow] = ()) -> None:
        """Add the counts; put `states` in place of what is there, unless None; put `ratios` in place of older ones of
        the same models. What is there already costs nothing.

        All or nothing, and it outlives this process once this returns. Raises StateUnusable.
        """
        with _explained(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            newest_day = self._add_counts(counts)
            if states is not None:
                self._replace_states(states)
            if ratios:
                put_ratios(self._connection, ratios)
        self._newest_day = newest_day
        self._states = self._states if states is None else states

    def _add_counts(self, counts: Sequence[CountRow]) -> str:
        self._connection.executemany(_ADD_COUNTS, map(_storable, counts))
        newest_day = max((row.day for row in counts), default="")
        if newest_day <= self._newest_day:
            return self._newest_day
        self._connection.execute(_DROP_OLD_COUNTS, (KEPT_DAYS,))
        return newest_day

    def _replace_states(self, states: Iterable[StateRow]) -> None:
        """By what is different, so that another process keeps what only it knows."""
        before, after = set(map(_columns, self._states)), set(map(_columns, states))
        self._connection.executemany(_DROP_STATE, (columns[:4] for columns in before - after))
        self._connection.executemany(_PUT_STATE, after - before)

    def close(self) -> None:
        """Never raises."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()


def open_state_file(folder: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> StateFile:
    """The state file in `folder`, both made where missing (0700, 0600) and brought to the newest schema.

    A damaged file is moved aside and a new one begun, with a warning. Raises StateUnusable; also where the file is of
    a newer qproxy: it is left as it is.
    """
    path = folder / FILE_NAME
    with _explained(), _alone_in(folder):
        try:
            return _opened(path, migrations)
        except StateDamaged as exc:
            _move_aside(path, exc)
            return _opened(path, migrations)


def read_counts(folder: Path, day: str, days: int = 1) -> list[CountRow]:
    """The counts of `day`, or those of the `days` days up to it, summed. May be called while others write.

    One row per upstream, account and model, in this order; `day` stands in each. No file yet: no rows. Raises
    StateUnusable.
    """
    with _reading(folder) as connection:
        if connection is None:
            return []
        return [CountRow(*row) for row in connection.execute(_SUM_COUNTS, (day, f"-{days - 1} days"))]


def read_account_states(folder: Path) -> list[StateRow]:
    """The states of all accounts as last written. No file yet: none. Raises StateUnusable."""
    with _reading(folder) as connection:
        return [] if connection is None else _states_in(connection)


def read_ratios(folder: Path) -> list[RatioRow]:
    """The token ratios of all models as last written. No file yet: none. Raises StateUnusable."""
    with _reading(folder) as connection:
        return [] if connection is None else ratios_in(connection)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time: two that open a fresh or a damaged file would trip over each other.

    SQLite's lock on an empty file is the same on every system, and a killed process leaves none behind.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    gate = folder / GATE_NAME
    _make_private(gate)
    with contextlib.closing(sqlite3.connect(gate, timeout=BUSY_S, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def _opened(path: Path, migrations: Sequence[Sequence[str]]) -> StateFile:
    _make_private(path)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        with _explained():
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _check(connection)
            _migrate(connection, migrations)
            return StateFile(path, connection)
    except BaseException:
        connection.close()
        raise


def _make_private(path: Path) -> None:
    """An empty file is a database too; its journal gets the same mode."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _check(connection: sqlite3.Connection) -> None:
    """Raises StateDamaged: bad pages are found now, not in the middle of the day."""
    (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise StateDamaged(finding)


def _migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """To the newest schema, whole or not at all."""
    missing = migrations[_version(connection, len(migrations)) :]
    if not missing:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in itertools.chain.from_iterable(missing):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _version(connection: sqlite3.Connection, known: int) -> int:
    """The file's schema version, 0 for an empty one. Raises StateUnusable for one above `known`."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > known:
        raise StateUnusable(f"a newer qproxy wrote it: its schema is {version}, this version knows up to {known}")
    return int(version)


def _move_aside(path: Path, why: StateDamaged) -> None:
    number = 1
    while (kept := path.with_name(f"{FILE_NAME}.corrupt-{number}")).exists():
        number += 1
    path.rename(kept)
    for suffix in ("-wal", "-shm"):  # a journal must neither be lost nor be taken for the new file's
        with contextlib.suppress(FileNotFoundError):
            path.with_name(FILE_NAME + suffix).rename(kept.with_name(kept.name + suffix))
    log.warning("The state file %s is damaged (%s). It is kept as %s, and a new one was begun.", path, why, kept.name)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that cannot write; None where nothing was ever written."""
    path = folder / FILE_NAME
    with _explained():
        if not path.exists():
            yield None
            return
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=BUSY_S, uri=True)
        ) as file:
            yield file if _version(file, len(MIGRATIONS)) == len(MIGRATIONS) else None


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Every failure of the file as StateUnusable."""
    try:
        yield
    except sqlite3.Error as exc:
        damaged = getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        raise (StateDamaged if damaged else StateUnusable)(str(exc)) from exc
    except OSError as exc:
        raise StateUnusable(exc.strerror or type(exc).__name__) from exc


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _states_in(connection: sqlite3.Connection) -> list[StateRow]:
    return [StateRow(*row) for row in connection.execute(_ALL_STATES)]


def _columns(state: StateRow) -> tuple[object, ...]:
    return _storable(astuple(state))


def _storable(row: Sequence[object]) -> tuple[object, ...]:
    """SQLite takes no lone surrogate; a file name that is no UTF-8 brings them into an account's id."""
    return tuple(value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in row)

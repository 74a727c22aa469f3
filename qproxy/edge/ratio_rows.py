"""The table of the learned token ratios in the state file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from qproxy.core.token_ratio import MOST_MODELS, RatioRow

CREATE_RATIOS = """
    CREATE TABLE token_ratios (
        model TEXT NOT NULL PRIMARY KEY,
        bytes_per_token REAL NOT NULL,
        requests INTEGER NOT NULL,
        tokens_per_count REAL NOT NULL,
        counts INTEGER NOT NULL
    )
"""
# Columns stand in the order of the fields of RatioRow. A row that is replaced gets a new rowid, the highest one.
_PUT = """
    REPLACE INTO token_ratios (model, bytes_per_token, requests, tokens_per_count, counts) VALUES (?, ?, ?, ?, ?)
"""
_DROP_OLDEST = """
    DELETE FROM token_ratios WHERE rowid NOT IN (SELECT rowid FROM token_ratios ORDER BY rowid DESC LIMIT ?)
"""
_ALL = "SELECT model, bytes_per_token, requests, tokens_per_count, counts FROM token_ratios ORDER BY rowid"


def put_ratios(connection: sqlite3.Connection, rows: Sequence[RatioRow]) -> None:
    """Put rows in the place of older ones. Of several processes the last one to write is right. Raises
    sqlite3.Error."""
    storable = [(row.model.encode("utf-8", "replace").decode(), *row[1:]) for row in rows]
    connection.executemany(_PUT, storable)
    connection.execute(_DROP_OLDEST, (MOST_MODELS,))


def ratios_in(connection: sqlite3.Connection) -> list[RatioRow]:
    """All rows, those that were written last at the end. Raises sqlite3.Error."""
    return [RatioRow(*row) for row in connection.execute(_ALL)]

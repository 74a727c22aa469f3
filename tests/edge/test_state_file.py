"""The state file: schema, damage, modes, several writers, and reading beside them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qproxy.core.counts import CountRow
from qproxy.core.health import StateRow
from qproxy.edge.state_file import (
    FILE_NAME,
    GATE_NAME,
    KEPT_DAYS,
    MIGRATIONS,
    StateFile,
    StateUnusable,
    open_state_file,
    read_account_states,
    read_counts,
)

DAY = "2026-11-21"
ROW = CountRow(DAY, "dashscope", "key-1", "qwen-plus", 2, 1, 30, 12, 42, 20)
MANY = [ROW._replace(model=f"model-{number}") for number in range(200)]
COOLING = StateRow("oauth", "work", "COOLING", "qwen3-coder-plus", "QUOTA", 1_795_000_000.25, 3600.0, "")
CLOSED = StateRow("oauth", "home", "CLOSED", "", "", 1_795_000_001.5, 0.0, "Log in again: qproxy auth login.")


@contextmanager
def opened(folder: Path) -> Iterator[StateFile]:
    with closing(open_state_file(folder)) as file:
        yield file


@contextmanager
def raw(folder: Path) -> Iterator[sqlite3.Connection]:
    """As another program has it open."""
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as connection:
        yield connection


def write(folder: Path, *counts: CountRow, states: list[StateRow] | None = None) -> None:
    with opened(folder) as file:
        file.write(counts, states)


class TestCounts:
    def test_what_was_written_can_be_read(self, tmp_path: Path) -> None:
        write(tmp_path, ROW)
        assert read_counts(tmp_path, DAY) == [ROW]

    def test_counts_are_added_to_what_is_there(self, tmp_path: Path) -> None:
        write(tmp_path, ROW)
        write(tmp_path, ROW, ROW)
        assert read_counts(tmp_path, DAY) == [ROW.plus(ROW).plus(ROW)]

    @pytest.mark.parametrize(
        "other",
        [
            ROW._replace(day="2026-11-20"),
            ROW._replace(upstream="b"),
            ROW._replace(account="b"),
            ROW._replace(model="b"),
        ],
    )
    def test_each_part_of_the_key_is_counted_apart(self, tmp_path: Path, other: CountRow) -> None:
        write(tmp_path, ROW, other)
        assert set(read_counts(tmp_path, DAY) + read_counts(tmp_path, "2026-11-20")) == {ROW, other}

    def test_days_are_summed(self, tmp_path: Path) -> None:
        write(tmp_path, *(ROW._replace(day=f"2026-11-{day}") for day in (13, 14, 15, 20, 21, 22)))
        write(tmp_path, ROW._replace(day="2026-11-15", account="key-2"))
        week = [ROW.plus(ROW).plus(ROW), ROW._replace(account="key-2")]
        assert read_counts(tmp_path, DAY, days=7) == week
        assert read_counts(tmp_path, DAY, days=2) == [ROW.plus(ROW)]
        assert read_counts(tmp_path, "2026-11-19", days=1) == []

    def test_a_month_has_the_length_that_it_has(self, tmp_path: Path) -> None:
        write(tmp_path, *(ROW._replace(day=day) for day in ("2028-02-28", "2028-02-29", "2028-03-01")))
        assert read_counts(tmp_path, "2028-03-01", days=2) == [ROW.plus(ROW)._replace(day="2028-03-01")]

    def test_old_days_are_dropped_when_a_new_one_begins(self, tmp_path: Path) -> None:
        days = [
            f"{2000 + number // 300}-{number // 25 % 12 + 1:02}-{number % 25 + 1:02}" for number in range(KEPT_DAYS + 3)
        ]
        write(tmp_path, *(ROW._replace(day=day) for day in days))
        assert read_counts(tmp_path, days[2]) == []
        assert read_counts(tmp_path, days[3]) != []
        with opened(tmp_path) as file:
            file.write([ROW._replace(day="2024-01-01")], None)
            file.write([ROW._replace(day="2024-01-02")], None)
        assert read_counts(tmp_path, days[4]) == []
        assert read_counts(tmp_path, days[5]) != []

    def test_a_clock_that_jumps_does_not_empty_the_table(self, tmp_path: Path) -> None:
        write(tmp_path, ROW)
        write(tmp_path, ROW._replace(day="2126-11-21"))
        assert read_counts(tmp_path, DAY) == [ROW]

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(name=st.text(st.characters(), max_size=20))
    def test_any_name_can_be_stored(self, tmp_path: Path, name: str) -> None:
        """Lone surrogates too; those come back as question marks."""
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        write(
            tmp_path / "state", ROW._replace(model=name), states=[StateRow("u", name, "CLOSED", "", "", 1.0, 0.0, name)]
        )
        plain = name.encode("utf-8", "replace").decode()
        assert [row.model for row in read_counts(tmp_path / "state", DAY)] == [plain]
        assert [row.account_id for row in read_account_states(tmp_path / "state")] == [plain]


class TestAccountStates:
    def test_they_come_back_as_they_were(self, tmp_path: Path) -> None:
        write(tmp_path, states=[COOLING, CLOSED])
        assert read_account_states(tmp_path) == [CLOSED, COOLING]
        with opened(tmp_path) as file:
            assert file.account_states == [CLOSED, COOLING]

    def test_a_snapshot_replaces_the_one_before(self, tmp_path: Path) -> None:
        longer = StateRow(*("oauth", "work", "COOLING", "qwen3-coder-plus", "RATE", 1_795_000_009.0, 60.0, ""))
        with opened(tmp_path) as file:
            file.write([], [COOLING, CLOSED])
            file.write([], [longer])
            assert read_account_states(tmp_path) == [longer]
            file.write([], [])
            assert read_account_states(tmp_path) == []

    def test_counts_alone_leave_them(self, tmp_path: Path) -> None:
        with opened(tmp_path) as file:
            file.write([], [COOLING])
            file.write([ROW], None)
        assert read_account_states(tmp_path) == [COOLING]

    def test_what_only_another_process_knows_stays(self, tmp_path: Path) -> None:
        with opened(tmp_path) as ours, opened(tmp_path) as theirs:
            theirs.write([], [CLOSED])
            ours.write([], [COOLING])
            assert read_account_states(tmp_path) == [CLOSED, COOLING]
            ours.write([], [])
            assert read_account_states(tmp_path) == [CLOSED]


class TestSchema:
    def test_a_new_file_has_the_newest(self, tmp_path: Path) -> None:
        write(tmp_path)
        with raw(tmp_path) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_an_older_one_is_brought_to_it_with_its_content(self, tmp_path: Path) -> None:
        write(tmp_path, ROW, states=[COOLING])
        newer = (*MIGRATIONS, ("ALTER TABLE counts ADD COLUMN retries INTEGER NOT NULL DEFAULT 7",))
        with closing(open_state_file(tmp_path, newer)) as file:
            file.write([ROW], None)
        with raw(tmp_path) as connection:
            assert connection.execute("SELECT requests, retries FROM counts").fetchall() == [(4, 7)]
            assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)

    def test_half_a_migration_is_none(self, tmp_path: Path) -> None:
        write(tmp_path, ROW)
        broken = (*MIGRATIONS, ("ALTER TABLE counts ADD COLUMN retries INTEGER", "no SQL"))
        with pytest.raises(StateUnusable, match="syntax error"):
            open_state_file(tmp_path, broken)
        write(tmp_path, ROW)
        with raw(tmp_path) as connection:
            assert "retries" not in [column[1] for column in connection.execute("PRAGMA table_info(counts)")]

    def test_a_newer_one_is_left_as_it_is(self, tmp_path: Path) -> None:
        write(tmp_path, ROW)
        with raw(tmp_path) as connection:
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        with pytest.raises(StateUnusable, match="a newer qproxy wrote it"):
            open_state_file(tmp_path)
        with pytest.raises(StateUnusable, match="a newer qproxy wrote it"):
            read_counts(tmp_path, DAY)
        with raw(tmp_path) as connection:
            assert connection.execute("SELECT count(*) FROM counts").fetchone() == (1,)
        assert len(list(tmp_path.glob("*.corrupt-*"))) == 0


Damage: TypeAlias = "Callable[[Path], None]"


def scribble(path: Path) -> None:
    """On its last page: only a look at all of them finds it."""
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xa5" * 4096)


def overwrite(path: Path) -> None:
    path.write_bytes(b"this was never a database\n" * 1000)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


@pytest.mark.parametrize("damage", [scribble, overwrite, cut_off])
class TestDamage:
    def test_a_damaged_file_is_moved_aside(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage
    ) -> None:
        for number in (1, 2):
            write(tmp_path, *MANY, states=[COOLING])
            damage(tmp_path / FILE_NAME)
            damaged = (tmp_path / FILE_NAME).read_bytes()
            with opened(tmp_path) as file:
                assert file.account_states == []
                file.write([ROW], None)
            assert read_counts(tmp_path, DAY) == [ROW]
            assert (tmp_path / f"{FILE_NAME}.corrupt-{number}").read_bytes() == damaged
            assert len(caplog.records) == number
        assert f"{FILE_NAME}.corrupt-2" in caplog.text

    def test_its_journal_is_not_taken_for_the_new_ones(self, tmp_path: Path, damage: Damage) -> None:
        """It stays behind where another process has the file open."""
        with opened(tmp_path) as file, raw(tmp_path) as other:
            file.write([ROW], None)
            other.execute("PRAGMA wal_checkpoint")
            file.write([ROW], None)
            damage(tmp_path / FILE_NAME)
            with opened(tmp_path):
                assert read_counts(tmp_path, DAY) == []
            assert file.was_replaced
            assert (tmp_path / f"{FILE_NAME}.corrupt-1-wal").stat().st_size > 0

    def test_who_only_reads_is_told(self, tmp_path: Path, damage: Damage) -> None:
        write(tmp_path, *MANY)
        damage(tmp_path / FILE_NAME)
        with pytest.raises(StateUnusable):
            read_counts(tmp_path, DAY)
        assert (tmp_path / FILE_NAME).exists()


def test_an_empty_file_is_a_new_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).touch()
    assert read_counts(tmp_path, DAY) == []
    write(tmp_path, ROW)
    assert read_counts(tmp_path, DAY) == [ROW]
    assert not caplog.records


def test_nothing_is_made_by_reading(tmp_path: Path) -> None:
    assert read_counts(tmp_path / "nowhere", DAY) == []
    assert read_account_states(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


def test_reading_beside_a_writer_sees_what_is_committed(tmp_path: Path) -> None:
    with opened(tmp_path) as file, raw(tmp_path) as writer:
        file.write([ROW], None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM counts")
        assert read_counts(tmp_path, DAY) == [ROW]
        writer.execute("COMMIT")
        assert read_counts(tmp_path, DAY) == []


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """Not even the file and the journal that a killed process left behind."""
    left = tmp_path / "left"
    left.mkdir()
    with opened(tmp_path / "live") as file:
        file.write([ROW], None)
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            shutil.copy(tmp_path / "live" / name, left / name)
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    assert read_counts(left, DAY) == [ROW]
    assert {name: (left / name).read_bytes() for name in before} == before


def test_who_reads_for_long_keeps_nobody_from_writing(tmp_path: Path) -> None:
    write(tmp_path, ROW)
    with raw(tmp_path) as reader, opened(tmp_path) as file:
        reader.execute("BEGIN")
        before = reader.execute("SELECT * FROM counts").fetchall()
        file.write([ROW], None)
        assert reader.execute("SELECT * FROM counts").fetchall() == before
    assert read_counts(tmp_path, DAY) == [ROW.plus(ROW)]


@pytest.mark.parametrize("name", ["a b", "a#b", "a?b%20c", "ä"])
def test_any_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / name / "state", ROW)
    assert read_counts(tmp_path / name / "state", DAY) == [ROW]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
class TestModes:
    def test_nobody_else_can_read_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "parent" / "state"
        before = os.umask(0)
        try:
            with opened(folder) as file:
                file.write([ROW], None)
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        finally:
            os.umask(before)
        assert modes == {FILE_NAME: 0o600, GATE_NAME: 0o600, f"{FILE_NAME}-wal": 0o600, f"{FILE_NAME}-shm": 0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_loose_mode_is_mended(self, tmp_path: Path) -> None:
        write(tmp_path, ROW)
        (tmp_path / FILE_NAME).chmod(0o644)
        write(tmp_path, ROW)
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_a_file_that_was_taken_away_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        assert not file.was_replaced
        (tmp_path / FILE_NAME).rename(tmp_path / "elsewhere")
        assert file.was_replaced
        with opened(tmp_path) as newer:
            assert file.was_replaced
            assert not newer.was_replaced


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable, match="Not a directory"):
        open_state_file(tmp_path / "file" / "state")
    with pytest.raises(StateUnusable, match="File exists"):
        open_state_file(tmp_path / "file")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StateUnusable, match="unable to open"):
        open_state_file(tmp_path)


OPEN_AT_ONCE = """
import sys
from pathlib import Path
from qproxy.core.counts import CountRow
from qproxy.edge.state_file import open_state_file
print("ready", flush=True)
for folder in sys.stdin:
    file = open_state_file(Path(folder.strip()))
    file.write([CountRow("2026-11-21", "u", "a", "m", 1)], None)
    file.close()
    print("written", flush=True)
"""


@pytest.mark.parametrize("begin", ["with nothing", "with a damaged file"])
def test_several_processes_begin_at_once(tmp_path: Path, begin: str) -> None:
    """On a fresh folder each of them wants to make the file and its schema; a damaged one is replaced once."""
    command = [sys.executable, "-c", OPEN_AT_ONCE]
    writers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(3)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            if begin == "with a damaged file":
                overwrite(folder / FILE_NAME)
            for writer in writers:
                assert writer.stdin is not None
                writer.stdin.write(f"{folder}\n")
                writer.stdin.flush()
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "written\n"
            assert [row.requests for row in read_counts(folder, DAY)] == [3]
            assert len(list(folder.glob("*.corrupt-*"))) == (1 if begin == "with a damaged file" else 0)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()

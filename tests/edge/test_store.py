"""What outlives the process: counts on every loop, through a kill, and while the file cannot be written."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.counts import CountKey, one_request
from qproxy.core.health import StateRow
from qproxy.core.usage import Usage
from qproxy.edge import state_file
from qproxy.edge.state_file import FILE_NAME, MIGRATIONS, open_state_file, read_account_states, read_counts
from qproxy.edge.store import DAY_S, WRITE_EVERY_S, Store, day_of, seconds_to_reset
from tests.support.state_writer import BATCH, DAY, ROOT, state_writer

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

KEY = CountKey(DAY, "dashscope", "key-1", "qwen-plus")
ONE = one_request(KEY, Usage(10, 4, 14, 8, 2))
CLOSED = StateRow("oauth", "home", "CLOSED", "", "", 1_795_000_001.5, 0.0, "Log in again: qproxy auth login.")
COOLING = StateRow("oauth", "work", "COOLING", "", "QUOTA", 1_795_000_000.0, 3600.0, "")


def quick(folder: Path, retry_every_s: float = 0.02) -> Store:
    return Store(folder, write_every_s=0.01, retry_every_s=retry_every_s)


def lazy(folder: Path) -> Store:
    """Writes at the end only."""
    return Store(folder, write_every_s=1000.0)


def requests(folder: Path) -> int:
    return sum(row.requests for row in read_counts(folder, DAY))


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.anyio
class TestOnEveryLoop:
    async def test_leaving_writes_what_is_left(self, tmp_path: Path) -> None:
        async with lazy(tmp_path) as store:
            for _ in range(3):
                store.note(ONE)
            store.save_account_state([CLOSED])
        assert read_counts(tmp_path, DAY) == [ONE.plus(ONE).plus(ONE)]
        assert read_account_states(tmp_path) == [CLOSED]

    async def test_a_restart_goes_on_where_the_last_run_ended(self, tmp_path: Path) -> None:
        for run in range(3):
            async with lazy(tmp_path) as store:
                assert store.load_account_state() == ([CLOSED, COOLING] if run else [])
                store.note(ONE)
                store.save_account_state([COOLING, CLOSED])
        assert requests(tmp_path) == 3

    async def test_it_writes_while_it_runs(self, tmp_path: Path) -> None:
        async with quick(tmp_path) as store:
            store.note(ONE)
            await until(lambda: requests(tmp_path) == 1)
            store.save_account_state([COOLING])
            store.note(ONE)
            await until(lambda: requests(tmp_path) == 2)
            assert read_account_states(tmp_path) == [COOLING]

    async def test_cancelling_loses_nothing(self, tmp_path: Path) -> None:
        with anyio.CancelScope() as scope:
            async with lazy(tmp_path) as store:
                store.note(ONE)
                scope.cancel()
                await anyio.sleep(1000)
        assert requests(tmp_path) == 1

    async def test_an_error_inside_loses_nothing_and_comes_out(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError):
            async with lazy(tmp_path) as store:
                store.note(ONE)
                raise KeyError
        assert requests(tmp_path) == 1

    async def test_cancelled_before_it_is_open(self, tmp_path: Path) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with lazy(tmp_path):
                pytest.fail("entered")
        await until(lambda: "qproxy-state" not in [thread.name for thread in threading.enumerate()])

    async def test_no_thread_is_left(self, tmp_path: Path) -> None:
        async with lazy(tmp_path):
            assert [thread.name for thread in threading.enumerate()].count("qproxy-state") == 1
        assert "qproxy-state" not in [thread.name for thread in threading.enumerate()]

    async def test_a_file_that_is_taken_away_is_made_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with quick(tmp_path) as store:
            store.save_account_state([COOLING])
            store.note(ONE)
            await until(lambda: requests(tmp_path) == 1)
            empty(tmp_path)
            store.note(ONE)
            await until(lambda: requests(tmp_path) == 1)
        assert read_account_states(tmp_path) == [COOLING]
        assert not warnings(caplog)

    async def test_a_file_that_is_damaged_while_it_is_used(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with quick(tmp_path) as store:
            store.note(ONE)
            await until(lambda: requests(tmp_path) == 1)
            with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
                other.execute("UPDATE counts SET errors = 1")  # what the thread has cached is old now
                other.commit()
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with (tmp_path / FILE_NAME).open("r+b") as file:
                file.write(b"\xa5" * (tmp_path / FILE_NAME).stat().st_size)
            store.note(ONE)
            await until((tmp_path / f"{FILE_NAME}.corrupt-1").exists)
        assert read_counts(tmp_path, DAY) == [ONE]
        assert len(warnings(caplog)) == 1


def newer_schema(folder: Path) -> Path:
    open_state_file(folder).close()
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    return folder


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "state"


def folder_in_its_place(folder: Path) -> Path:
    (folder / FILE_NAME).mkdir()
    return folder


@pytest.mark.anyio
class TestWhereItCannotBeWritten:
    @pytest.mark.parametrize(
        ("trouble", "reason"),
        [
            (newer_schema, "a newer qproxy wrote it"),
            (below_a_file, "Not a directory"),
            (folder_in_its_place, "unable to open database file"),
        ],
    )
    async def test_one_warning_and_serving_goes_on(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: Callable[[Path], Path], reason: str
    ) -> None:
        async with quick(trouble(tmp_path)) as store:
            assert store.load_account_state() == []
            assert reason in store.problem
            for _ in range(5):
                store.note(ONE)
                store.save_account_state([CLOSED])
                await anyio.sleep(0.03)
        (warning,) = warnings(caplog)
        assert reason in warning

    async def test_what_came_meanwhile_is_written_once_it_can_be(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = below_a_file(tmp_path)
        async with quick(folder) as store:
            store.note(ONE)
            store.save_account_state([COOLING])
            await anyio.sleep(0.05)
            store.note(ONE)
            folder.parent.unlink()
            await until(lambda: requests(folder) == 2)
            await until(lambda: store.problem == "")
            store.note(ONE)
            await until(lambda: requests(folder) == 3)
        assert read_account_states(folder) == [COOLING]
        assert len(warnings(caplog)) == 1

    async def test_of_the_snapshots_that_came_meanwhile_the_last_is_written(self, tmp_path: Path) -> None:
        folder = below_a_file(tmp_path)
        async with quick(folder) as store:
            for snapshot in ([COOLING], [CLOSED, COOLING], [CLOSED]):
                store.save_account_state(snapshot)
                await anyio.sleep(0.05)
            folder.parent.unlink()
            await until(lambda: store.problem == "")
            assert read_account_states(folder) == [CLOSED]

    async def test_leaving_is_the_last_attempt(self, tmp_path: Path) -> None:
        folder = below_a_file(tmp_path)
        async with quick(folder, retry_every_s=1000.0) as store:
            store.note(ONE)
            folder.parent.unlink()
        assert requests(folder) == 1

    async def test_somebody_holds_the_file(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_file, "BUSY_S", 0.02)
        async with quick(tmp_path) as store:
            with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                store.note(ONE)
                await until(lambda: store.problem == "database is locked")
                store.note(ONE)
            await until(lambda: requests(tmp_path) == 2)
        assert len(warnings(caplog)) == 1

    @pytest.mark.skipif(resource is None, reason="no limits of this kind")
    async def test_a_full_disk(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """To SQLite a file that may not grow is a disk that has no room."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        async with quick(tmp_path) as store:
            store.note(ONE)
            await until(lambda: requests(tmp_path) == 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
            try:
                for number in range(1000):
                    store.note(one_request(KEY._replace(model=f"a model with a long name {number:0100}"), None))
                await until(lambda: store.problem != "")
                await anyio.sleep(0.1)
                assert requests(tmp_path) < 1001  # what was noted first may have found room
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            await until(lambda: requests(tmp_path) == 1001)
        assert len(warnings(caplog)) == 1


READ_ONLY = """
import logging, os, sys
from pathlib import Path
import anyio
from qproxy.core.counts import CountRow
from qproxy.edge.store import Store

logging.basicConfig(format="%(levelname)s %(message)s")

async def main():
    if os.geteuid() == 0:
        os.seteuid(65534)
    async with Store(Path(sys.argv[1]), write_every_s=0.01, retry_every_s=0.02) as store:
        for _ in range(5):
            store.note(CountRow("2026-11-21", "u", "a", "m", 1))
            await anyio.sleep(0.03)

anyio.run(main)
"""


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
@pytest.mark.parametrize("begin", ["empty", "with a file"])
def test_a_read_only_folder(begin: str) -> None:
    """In a process of its own, and as nobody: root may write anywhere."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "state"
        folder.mkdir()
        if begin == "with a file":
            open_state_file(folder).close()
        Path(parent).chmod(0o755)
        folder.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(folder)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
        folder.chmod(0o755)
        assert ended.returncode == 0
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith(f"WARNING Counts and account states cannot be written to {folder}: ")


def noted(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_kill_in_the_middle_of_writes(tmp_path: Path) -> None:
    """What had been written stays; the next process adds to a whole file."""
    before = 0
    for run in range(6):
        with state_writer(tmp_path, 0) as process:
            first = noted(process)
            while requests(tmp_path) < before + first:
                time.sleep(0.005)
            for _ in range(5 * run):
                noted(process)
            process.kill()
            rest, _ = process.communicate()
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counted = requests(tmp_path)
        assert counted >= before + first
        assert counted <= before + BATCH + max([(5 * run + 1) * BATCH, *map(int, rest.split())])
        before = counted
    assert {row.total_tokens / row.requests for row in read_counts(tmp_path, DAY)} == {5}
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_a_second_is_longer_than_two_writes() -> None:
    assert 2 * WRITE_EVERY_S <= 1.0


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(state_writer(tmp_path, 2000)) for _ in range(3)]
        for process in writers:
            process.communicate(timeout=50)
            assert process.returncode == 0
    rows = read_counts(tmp_path, DAY)
    assert sum(row.requests for row in rows) == 3 * 2000
    assert sum(row.total_tokens for row in rows) == 3 * 2000 * 5
    assert len(rows) == 7


MIDNIGHT_S = datetime(2026, 11, 21, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("after_midnight_s", "offset_s", "day", "left_s"),
    [
        (0, 0, "2026-11-21", DAY_S),
        (DAY_S - 1, 0, "2026-11-21", 1),
        (-1, 0, "2026-11-20", 1),
        (0, 8 * 3600, "2026-11-20", 8 * 3600),
        (8 * 3600, 8 * 3600, "2026-11-21", DAY_S),
        (16 * 3600 - 1, 16 * 3600, "2026-11-21", 1),  # 23:59:59 in Beijing
        (16 * 3600, 16 * 3600, "2026-11-22", DAY_S),  # 00:00:00 there
        (16 * 3600, -8 * 3600, "2026-11-22", DAY_S),  # the same, written the other way
    ],
)
def test_the_day_of_a_moment(after_midnight_s: int, offset_s: int, day: str, left_s: int) -> None:
    assert day_of(MIDNIGHT_S + after_midnight_s, offset_s) == day
    assert seconds_to_reset(MIDNIGHT_S + after_midnight_s, offset_s) == left_s


@given(st.floats(0, 4e9), st.integers(-DAY_S, DAY_S))
def test_the_day_changes_when_it_says(now_s: float, offset_s: int) -> None:
    left_s = seconds_to_reset(now_s, offset_s)
    assert 0 < left_s <= DAY_S
    assert day_of(now_s + left_s - 1, offset_s) <= day_of(now_s, offset_s) < day_of(now_s + left_s + 1, offset_s)
    assert day_of(now_s + DAY_S, offset_s) > day_of(now_s, offset_s)


@given(st.floats(0, 4e9))
def test_without_an_offset_it_is_the_date_in_utc(now_s: float) -> None:
    assert day_of(now_s) == datetime.fromtimestamp(now_s, UTC).date().isoformat()

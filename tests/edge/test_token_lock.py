"""The lock beside a login's file, as the CLI makes and breaks it, and what ours does beyond that."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
import uuid
from itertools import islice
from pathlib import Path

import pytest

from qproxy.edge.token_lock import STALE_S, TokenLock, lock_path, waits

NOW_S = 1_700_000_000.0
CLI = str(uuid.uuid4())
HOLDER = (
    "import sys, time; from pathlib import Path; from qproxy.edge.token_lock import TokenLock;"
    "assert TokenLock(Path(sys.argv[1]), time.time, time.monotonic).take(); print('held', flush=True); time.sleep(60)"
)


class Clocks:
    """Both stand still until a test moves them."""

    def __init__(self) -> None:
        self.wall_s = NOW_S
        self.monotonic_s = 0.0


class Place:
    """A folder with a lock in it, or not."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "oauth_creds.lock"
        self.clocks = Clocks()

    def lock(self) -> TokenLock:
        return TokenLock(self.path, lambda: self.clocks.wall_s, lambda: self.clocks.monotonic_s)

    def left_by_cli(self, age_s: float, content: str = CLI) -> None:
        self.path.write_text(content)
        os.utime(self.path, (NOW_S - age_s, NOW_S - age_s))

    def beside(self) -> list[str]:
        return sorted(entry.name for entry in self.path.parent.iterdir() if entry != self.path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("login", "lock"),
    [
        ("oauth_creds.json", "oauth_creds.lock"),
        ("oauth_creds_work.json", "oauth_creds_work.lock"),
        ("oauth_creds_a.b.json", "oauth_creds_a.b.lock"),
        ("login", "login.lock"),
    ],
)
def test_each_login_has_its_own_lock(login: str, lock: str) -> None:
    assert lock_path(Path("/x") / login) == Path("/x") / lock


def test_the_waits_are_the_clis() -> None:
    """Twenty attempts of the CLI take 28.9 s."""
    assert list(islice(waits(), 5)) == pytest.approx([0.1, 0.15, 0.225, 0.3375, 0.50625])
    assert sum(islice(waits(), 20)) == pytest.approx(28.9, abs=0.1)
    assert next(islice(waits(), 100, None)) == 2.0


class TestTaking:
    def test_one_holds_it_and_the_others_do_not(self, place: Place) -> None:
        first, second = place.lock(), place.lock()
        assert first.take()
        assert not second.take()
        assert (first.is_held(), second.is_held()) == (True, False)
        first.release()
        assert not place.path.exists()
        assert second.take()

    def test_it_says_whose_it_is_and_others_cannot_write_it(self, place: Place) -> None:
        place.lock().take()
        assert f"-{os.getpid()} " in place.path.read_text()
        assert place.path.stat().st_mode & 0o777 == 0o600

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Place(tmp_path / "nowhere").lock().take()

    def test_a_full_disk_excludes_others_all_the_same(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: int, __: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        lock = place.lock()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            assert lock.take()
        assert lock.is_held()
        assert not place.lock().take()
        lock.release()
        assert not place.path.exists()

    def test_something_else_in_its_place_is_never_removed(self, place: Place) -> None:
        place.path.mkdir()
        os.utime(place.path, (0, 0))
        place.clocks.monotonic_s = 1000.0
        assert not place.lock().take()
        assert place.path.is_dir()


class TestLocksOfOthers:
    def test_the_cli_keeps_it_for_35_seconds(self, place: Place) -> None:
        place.left_by_cli(STALE_S)
        assert not place.lock().take()
        assert place.path.read_text() == CLI

    def test_after_that_it_is_taken_over_and_nothing_is_left(self, place: Place) -> None:
        place.left_by_cli(STALE_S + 1)
        lock = place.lock()
        assert lock.take()
        assert lock.is_held()
        assert place.beside() == []

    def test_one_from_the_future_is_waited_for_as_long(self, place: Place) -> None:
        """Its holder died before somebody set the clock back: its time alone would keep it for hours."""
        place.left_by_cli(-7200)
        lock = place.lock()
        assert not lock.take()
        place.clocks.monotonic_s = STALE_S
        assert not lock.take()
        place.clocks.monotonic_s = STALE_S + 1
        assert lock.take()

    def test_one_that_is_renewed_is_alive(self, place: Place) -> None:
        place.left_by_cli(-7200)
        lock = place.lock()
        for renewal in range(10):
            place.clocks.monotonic_s += STALE_S - 1
            os.utime(place.path, (NOW_S + 9000 + renewal, NOW_S + 9000 + renewal))
            assert not lock.take()

    def test_what_others_set_aside_long_ago_is_swept(self, place: Place) -> None:
        old, new = (place.path.with_name(f"{place.path.name}.stale.{uuid.uuid4()}") for _ in range(2))
        old.touch()
        new.touch()
        os.utime(old, (0, 0))
        place.left_by_cli(STALE_S + 1)
        assert place.lock().take()
        assert place.beside() == [new.name]


class TestOurDead:
    def test_the_lock_of_a_killed_process_is_taken_at_once(self, place: Place) -> None:
        with subprocess.Popen([sys.executable, "-c", HOLDER, str(place.path)], stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            place.clocks.wall_s = time.time()
            assert not place.lock().take()
            holder.kill()
        assert place.lock().take()

    def test_a_lock_that_only_looks_like_ours_is_not(self, place: Place) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        for content in (f"qproxy 0123456789ab-{process.pid} {uuid.uuid4()}", f"qproxy {process.pid}", "", "\0" * 999):
            place.left_by_cli(1, content)
            assert not place.lock().take()


class TestHolding:
    def test_it_is_renewed(self, place: Place) -> None:
        lock = place.lock()
        lock.take()
        os.utime(place.path, (0, 0))
        lock.renew()
        assert time.time() - place.path.stat().st_mtime < 3600

    def test_a_dying_cli_removes_it(self, place: Place) -> None:
        lock = place.lock()
        lock.take()
        place.path.unlink()
        assert not lock.is_held()
        lock.renew()
        lock.release()
        assert not place.path.exists()

    def test_what_somebody_else_has_taken_is_left_alone(self, place: Place) -> None:
        lock = place.lock()
        lock.take()
        place.path.unlink()
        place.left_by_cli(10)
        assert not lock.is_held()
        lock.renew()
        lock.release()
        assert place.path.read_text() == CLI
        assert place.path.stat().st_mtime == NOW_S - 10

    def test_releasing_twice(self, place: Place) -> None:
        lock = place.lock()
        lock.take()
        lock.release()
        lock.release()
        assert lock.take()


class TestRaces:
    def test_a_lock_that_came_to_life_is_given_back(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between our look and our rename somebody else has removed the stale lock and made his own."""
        place.left_by_cli(STALE_S + 1)
        real = os.rename

        def rename(source: Path, target: Path) -> None:
            place.path.unlink()
            place.path.write_text("alive")
            real(source, target)

        lock = place.lock()
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            assert not lock.take()
        assert place.path.read_text() == "alive"
        assert place.beside() == []

    def test_of_many_that_find_a_stale_lock_one_holds_it(self, place: Place) -> None:
        for _ in range(50):
            place.left_by_cli(STALE_S + 1)
            locks = [place.lock() for _ in range(4)]
            start = threading.Barrier(len(locks))
            taken: list[bool] = []

            def take(lock: TokenLock, start: threading.Barrier = start, taken: list[bool] = taken) -> None:
                start.wait()
                taken.append(lock.take())

            threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert any(taken)
            assert sum(lock.is_held() for lock in locks) == 1
            assert place.beside() == []
            for lock in locks:
                lock.release()
            assert not place.path.exists()

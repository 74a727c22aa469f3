"""A login's file is read whole or not at all, and replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qproxy.edge import token_file as module
from qproxy.edge.process_mark import PATTERN, is_of_the_dead, own_mark
from qproxy.edge.token_file import LATER_NS, MAX_FILE_BYTES, TokenFile, reason_of
from tests.support.kill_points import NEW, OLD, SCENES, found
from tests.support.shell import ROOT

OTHER_USER = 12345
ENVIRON = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
WRITER = "import sys; from pathlib import Path; from tests.support.kill_points import write; write(Path(sys.argv[1]))"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "oauth_creds.json"
    path.write_bytes(OLD)
    path.chmod(0o600)
    return path


def others(path: Path) -> list[str]:
    """What lies beside the file."""
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


class TestReading:
    def test_what_a_file_holds(self, path: Path) -> None:
        content = TokenFile(path).read()
        assert content.data == OLD
        assert content.version == TokenFile(path).version()
        assert not content.is_foreign
        assert not content.is_loose

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o610])
    def test_a_file_that_others_can_open(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        assert TokenFile(path).read().is_loose

    @pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
    def test_a_file_of_another_user(self, path: Path) -> None:
        os.chown(path, OTHER_USER, OTHER_USER)
        assert TokenFile(path).read().is_foreign

    def test_a_huge_file_is_not_read(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.truncate(path, 100 * 1024 * 1024)
        monkeypatch.setattr(module, "_read_at_most", lambda *_: pytest.fail("it was read"))
        with pytest.raises(ValueError, match="larger than 1 MiB"):
            TokenFile(path).read()

    def test_the_largest_file(self, path: Path) -> None:
        path.write_bytes(b" " * MAX_FILE_BYTES)
        assert len(TokenFile(path).read().data) == MAX_FILE_BYTES

    def test_things_that_are_no_files(self, path: Path) -> None:
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ValueError, match="not a regular file"):
            TokenFile(path).read()
        path.unlink()
        path.mkdir()
        with pytest.raises(ValueError, match="not a regular file"):
            TokenFile(path).read()
        path.rmdir()
        with pytest.raises(FileNotFoundError):
            TokenFile(path).read()
        path.symlink_to(path.name)
        with pytest.raises(OSError, match="symbolic"):
            TokenFile(path).read()


class TestWriting:
    def test_the_file_is_new_and_private(self, path: Path) -> None:
        path.chmod(0o644)
        before = path.stat()
        version = TokenFile(path).write(NEW)
        after = path.stat()
        assert path.read_bytes() == NEW
        assert stat.S_IMODE(after.st_mode) == 0o600
        assert after.st_ino != before.st_ino, "written in place"
        assert version == TokenFile(path).version()
        assert others(path) == []

    def test_whatever_the_umask(self, path: Path) -> None:
        before = os.umask(0o777)
        try:
            TokenFile(path).write(NEW)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_folder_is_made_and_private(self, tmp_path: Path) -> None:
        path = tmp_path / ".qwen" / "oauth_creds.json"
        TokenFile(path).write(NEW)
        assert path.read_bytes() == NEW
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_its_time_only_goes_forward(self, path: Path) -> None:
        """Also when the clock has gone back, and when the file system's clock has not ticked in between."""
        os.utime(path, (4_000_000_000, 4_000_000_000))
        times = [path.stat().st_mtime_ns]
        for _ in range(20):
            TokenFile(path).write(NEW)
            times.append(path.stat().st_mtime_ns)
        assert all(later - earlier >= LATER_NS[0] for earlier, later in itertools.pairwise(times))

    def test_a_file_system_that_counts_in_seconds(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.utime(path, (4_000_000_000, 4_000_000_000))
        real = os.utime
        second_ns = 1_000_000_000

        def utime(path: Path, ns: tuple[int, int]) -> None:
            real(path, ns=(ns[0] // second_ns * second_ns, ns[1] // second_ns * second_ns))

        with monkeypatch.context() as patch:
            patch.setattr(os, "utime", utime)
            TokenFile(path).write(NEW)
        assert path.stat().st_mtime > 4_000_000_000

    def test_a_reader_never_sees_half_of_it(self, path: Path) -> None:
        seen: set[str] = set()
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.add(found(path))

        reader = threading.Thread(target=read)
        reader.start()
        for data in [NEW, OLD] * 50:
            TokenFile(path).write(data)
        done.set()
        reader.join()
        assert seen <= {"old", "new"}

    def test_a_symlink_stays(self, path: Path, tmp_path: Path) -> None:
        target = tmp_path / "elsewhere" / "login.json"
        target.parent.mkdir()
        path.rename(target)
        path.symlink_to("elsewhere/login.json")
        TokenFile(path).write(NEW)
        assert path.is_symlink()
        assert target.read_bytes() == NEW
        assert others(target) == []

    def test_a_symlink_to_nothing_is_filled(self, tmp_path: Path) -> None:
        path = tmp_path / "oauth_creds.json"
        path.symlink_to("elsewhere/login.json")
        TokenFile(path).write(NEW)
        assert path.is_symlink()
        assert (tmp_path / "elsewhere" / "login.json").read_bytes() == NEW

    def test_what_is_no_file_is_not_replaced(self, path: Path) -> None:
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(OSError, match="not a regular file"):
            TokenFile(path).write(NEW)
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert others(path) == []

    @pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
    def test_a_file_of_another_user_is_not_replaced(self, path: Path) -> None:
        os.chown(path, OTHER_USER, OTHER_USER)
        with pytest.raises(PermissionError, match="another user"):
            TokenFile(path).write(NEW)
        assert (path.read_bytes(), path.stat().st_uid) == (OLD, OTHER_USER)
        assert others(path) == []


class TestAFailingDisk:
    """The old file is whole and nothing lies beside it, whatever fails."""

    @pytest.mark.parametrize("call", ["write", "fchmod", "utime", "fsync", "close", "replace"])
    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
    def test_a_call_that_fails(self, path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
        os.utime(path, (4_000_000_000, 4_000_000_000))
        real = getattr(os, call)

        def fail(*arguments: object, **named: object) -> None:
            if call == "close":
                real(*arguments, **named)
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match=re.escape(os.strerror(number))):
                TokenFile(path).write(NEW)
        assert path.read_bytes() == OLD
        assert others(path) == []

    def test_a_short_write_is_a_failure(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:4096]))
            with pytest.raises(OSError, match="No space left"):
                TokenFile(path).write(NEW)
        assert path.read_bytes() == OLD
        assert others(path) == []

    def test_a_folder_that_cannot_be_flushed_is_one_we_accept(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.fsync

        def fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            TokenFile(path).write(NEW)
        assert path.read_bytes() == NEW

    @pytest.mark.skipif(IS_ROOT, reason="root writes everywhere")
    def test_a_read_only_folder(self, path: Path) -> None:
        path.parent.chmod(0o500)
        try:
            with pytest.raises(PermissionError):
                TokenFile(path).write(NEW)
        finally:
            path.parent.chmod(0o700)
        assert path.read_bytes() == OLD

    def test_a_full_disk(self, tiny_disk: Path) -> None:
        path = tiny_disk / "oauth_creds.json"
        TokenFile(path).write(OLD)
        filler = tiny_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with pytest.raises(OSError, match="No space left") as caught:
            TokenFile(path).write(NEW)
        assert reason_of(caught.value) == "No space left on device"
        assert path.read_bytes() == OLD
        assert others(path) == ["filler"]
        filler.unlink()
        TokenFile(path).write(NEW)
        assert path.read_bytes() == NEW

    def test_a_file_that_is_a_mount(self, path: Path, tmp_path: Path) -> None:
        """How containers are often given it."""
        outside = tmp_path / "outside.json"
        outside.write_bytes(OLD)
        with mounted(["--bind", str(outside), str(path)], path):
            with pytest.raises(OSError, match="busy") as caught:
                TokenFile(path).write(NEW)
        assert "mount its folder" in reason_of(caught.value)
        assert outside.read_bytes() == OLD
        assert others(path) == ["outside.json"]


@contextlib.contextmanager
def mounted(arguments: list[str], place: Path) -> Iterator[None]:
    """A mount for as long as the block lasts; skips where that is not allowed."""
    if not IS_ROOT or shutil.which("mount") is None:
        pytest.skip("only root mounts")
    if subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode:
        pytest.skip("this place lets nobody mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "tiny"
    place.mkdir()
    with mounted(["-t", "tmpfs", "-o", "size=32k", "tmpfs", str(place)], place):
        yield place


class TestWhatTheDeadLeave:
    def temporary(self, path: Path, mark: str) -> Path:
        left = path.with_name(f"{path.name}.{mark}-0123abcd.tmp")
        left.write_bytes(b"half")
        return left

    def test_it_is_removed_by_the_next_writer_and_at_the_next_start(self, path: Path) -> None:
        mark = own_mark().replace(str(os.getpid()), str(dead_pid()))
        self.temporary(path, mark)
        TokenFile(path).sweep()
        assert others(path) == []
        self.temporary(path, mark)
        TokenFile(path).write(NEW)
        assert others(path) == []

    def test_what_others_may_still_need_stays(self, path: Path) -> None:
        living = self.temporary(path, own_mark())
        elsewhere = self.temporary(path, f"0123456789ab-{dead_pid()}")
        foreign = path.with_name(f"{path.name}.0123456789ab.tmp")
        foreign.write_bytes(b"")
        TokenFile(path).sweep()
        assert sorted(others(path)) == sorted([living.name, elsewhere.name, foreign.name])

    def test_what_is_an_hour_old_is_needed_by_nobody(self, path: Path) -> None:
        elsewhere = self.temporary(path, "0123456789ab-1")
        os.utime(elsewhere, (0, 0))
        TokenFile(path).sweep()
        assert others(path) == []

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        TokenFile(tmp_path / "nowhere" / "oauth_creds.json").sweep()

    def test_the_mark_of_a_process(self) -> None:
        assert re.fullmatch(PATTERN, own_mark())
        place = own_mark().partition("-")[0]
        assert not is_of_the_dead(own_mark())
        assert is_of_the_dead(f"{place}-{dead_pid()}")
        assert is_of_the_dead(f"{place}-9999999999")
        assert not is_of_the_dead(f"0123456789ab-{dead_pid()}")
        assert not is_of_the_dead(f"{place}-1"), "somebody else's process lives too"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestKilling:
    """SIGKILL at every call of the writer: the old login or the new one, whole, and nothing left lying about."""

    @pytest.mark.parametrize("scene", SCENES)
    def test_at_every_call(self, tmp_path: Path, scene: str) -> None:
        command = [sys.executable, "-m", "tests.support.kill_points", str(tmp_path), scene]
        done = subprocess.run(command, cwd=ROOT, env=ENVIRON, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        killed = [line for line in lines if line["killed"]]
        assert {"write", "fsync", "close", "replace"} <= {line["call"] for line in killed}
        assert [line["found"] for line in lines if not line["killed"]] == ["new", "new"]
        before = "none" if scene == "make" else "old"
        for line in lines:
            assert line["left"] == [], line
            assert line["mode"] in ("0o600", ""), line
            assert line["found"] in (before, "new"), line
            assert line["lock"] == "free" or (line["lock"] == "empty" and line["point"] <= 2), line
            assert line["is_link"] == (scene == "symlink"), line
        for moment in ("before", "after"):
            story = [line["found"] for line in killed if line["moment"] == moment]
            assert story == sorted(story, key=["none", "old", "new"].index), "new, and then old again"
            assert set(story) == {before, "new"}
            turned = next(line for line in killed if line["moment"] == moment and line["found"] == "new")
            if moment == "after":
                assert turned["call"] == "replace"

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    def test_at_every_system_call(self, path: Path, tmp_path: Path) -> None:
        """What the interpreter really asks the kernel for, with the kernel's own help."""
        points = self.system_calls(path, tmp_path / "trace")
        assert {"write", "fsync", "rename"} <= {name for name, _ in points}
        story = []
        for name, number in points:
            inject = ["-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={number}"]
            path.write_bytes(OLD)
            command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-c", WRITER, str(path)]
            subprocess.run(command, env=ENVIRON, capture_output=True, timeout=20, check=False)
            story.append(found(path))
            TokenFile(path).sweep()
            assert others(path) == ["trace"]
        assert set(story) == {"old", "new"}
        assert story == sorted(story, reverse=True)

    def system_calls(self, path: Path, trace: Path) -> list[tuple[str, int]]:
        """The writer's calls by name and number among those of the whole process, from the first that has to do with
        the file on."""
        command = ["strace", "-f", "-qq", "-o", str(trace), sys.executable, "-c", WRITER, str(path)]
        done = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode:
            pytest.skip(f"strace may not trace here: {done.stderr.strip()[-200:]}")
        seen: dict[str, int] = {}
        points: list[tuple[str, int]] = []
        begun = False
        for line in trace.read_text().splitlines():
            match = re.match(r"\d+ +(\w+)\((.*)", line)
            if match is None:
                continue
            name = match[1]
            seen[name] = seen.get(name, 0) + 1
            begun = begun or (name == "openat" and path.name in match[2] and ".tmp" in match[2])
            if begun and name in ("openat", "write", "fchmod", "utimensat", "fsync", "close", "rename"):
                points.append((name, seen[name]))
        path.write_bytes(OLD)
        end = next(index for index, (name, _) in enumerate(points) if name == "rename")
        return points[: end + 4]  # and the three calls that flush the folder

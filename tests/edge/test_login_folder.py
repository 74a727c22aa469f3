"""Accounts come, change and go while others hold the lock, look, or are killed."""

from __future__ import annotations

import stat
import threading
import time
from typing import TYPE_CHECKING

import pytest

from qproxy.core.oauth import json_object
from qproxy.edge import login_files
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.token_lock import TokenLock, lock_path

if TYPE_CHECKING:
    from pathlib import Path

LOGIN: dict[str, object] = {"access_token": "t", "refresh_token": "r", "token_type": "Bearer", "expiry_date": 4e12}


@pytest.fixture
def files(tmp_path: Path) -> LoginFiles:
    return LoginFiles(tmp_path / ".qwen", tmp_path / ".qwen" / "oauth_creds.json")


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def test_the_folder_need_not_be_there(files: LoginFiles, tmp_path: Path) -> None:
    assert files.accounts() == []
    files.save("work", LOGIN)
    assert files.accounts() == ["work"]
    assert stat.S_IMODE((tmp_path / ".qwen").stat().st_mode) == 0o700
    assert names(tmp_path / ".qwen") == ["oauth_creds_work.json"]


def test_the_default_account_is_the_first(files: LoginFiles, tmp_path: Path) -> None:
    for account in ("zoe", "alice", "default", "carol"):
        files.save(account, LOGIN)
    (tmp_path / ".qwen" / "oauth_creds_.json").touch()
    (tmp_path / ".qwen" / "oauth_creds_default.json").touch()
    (tmp_path / ".qwen" / "oauth_creds_folder.json").mkdir()
    assert files.accounts() == ["default", "alice", "carol", "zoe"]


def test_the_default_file_may_lie_elsewhere(tmp_path: Path) -> None:
    files = LoginFiles(tmp_path / ".qwen", tmp_path / "elsewhere" / "login.json")
    files.save("default", LOGIN)
    files.save("work", LOGIN)
    (tmp_path / ".qwen" / "oauth_creds.json").touch()
    assert json_object((tmp_path / "elsewhere" / "login.json").read_bytes()) == LOGIN
    assert files.accounts() == ["default", "work"]
    files.remove("default")
    assert files.accounts() == ["work"]


def test_a_new_login_replaces_the_old_one_and_its_mode(files: LoginFiles) -> None:
    files.save("work", LOGIN)
    files.path("work").chmod(0o644)
    files.save("work", {**LOGIN, "access_token": "new"})
    assert json_object(files.path("work").read_bytes())["access_token"] == "new"
    assert stat.S_IMODE(files.path("work").stat().st_mode) == 0o600


def test_a_removed_account_is_gone(files: LoginFiles, tmp_path: Path) -> None:
    files.save("work", LOGIN)
    files.remove("work")
    assert names(tmp_path / ".qwen") == []
    assert not files.is_cut("work")
    for remove in (files.remove, lambda account: files.remove_at_once(account, 0.0)):
        with pytest.raises(FileNotFoundError):
            remove("work")
    assert names(tmp_path / ".qwen") == []


def test_a_link_goes_and_what_it_leads_to_stays(files: LoginFiles, tmp_path: Path) -> None:
    (tmp_path / ".qwen").mkdir()
    (tmp_path / "target").write_text("{}")
    files.path("work").symlink_to(tmp_path / "target")
    files.remove("work")
    assert (tmp_path / "target").exists()
    assert files.accounts() == []


@pytest.mark.parametrize("at_once", [True, False])
def test_one_that_is_removed_leaves_a_mark_for_as_long_as_servers_look(
    files: LoginFiles, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    files.save("work", LOGIN)
    remove = files.remove_at_once if at_once else files.remove
    with pytest.raises(FileNotFoundError):
        remove("nobody", 60.0)
    seen: list[tuple[float, bool, bool, bool, bool]] = []

    def look(seconds: float) -> None:
        has_file = files.path("work").exists()
        seen.append((seconds, has_file, files.is_removed("work"), files.is_cut("work"), files.is_removed("default")))

    monkeypatch.setattr(time, "sleep", look)
    remove("work", 0.5)
    assert seen == [(0.5, False, True, at_once, False)]
    assert not files.is_removed("work")


@pytest.mark.parametrize("change", ["save", "remove"])
@pytest.mark.parametrize("mark", [".cut", ".out"])
def test_a_mark_that_was_left_behind_does_not_outlive_the_next_change(
    files: LoginFiles, change: str, mark: str
) -> None:
    files.save("work", LOGIN)
    files.path("work").with_suffix(mark).touch()
    if change == "save":
        files.save("work", LOGIN)
    else:
        files.remove("work")
    assert not files.is_removed("work")


@pytest.mark.parametrize("change", ["save", "remove", "remove_at_once"])
def test_whoever_renews_the_login_is_waited_for(files: LoginFiles, change: str) -> None:
    files.save("work", LOGIN)
    lock = TokenLock(lock_path(files.path("work")), time.time, time.monotonic)
    assert lock.take()
    work = {
        "save": lambda: files.save("work", {**LOGIN, "access_token": "by the person"}),
        "remove": lambda: files.remove("work"),
        "remove_at_once": lambda: files.remove_at_once("work", 0.0),
    }[change]
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.1)
    assert json_object(files.path("work").read_bytes()) == LOGIN
    files.path("work").write_text('{"access_token": "by the renewal"}')
    lock.release()
    thread.join()
    if change == "save":
        assert json_object(files.path("work").read_bytes())["access_token"] == "by the person"
    else:
        assert not files.path("work").exists()


def test_a_lock_that_stays_taken_is_an_error(files: LoginFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_files, "LOCK_S", 0.0)
    files.save("work", LOGIN)
    lock = TokenLock(lock_path(files.path("work")), time.time, time.monotonic)
    assert lock.take()
    with pytest.raises(TimeoutError, match=r"oauth_creds_work\.lock stays taken by another program"):
        files.remove("work")
    assert files.path("work").exists()
    assert lock.is_held()


def test_a_folder_that_takes_no_file(files: LoginFiles, tmp_path: Path) -> None:
    (tmp_path / ".qwen").touch()
    with pytest.raises(OSError, match="File exists"):
        files.save("work", LOGIN)
    with pytest.raises(NotADirectoryError):
        files.accounts()

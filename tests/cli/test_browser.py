"""Where a browser is opened, and where not."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from qproxy.cli.browser import is_desktop
from tests.support.shell import ROOT, TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

X11 = {"DISPLAY": ":0"}


@pytest.mark.parametrize(
    ("platform", "environ", "answer"),
    [
        ("linux", X11, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("darwin", {}, True),
        ("win32", {}, True),
        ("linux", {**X11, "SSH_CONNECTION": "a 1 b 2"}, False),
        ("darwin", {"SSH_TTY": "/dev/ttys001"}, False),
        ("linux", {**X11, "container": "podman"}, False),
        ("linux", {**X11, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    ],
)
def test_what_a_desktop_is(platform: str, environ: dict[str, str], answer: bool, tmp_path: Path) -> None:
    assert is_desktop(environ, platform, tmp_path) == answer


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_is_none(mark: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert is_desktop(X11, "linux", tmp_path)
    (tmp_path / mark).touch()
    assert not is_desktop(X11, "linux", tmp_path)


def opened(folder: Path, browser: str) -> bool:
    """What `open_browser` says in a process whose browser is that one."""
    script = "import sys; from qproxy.cli.browser import open_browser; sys.exit(open_browser('https://a.example/?b=c'))"
    environ = {"BROWSER": browser, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, cwd=folder, timeout=TIMEOUT_S, check=False)
    return bool(done.returncode)


def test_the_page_reaches_the_browser(tmp_path: Path) -> None:
    browser = tmp_path / "browser"  # one that ends at once is taken for one that could not start
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/page.new\nmv {tmp_path}/page.new {tmp_path}/page\nsleep 2\n')
    browser.chmod(0o755)
    assert opened(tmp_path, f"{browser} %s &")
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "page").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / "page").read_text() == "https://a.example/?b=c\n"


@pytest.mark.parametrize("browser", ["w3m-that-takes-the-terminal %s", "/nonexistent/browser %s &"])
def test_a_browser_that_cannot_be_used(browser: str, tmp_path: Path) -> None:
    assert not opened(tmp_path, browser)

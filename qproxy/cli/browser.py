"""Whether a web browser can be opened where this process runs, and the opening."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path

REMOTE_VARIABLES = ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY")
CONTAINER_VARIABLES = ("container", "KUBERNETES_SERVICE_HOST")
CONTAINER_MARKS = (".dockerenv", "run/.containerenv")
DISPLAY_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY")


def is_desktop(environ: Mapping[str, str], platform: str = sys.platform, root: Path = Path("/")) -> bool:
    """Whether somebody sits in front of this machine: not over SSH, not in a container, and with a display."""
    if any(environ.get(name) for name in (*REMOTE_VARIABLES, *CONTAINER_VARIABLES)):
        return False
    if any((root / mark).exists() for mark in CONTAINER_MARKS):
        return False
    if platform in ("win32", "darwin"):
        return True
    return any(environ.get(name) for name in DISPLAY_VARIABLES)


def open_browser(url: str) -> bool:
    """Show a page; False where there is nothing to show it with. Blocks until the browser has been told."""
    try:
        browser = webbrowser.get()
        if type(browser) is webbrowser.GenericBrowser:  # one for the terminal, which would take this one away
            return False
        return browser.open(url)
    except (webbrowser.Error, OSError):
        return False

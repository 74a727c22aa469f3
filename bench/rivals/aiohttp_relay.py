"""The aiohttp relay: anything slower than it has no excuse."""

from __future__ import annotations

from pathlib import Path

from bench.rivals.base import UPSTREAM_KEY, Command, Rival, Site
from bench.rivals.packages import PythonPackages

PACKAGES = PythonPackages(("aiohttp==3.14.5", "uvloop==0.23.0"))
SCRIPT = Path(__file__).with_name("apps") / "aiohttp_relay.py"


def command(site: Site) -> Command:
    """On uvloop."""
    origin = f"http://127.0.0.1:{site.upstream_port}"
    return Command((str(site.prefix / ".venv/bin/python"), str(SCRIPT), str(site.port), origin, UPSTREAM_KEY))


RIVAL = Rival("aiohttp", "relay of 80 lines, Python", PACKAGES, command)

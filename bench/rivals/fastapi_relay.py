"""The FastAPI + httpx relay."""

from __future__ import annotations

from pathlib import Path

from bench.rivals.base import UPSTREAM_KEY, Command, Rival, Site
from bench.rivals.packages import PythonPackages

PACKAGES = PythonPackages(("fastapi==0.165.0", "httpx==0.28.1", "uvicorn[standard]==0.54.0"))
SCRIPT = Path(__file__).with_name("apps") / "fastapi_relay.py"


def command(site: Site) -> Command:
    """On uvicorn with uvloop and httptools."""
    origin = f"http://127.0.0.1:{site.upstream_port}"
    return Command((str(site.prefix / ".venv/bin/python"), str(SCRIPT), str(site.port), origin, UPSTREAM_KEY))


RIVAL = Rival("fastapi-httpx", "relay of 60 lines, Python", PACKAGES, command)

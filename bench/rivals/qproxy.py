"""qproxy itself: from this repository, on the running interpreter, as `qproxy serve` starts it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.rivals.base import CLIENT_KEY, ROOT, UPSTREAM_KEY, Command, Rival, Site

NAME = "qproxy"
SETTINGS = """
upstream = "mock"
[upstreams.mock]
url = "{url}"
key = "env:BENCH_UPSTREAM_KEY"
max_connections = 8000
"""
# All that a prompt can ask for: an account that its conversation sticks to, another name, its tokens counted.
EVERYTHING = """
keys = ["env:BENCH_SECOND_KEY"]
[models]
"*" = "mock:another"
"""
# All that watches exchanges and can be left out: whatever comes to it in qproxy comes to it here.
UNWATCHED = {"QPROXY_ACCESS_LOG": "off"}
WARM_IDLE_S = 1.0
# A connection that has served comes before one that was opened ahead; after so long only the latter is left.
WARM = f"warm = 1\nkeepalive_s = {WARM_IDLE_S}\n"
RUN_CLI = "from qproxy.cli import main; main()"


@dataclass(frozen=True, slots=True)
class ThisRepository:
    """Nothing to install."""

    def install(self, prefix: Path) -> None:
        """Nothing to do."""

    def missing(self, prefix: Path) -> str:
        """Never: what it lacks shows when it starts."""
        return ""

    def version(self, prefix: Path) -> str:
        """From the package."""
        import qproxy

        return f"qproxy {qproxy.__version__}"


def serve_argv(site: Site, backend: str, workers: int = 1, more: str = "") -> tuple[str, ...]:
    """The arguments of the command line, from `serve` on; the upstream stands in a settings file, with `more` lines in
    its table."""
    settings = site.write("qproxy.toml", SETTINGS.format(url=site.upstream_url) + more)
    argv = (
        "serve", "--host", "127.0.0.1", "--port", str(site.port), "--config", str(settings), "--backend", backend,
    )  # fmt: skip
    return (*argv, "--workers", str(workers)) if workers > 1 else argv


def serve_env(site: Site, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Keys for both sides, the access log into a file, and what a variant adds or changes."""
    return {
        "PYTHONPATH": str(ROOT),
        "QPROXY_API_KEY": CLIENT_KEY,
        "QPROXY_ACCESS_LOG": str(site.folder / "access.log"),
        "BENCH_UPSTREAM_KEY": UPSTREAM_KEY,
        **(extra or {}),
    }


def qproxy(
    backend: str, *, name: str = NAME, workers: int = 1, extra: Mapping[str, str] | None = None, more: str = ""
) -> Rival:
    """qproxy on one loop, with one number of workers, further environment variables and lines about its upstream."""

    def command(site: Site) -> Command:
        argv = (sys.executable, "-c", RUN_CLI, *serve_argv(site, backend, workers, more))
        return Command(argv, serve_env(site, extra))

    return Rival(name, f"{backend}, {workers} worker(s)", ThisRepository(), command, workers)


def judged_qproxy(backend: str, workers: int) -> Rival:
    """With its form without watching beside it, and the one that opens connections ahead."""
    unwatched = qproxy(backend, name=f"{NAME}@unwatched", workers=workers, extra=UNWATCHED)
    warmed = qproxy(backend, name=f"{NAME}@warm", workers=workers, more=WARM)
    return replace(qproxy(backend, workers=workers), unwatched=unwatched, warmed=warmed)


def busy_qproxy(backend: str, workers: int) -> Rival:
    """With everything on that a prompt can ask for."""
    extra = {"QPROXY_COUNT_TOKENS": "true", "BENCH_SECOND_KEY": f"{UPSTREAM_KEY}-2"}
    return qproxy(backend, name=f"{NAME}@everything", workers=workers, extra=extra, more=EVERYTHING)

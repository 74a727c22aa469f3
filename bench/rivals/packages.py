"""Packages from Debian, PyPI and npm, each rival in its own folder: nothing of the system is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.rivals.base import InstallError

INSTALL_S = 900.0


def run_installer(argv: list[str], folder: Path) -> str:
    """The output of a command that has to succeed."""
    try:
        done = subprocess.run(
            argv, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_S, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as exc:
        raise InstallError(f"{argv[0]} is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise InstallError(f"{argv[0]} took longer than {INSTALL_S:.0f} s") from exc
    if done.returncode:
        raise InstallError(f"{argv[0]}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1][:200]}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class DebianPackages:
    """A program on PATH, else taken out of its Debian packages without installing them: no root, no service started.

    `packages` are the program's own and those of shared libraries that a small system may lack.
    """

    program: str
    packages: tuple[str, ...]
    version_flag: str = "-v"

    def install(self, prefix: Path) -> None:
        """Downloads with apt-get, unpacks with dpkg-deb."""
        if self.find(prefix) is not None:
            return
        prefix.mkdir(parents=True, exist_ok=True)
        run_installer(["apt-get", "download", *self.packages], prefix)
        for archive in prefix.glob("*.deb"):
            run_installer(["dpkg-deb", "-x", str(archive), "root"], prefix)

    def find(self, prefix: Path) -> str | None:
        """The path of the program."""
        places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", str(prefix / "root/usr/sbin")]
        return shutil.which(self.program, path=os.pathsep.join(places))

    def missing(self, prefix: Path) -> str:
        """Names the command that gets it."""
        return "" if self.find(prefix) else f"not installed: python -m bench install {prefix.name}"

    def version(self, prefix: Path) -> str:
        """As the program says it."""
        done = subprocess.run(
            [self.find(prefix) or self.program, self.version_flag],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(prefix),
        )
        return (done.stdout + done.stderr).strip().splitlines()[0]

    def environment(self, prefix: Path) -> dict[str, str]:
        """Where unpacked shared libraries are found."""
        folders = sorted({str(path.parent) for path in (prefix / "root/usr/lib").glob("**/*.so*")})
        return {"LD_LIBRARY_PATH": ":".join(folders)} if folders else {}


@dataclass(frozen=True, slots=True)
class PythonPackages:
    """Pinned requirements in a virtual environment; the first one gives the version."""

    requirements: tuple[str, ...]

    def install(self, prefix: Path) -> None:
        """With pip."""
        prefix.mkdir(parents=True, exist_ok=True)
        run_installer([sys.executable, "-m", "venv", ".venv"], prefix)
        run_installer([".venv/bin/pip", "install", "--quiet", *self.requirements], prefix)

    def missing(self, prefix: Path) -> str:
        """Names the command that gets it."""
        wanted = self._distributions(prefix)
        return "" if wanted else f"not installed: python -m bench install {prefix.name}"

    def version(self, prefix: Path) -> str:
        """From the metadata in the virtual environment."""
        return self._distributions(prefix)[0].removesuffix(".dist-info").replace("-", " ")

    def _distributions(self, prefix: Path) -> list[str]:
        name = self.requirements[0].partition("=")[0].partition("[")[0]
        return [path.name for path in prefix.glob(f".venv/lib/python*/site-packages/{name}-*.dist-info")]


@dataclass(frozen=True, slots=True)
class NodePackages:
    """One npm package at one version; `overrides` pin packages that it brings."""

    package: str
    pinned_version: str
    overrides: tuple[tuple[str, str], ...] = ()

    def install(self, prefix: Path) -> None:
        """With npm."""
        prefix.mkdir(parents=True, exist_ok=True)
        manifest = {"dependencies": {self.package: self.pinned_version}, "overrides": dict(self.overrides)}
        (prefix / "package.json").write_text(json.dumps(manifest))
        run_installer(["npm", "install", "--no-audit", "--no-fund"], prefix)

    def folder(self, prefix: Path) -> Path:
        """The unpacked package."""
        return prefix / "node_modules" / self.package

    def missing(self, prefix: Path) -> str:
        """Names what is missing."""
        if shutil.which("node") is None:
            return "node is not installed"
        installed = (self.folder(prefix) / "package.json").exists()
        return "" if installed else f"not installed: python -m bench install {prefix.name}"

    def version(self, prefix: Path) -> str:
        """From package.json."""
        manifest = json.loads((self.folder(prefix) / "package.json").read_text())
        return f"{self.package} {manifest['version']}"

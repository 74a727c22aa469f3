"""The C tools, built once, and a mock upstream."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.machine import available_cores
from bench.tools import Mock, build_tools
from tests.bench.bench_field import Field


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mock` and `load`."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("tools")
    build_tools(folder)
    return folder


@pytest.fixture
def field(tools: Path, tmp_path: Path) -> Iterator[Field]:
    mock = Mock(tmp_path / "mock", available_cores(), tools)
    yield Field(tools, tmp_path, mock)
    mock.server.stop()

"""Load is shed before the kernel ends the process for its memory (`faults.md` P06)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qproxy.edge.memory import ControlGroup, MemoryGuard, tightest_group
from qproxy.errors import InternalError
from tests.support.drain_stage import ASK, begin_stream, drain_stage, whole
from tests.support.raw_client import End, raw_client, request_head

if TYPE_CHECKING:
    from pathlib import Path

MB = 1_000_000
READY = request_head("GET", "/readyz")


class Groups:
    """Files as the kernel has them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.own = folder / "self"

    def version_2(self, path: str, limit: str, used: int = 0, droppable: int = 0) -> None:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\nactive_file 2\ninactive_file {droppable}\nslab 3\n")

    def version_1(self, path: str, limit: int, used: int = 0, droppable: int = 0) -> None:
        folder = self.root / "memory" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {droppable}\n")

    def tightest(self, own: str) -> ControlGroup | None:
        self.own.write_text(own)
        return tightest_group(self.root, self.own)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


def test_the_tightest_group_up_to_the_root_counts(groups: Groups) -> None:
    groups.version_2("", "max")
    groups.version_2("a", str(100 * MB), used=60 * MB, droppable=20 * MB)
    groups.version_2("a/b", str(200 * MB))
    found = groups.tightest("0::/a/b\n")
    assert found is not None
    assert (found.limit_bytes, found.used_bytes()) == (100 * MB, 40 * MB)


def test_the_first_version(groups: Groups) -> None:
    groups.version_1("", 9_223_372_036_854_771_712)
    groups.version_1("job", 50 * MB, used=30 * MB, droppable=5 * MB)
    found = groups.tightest("4:cpu,memory:/job\n2:cpuacct:/other\n0::/\n")
    assert found is not None
    assert (found.limit_bytes, found.used_bytes()) == (50 * MB, 25 * MB)


def test_in_a_container_the_path_is_that_of_the_world_outside(groups: Groups) -> None:
    groups.version_2("", str(70 * MB), used=MB)
    found = groups.tightest("0::/kubepods/pod1/abc\n")
    assert found is not None
    assert found.limit_bytes == 70 * MB


@pytest.mark.parametrize("own", ["0::/\n", "0::/../..\n", "1:memory:/x\n", ""])
def test_no_limit_is_none(groups: Groups, own: str) -> None:
    groups.version_2("", "max")
    groups.version_1("", 9_223_372_036_854_771_712)
    assert groups.tightest(own) is None


def test_where_nothing_is_known_nothing_is_limited(tmp_path: Path) -> None:
    assert tightest_group(tmp_path / "none", tmp_path / "neither") is None


@pytest.mark.anyio
async def test_new_requests_are_refused_and_what_is_under_way_goes_on(groups: Groups) -> None:
    groups.version_2("", str(100 * MB), used=50 * MB)
    group = groups.tightest("0::/\n")
    assert group is not None
    async with drain_stage() as stage, raw_client(stage.url) as client, raw_client(stage.url) as other:
        guard = MemoryGuard(group, stage.proxy.app.drain)
        guard.look()
        stream = await begin_stream(client)
        groups.version_2("", str(100 * MB), used=95 * MB)
        guard.look()
        refused = await other.ask(ASK)
        assert (refused.status, refused.error_code) == (503, "overloaded")
        assert refused.header(b"retry-after") == b"2"
        assert (await other.ask(READY)).status == 503
        groups.version_2("", str(100 * MB), used=90 * MB)  # not yet enough: it would be short again at once
        guard.look()
        assert (await other.ask(ASK)).status == 503
        groups.version_2("", str(100 * MB), used=80 * MB)
        guard.look()
        assert (await other.ask(READY)).status == 200
        stage.go_on.set()
        assert (await other.ask(ASK)).status == 200
        assert (await whole(client, stream)).end is End.WHOLE


@pytest.mark.anyio
async def test_a_server_that_leaves_stays_closed(groups: Groups) -> None:
    groups.version_2("", str(100 * MB), used=95 * MB)
    group = groups.tightest("0::/\n")
    assert group is not None
    async with drain_stage() as stage:
        guard = MemoryGuard(group, stage.proxy.app.drain)
        guard.look()
        stage.drain()
        await stage.is_drained.wait()
        groups.version_2("", str(100 * MB), used=10 * MB)
        guard.look()
        obstacle = stage.proxy.app.drain.obstacle()
        assert obstacle is not None
        assert obstacle.code == "draining"
        with pytest.raises(InternalError, match="shutting down"):
            stage.proxy.app.drain.check_open()


@pytest.mark.anyio
async def test_files_that_vanish_end_the_watch_and_nothing_else(groups: Groups) -> None:
    groups.version_2("", str(100 * MB), used=95 * MB)
    group = groups.tightest("0::/\n")
    assert group is not None
    async with drain_stage() as stage, raw_client(stage.url) as client:
        guard = MemoryGuard(group, stage.proxy.app.drain)
        guard.look()
        (groups.root / "memory.current").unlink()
        await guard.run()
        assert (await client.ask(READY)).status == 200

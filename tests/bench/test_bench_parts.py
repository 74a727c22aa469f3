"""Bodies, cores, clocks, rivals: the parts that a run is made of."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import cli
from bench.bodies import MODEL, chat_body
from bench.machine import BusyTimes, available_cores, describe, foreign_share, share_out
from bench.processes import Server, StartError, free_port
from bench.rivals import GATEWAYS, RIVALS
from bench.rivals.base import Rival, Site
from bench.rivals.qproxy import qproxy


@settings(max_examples=40)
@given(size=st.integers(200, 20_000), stream=st.booleans())
def test_a_body_has_its_size_and_is_a_chat_request(size: int, stream: bool) -> None:
    body = chat_body(size, stream=stream)
    request = json.loads(body)
    assert len(body) == size
    assert list(request)[:2] == ["messages", "model"]
    assert request["model"] == MODEL
    assert request.get("stream", False) is stream
    assert chat_body(size, stream=stream) == body


def test_a_body_may_have_its_model_in_front() -> None:
    assert chat_body(5000, order="model first").startswith(b'{"model":')


def test_a_long_body_has_prose_code_escapes_and_characters_beyond_ascii() -> None:
    body = chat_body(100_000)
    for part in ("```\\n", '\\"', "\\t", "请解释", "ö"):
        assert part.encode() in body


@pytest.mark.parametrize(
    ("available", "workers", "proxy", "mock", "load"),
    [
        ({0}, 1, {0}, {0}, {0}),
        ({0, 1}, 1, {1}, {0}, {0}),
        ({0, 1}, 2, {1}, {0}, {0}),  # the tools keep one
        ({2, 3, 5}, 1, {5}, {2}, {3}),
        ({0, 1, 2, 3}, 2, {2, 3}, {0}, {1}),
    ],
)
def test_cores_are_shared_out(
    available: set[int], workers: int, proxy: set[int], mock: set[int], load: set[int]
) -> None:
    cores = share_out(frozenset(available), workers=workers)
    assert (set(cores.proxy), set(cores.mock), set(cores.load)) == (proxy, mock, load)
    assert cores.separate is (len(available) > 1)


def test_foreign_load_is_what_neither_we_nor_idleness_had() -> None:
    before, after = BusyTimes(10.0, 1.0, 100.0), BusyTimes(13.0, 1.5, 102.0)
    assert foreign_share(before, after, own_s=2.0, cores=2) == pytest.approx((3.0 - 2.0 + 0.5) / 4.0)
    assert foreign_share(before, after, own_s=9.0, cores=2) == 0.0
    assert foreign_share(before, before, own_s=0.0, cores=2) == 0.0


def test_the_machine_describes_itself() -> None:
    assert describe().cores == len(os.sched_getaffinity(0))
    assert BusyTimes.read(available_cores()).busy_s > 0


SPIN = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'while True: pass']); p.wait()"


def test_a_server_is_its_whole_group(tmp_path: Path) -> None:
    import sys

    server = Server((sys.executable, "-c", SPIN), dict(os.environ), tmp_path, available_cores())
    try:
        while server.cpu_s() < 0.2:
            time.sleep(0.01)
        assert len(server.pids()) == 2
        assert server.memory().peak_bytes >= server.memory().resident_bytes > 1_000_000
        server.pause()
        stopped_s = server.cpu_s()
        server.wait_idle(5.0)
        assert server.cpu_s() < stopped_s + 0.05
    finally:
        server.stop()
    assert server.pids() == []
    assert server.exit_status is not None


def test_a_program_that_is_not_there_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        Server(("/nowhere/at-all",), {}, tmp_path, available_cores())


@pytest.mark.parametrize("rival", [*RIVALS.values(), qproxy("uvloop")], ids=lambda rival: rival.name)
def test_every_rival_says_how_it_is_installed_started_and_reached(rival: Rival, tmp_path: Path) -> None:
    site = Site(tmp_path / rival.name, tmp_path, free_port(), 9)
    command = rival.command(site)
    assert rival.about
    assert command.argv
    assert command.path.startswith("/")
    assert all(len(line.split(": ", 1)) == 2 for line in command.headers)
    given = " ".join([*command.argv, *command.env.values()]) + "".join(
        path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    )
    assert str(site.port) in given
    missing = rival.packages.missing(site.prefix)
    assert not missing or "not installed" in missing


def test_the_gateways_are_rivals() -> None:
    assert set(GATEWAYS) <= set(RIVALS)


def test_forms_of_qproxy_have_names_of_their_own() -> None:
    argv = [
        "run", "--backend", "asyncio,trio", "--workers", "1,2", "--variant", "quiet:QPROXY_ACCESS_LOG=off",
        "--everything",
    ]  # fmt: skip
    subjects = cli.own_subjects(cli.parser().parse_args(argv))
    assert [subject.name for subject in subjects] == [
        "qproxy", "qproxy@asyncio*2", "qproxy@trio", "qproxy@trio*2", "qproxy@quiet",
        "qproxy@everything",
    ]  # fmt: skip
    assert [subject.unwatched.name for subject in subjects if subject.unwatched] == ["qproxy@unwatched"]
    assert subjects[3].workers == 2


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--against", "squid"],
        ["run", "--scenarios", "T99"],
        ["run", "--backend", "curio"],
        ["run", "--variant", "quiet"],
        ["install", "squid"],
        [],
    ],
)
def test_a_wrong_command_line_is_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.main(argv)
    assert refused.value.code == 2

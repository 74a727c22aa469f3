"""A whole run, made small: the mock itself stands in for a proxy, so that every scenario has real processes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.context import Effort
from bench.link import Shape
from bench.results import Run
from bench.rivals.base import Command, Rival, Site
from bench.runner import Plan, execute
from bench.scenarios import SCENARIOS, t1_small, t2_latency, t4_paced, t5_memory, t8_watching, t9_link
from tests.bench.bench_field import TINY


@dataclass(frozen=True)
class Nothing:
    """Packages that need no installation, or cannot be had."""

    reason: str = ""

    def install(self, prefix: Path) -> None:
        raise AssertionError("a run installs nothing")

    def missing(self, prefix: Path) -> str:
        return self.reason

    def version(self, prefix: Path) -> str:
        return "stand-in 1"


def stand_in(name: str, *argv: str, reason: str = "", ready_s: float = 20.0, unwatched: Rival | None = None) -> Rival:
    def command(site: Site) -> Command:
        return Command(tuple(part.format(port=site.port) for part in argv), ready_s=ready_s)

    return Rival(name, "for a test", Nothing(reason), command, unwatched=unwatched)


def run_of(tools: Path, rivals: tuple[Rival, ...], *scenarios: str, effort: Effort = TINY) -> Run:
    return execute(Plan(rivals, scenarios, effort), lambda line: None, tools)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t1_small, "CONNECTIONS", (1, 8))
    monkeypatch.setattr(t2_latency, "UPLOAD_SIZES", {"1KB": 1024, "200KB": 200 * 1024})
    monkeypatch.setattr(t4_paced, "STREAMS", 5)
    monkeypatch.setattr(t4_paced, "RAMP_S", 0.05)
    for name in ("SETTLE_S", "HOLD_S", "STALLED_S"):
        monkeypatch.setattr(t5_memory, name, 0.05)
    monkeypatch.setattr(t8_watching, "STREAMS", 5)
    monkeypatch.setattr(t8_watching, "CHUNKS", 3)
    for name in ("WINDOW_S", "RAMP_S"):
        monkeypatch.setattr(t8_watching, name, 0.05)
    monkeypatch.setattr(t9_link, "SHAPE", Shape(rtt_s=0.01, bytes_per_s=1e8))
    monkeypatch.setattr(t9_link, "SEEN_S", 0.01)


@pytest.mark.usefixtures("small")
def test_every_scenario_measures_a_proxy(tools: Path) -> None:
    mock = stand_in("qproxy", str(tools / "mock"), "--port", "{port}", "--chunks", "3", "--pace", "50")
    run = run_of(tools, (mock,), *(name for name in SCENARIOS if name not in ("T3", "T7")))
    samples = {sample.scenario: sample for sample in run.samples if sample.subject == "qproxy"}
    assert samples["T1"].figures["requests_per_s@8"] > 0
    assert samples["T1"].figures["cpu_us@8"] > 0
    assert {"added_ms@1KB", "added_ms@4MB", "cpu_us@600KB-model-first"} <= set(samples["T2"].figures)
    assert samples["T2"].figures["last_byte_ms@worst"] >= samples["T2"].figures["last_byte_ms@200KB"] > 0
    assert samples["T4"].figures["complete_share"] == 1.0
    assert 0 < samples["T5"].figures["idle_mb"] < 10
    assert "per_stuck_reader_kib" in samples["T5"].figures
    assert samples["T8"].figures == {}  # it has no form without watching
    assert {"direct_new_ms", "direct_kept_ms", "new_ms", "kept_ms", "kept_over_direct"} == set(samples["T9"].figures)
    assert not samples["T1"].faults + samples["T2"].faults + samples["T4"].faults
    assert [subject.version for subject in run.subjects] == ["", "stand-in 1"]


def test_flat_out_streams_and_churn_measure_a_proxy(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mock = stand_in("qproxy", str(tools / "mock"), "--port", "{port}", "--chunks", "500")
    run = run_of(tools, (mock,), "T3", "T7")
    flat, churn = (sample for sample in run.samples if sample.subject == "qproxy")
    assert flat.figures["complete_share"] == 1.0
    assert flat.figures["cpu_us_per_chunk"] > 0
    assert flat.figures["tools_lead@burst"] > 0
    assert churn.figures["exchanges_per_s"] > 0


@pytest.mark.usefixtures("small")
def test_watching_is_measured_beside_a_form_without_it(tools: Path) -> None:
    argv = (str(tools / "mock"), "--port", "{port}", "--chunks", "3", "--pace", "50")
    rival = stand_in("qproxy", *argv, unwatched=stand_in("qproxy@unwatched", *argv))
    (sample,) = run_of(tools, (rival,), "T8").samples
    assert sample.faults == []
    assert sample.figures["watched@T1"] > 0
    assert sample.figures["watched@T4"] > 0


@pytest.mark.usefixtures("small")
def test_a_form_with_connections_ahead_is_measured_over_the_link(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t9_link, "WARM_IDLE_S", 0.01)
    argv = (str(tools / "mock"), "--port", "{port}")
    rival = replace(stand_in("qproxy", *argv), warmed=stand_in("qproxy@warm", *argv))
    (sample,) = run_of(tools, (rival,), "T9").samples
    assert sample.faults == []
    assert sample.figures["spare_ms"] > 0


def test_a_form_without_watching_that_does_not_start_is_a_fault(tools: Path) -> None:
    argv = (str(tools / "mock"), "--port", "{port}")
    rival = stand_in("qproxy", *argv, unwatched=stand_in("qproxy@unwatched", "/nowhere/at-all"))
    (sample,) = run_of(tools, (rival,), "T8").samples
    assert sample.figures == {}
    assert "qproxy@unwatched" in sample.faults[0]


def test_subjects_take_turns(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t1_small, "CONNECTIONS", (1,))
    rivals = tuple(stand_in(name, str(tools / "mock"), "--port", "{port}") for name in ("a", "b"))
    run = run_of(tools, rivals, "T1", effort=replace(TINY, rounds=2))
    assert [(sample.round, sample.subject) for sample in run.samples] == [
        (0, "direct"), (0, "a"), (0, "b"), (1, "direct"), (1, "b"), (1, "a"),
    ]  # fmt: skip


def test_a_rival_that_cannot_be_measured_is_kept_with_its_reason(tools: Path) -> None:
    script = "import sys; print('no such setting: x', file=sys.stderr); sys.exit(3)"
    rivals = (
        stand_in("absent", "unused", reason="not installed: python -m bench install absent"),
        stand_in("broken", sys.executable, "-c", script),
        stand_in("deaf", sys.executable, "-c", "import time; time.sleep(60)", ready_s=0.2),
        stand_in("gone", "/nowhere/at-all"),
    )
    run = run_of(tools, rivals, "T3")
    problems = {subject.name: subject.problem for subject in run.subjects}
    assert problems["absent"] == "not installed: python -m bench install absent"
    assert problems["broken"] == "ended with status 3: no such setting: x"
    assert problems["deaf"].startswith("not ready after")
    assert "No such file" in problems["gone"]
    assert run.measured() == ["direct"]


def test_a_proxy_that_refuses_leaves_a_fault_and_no_figure(tools: Path) -> None:
    server = (
        "import sys, http.server as h\n"
        "class Handler(h.BaseHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def do_POST(self):\n"
        "        body = self.rfile.read(int(self.headers['content-length']))\n"
        "        self.send_response(503 if b'\"stream\":true' in body else 200)\n"
        "        self.send_header('content-length', '2')\n"
        "        self.end_headers()\n"
        "        self.wfile.write(b'no')\n"
        "h.ThreadingHTTPServer.request_queue_size = 100\n"
        "h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
    )
    run = run_of(tools, (stand_in("moody", sys.executable, "-c", server, "{port}"),), "T3")
    sample = next(sample for sample in run.samples if sample.subject == "moody")
    assert sample.figures == {}
    assert any("status 503" in fault for fault in sample.faults)


def test_nothing_is_left_running(tools: Path) -> None:
    run_of(tools, (stand_in("a", str(tools / "mock"), "--port", "{port}"),), "T3")
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if str(tools).encode() in command]

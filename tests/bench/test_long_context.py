"""Long contexts: what the client takes down, and that a delay which is planted fails a comparison."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench import cli
from bench.bodies import chat_body
from bench.charts import long_context_chart
from bench.context_client import BadAnswer, ContextClient
from bench.figures import LONG_CONTEXT
from bench.link import ROOT
from bench.long_context import Plan, context_table, execute, main
from bench.results import Run
from bench.rivals.base import Command, Rival, Site
from bench.tools import CHAT_PATH
from tests.bench.bench_field import Field
from tests.bench.synthetic import every_figure, run_of

PLANTED_MS = 40.0


class Nothing:
    """Packages that need no installation."""

    def install(self, prefix: Path) -> None:
        raise AssertionError("a run installs nothing")

    def missing(self, prefix: Path) -> str:
        return ""

    def version(self, prefix: Path) -> str:
        return "stand-in 1"


def relay(name: str, delay_ms: float = 0.0, ready_s: float = 20.0) -> Rival:
    """In a proxy's place: passes everything on, so much later."""

    def command(site: Site) -> Command:
        argv = (
            sys.executable, "-m", "bench.link", "--port", str(site.port), "--rtt-ms", str(delay_ms), "--mbit", "100000",
            "--upstream", f"127.0.0.1:{site.upstream_port}",
        )  # fmt: skip
        return Command(argv, {"PYTHONPATH": str(ROOT)}, ready_s=ready_s)

    return Rival(name, "for a test", Nothing(), command)


def measured(tools: Path, *rivals: Rival, upstream: str = "", model: str = "m") -> Run:
    plan = Plan(rivals, sizes=("1k", "8k"), rounds=1, pairs=2, upstream=upstream, model=model, effort="quick")
    return execute(plan, lambda line: None, tools)


class TestRun:
    def test_every_figure_of_every_length(self, tools: Path) -> None:
        run = measured(tools, relay("qproxy"))
        (sample,) = run.samples
        assert sample.faults == []
        keys = {key.partition("@")[0] for key in sample.figures}
        assert {key.partition("@")[2] for key in sample.figures} == {"1k", "8k"}
        assert keys == {
            "direct_first_ms", "first_ms", "added_first_ms", "direct_whole_ms", "whole_ms", "added_whole_ms",
            "added_chunk_ms", "stream_cpu_us", "plain_cpu_us", "peak_mb",
        }  # fmt: skip
        assert sample.figures["peak_mb@8k"] > 1
        assert sample.figures["stream_cpu_us@1k"] > 0

    def test_any_upstream(self, tools: Path, field: Field) -> None:
        field.mock.profile(chunks=2)
        run = measured(tools, relay("qproxy"), upstream=f"http://localhost:{field.mock.port}/v1", model="other")
        assert run.samples[0].faults == []
        assert field.mock.stats().requests > 8

    def test_one_that_does_not_answer_well_is_a_fault(self, tools: Path) -> None:
        with refusing() as port:
            run = measured(tools, relay("qproxy", ready_s=1.0), upstream=f"http://127.0.0.1:{port}/v1")
        assert run.samples == []  # it never was ready
        assert "503" in run.subjects[0].problem

    @pytest.mark.parametrize("url", ["https://127.0.0.1/v1", "http:///v1", "http://127.0.0.1:1/", "localhost"])
    def test_an_upstream_that_cannot_be(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--upstream", url]) == 2
        assert "must look like" in capsys.readouterr().err


class TestPlantedDelays:
    def test_a_real_one_fails_the_comparison(self, tools: Path, tmp_path: Path) -> None:
        before, after = tmp_path / "before.json", tmp_path / "after.json"
        measured(tools, relay("qproxy")).write(before)
        measured(tools, relay("qproxy", PLANTED_MS)).write(after)
        assert cli.main(["compare", str(before), str(before)]) == 0
        assert cli.main(["compare", str(before), str(after)]) == 1

    @pytest.mark.parametrize("key", ["first_ms", "whole_ms"])
    @pytest.mark.parametrize("size", ["1k", "1M"])
    def test_a_millisecond_fails_it(
        self, tmp_path: Path, key: str, size: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Three milliseconds directly, half a millisecond more with the proxy."""
        figures = dict.fromkeys(every_figure(1.0)[LONG_CONTEXT], 3.5)
        figures |= {name: 3.0 for name in figures if name.startswith("direct_")}
        before, after = tmp_path / "before.json", tmp_path / "after.json"
        run_of({"qproxy": {LONG_CONTEXT: figures}}, wobble=0.01).write(before)
        run_of({"qproxy": {LONG_CONTEXT: figures | {f"{key}@{size}": 4.5}}}, wobble=0.01).write(after)
        assert cli.main(["compare", str(before), str(after)]) == 1
        worse = [line for line in capsys.readouterr().out.splitlines() if "worse" in line]
        assert len(worse) == 1
        assert f"{size}: proxied / direct" in worse[0]


class TestOutput:
    def test_table_and_chart(self) -> None:
        run = run_of({name: {LONG_CONTEXT: every_figure(2.0)[LONG_CONTEXT]} for name in ("qproxy", "nginx")})
        assert context_table(run, "qproxy", ("1k", "1M")).row_count == 2
        chart = long_context_chart(run)
        assert "qproxy" in chart
        assert "128k" in chart
        assert long_context_chart(replace(run, samples=[])) == ""

    def test_the_file_is_one_of_the_bench(self, tmp_path: Path) -> None:
        run_of({"qproxy": {LONG_CONTEXT: every_figure(2.0)[LONG_CONTEXT]}}).write(tmp_path / "run.json")
        assert json.loads((tmp_path / "run.json").read_text())["samples"]
        assert cli.main(["show", str(tmp_path / "run.json")]) == 0


class TestClient:
    def test_what_it_got_in_place_of_an_answer(self) -> None:
        with refusing() as port, pytest.raises(BadAnswer, match=r"503.*full up"):
            ContextClient("127.0.0.1", port, CHAT_PATH, ()).ask(chat_body(1024))

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
    def test_an_answer_that_breaks_off(self, said: bytes) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(said)

            server = threading.Thread(target=serve)
            server.start()
            client = ContextClient("127.0.0.1", listener.getsockname()[1], CHAT_PATH, ())
            with pytest.raises(BadAnswer, match="ended within"):
                client.ask(chat_body(1024))
            client.close()
            server.join()

    def test_a_connection_that_the_server_ends_is_made_anew(self, field: Field) -> None:
        client = ContextClient("127.0.0.1", field.mock.port, CHAT_PATH, ("connection: close",))
        for _ in range(2):
            assert client.ask(chat_body(1024)).whole_ms > 0
            client.close()


@contextmanager
def refusing() -> Iterator[int]:
    """A server that answers 503; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"full up")

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""`python -m bench.long_context`: what a proxy adds to long prompts, direct and proxied requests by turns.

For each length of a prompt, one request at a time, streamed and not: first token, whole answer, how much later a chunk
is at the client, processor time of the proxy per request, its peak memory. Beside the mock upstream, or any upstream
that speaks plain http; with qproxy alone, or rivals of `bench/rivals` too. The JSON is for `python -m bench compare`.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rich.table import Table

from bench import tables
from bench.bodies import KIB, MODEL, chat_body
from bench.charts import long_context_chart
from bench.cli import BACKENDS, names_of
from bench.context import Measurement
from bench.context_client import BadAnswer, ContextClient, Times
from bench.figures import CONTEXT_SIZES, LONG_CONTEXT
from bench.instance import Instance
from bench.link import Link, Shape
from bench.machine import BusyTimes, Cores, available_cores, describe, foreign_share, pinned, share_out
from bench.processes import Server, StartError
from bench.results import QPROXY, Run, Sample, Subject
from bench.rivals import LABELS, RIVALS
from bench.rivals.base import UPSTREAM_KEY, Rival
from bench.rivals.qproxy import qproxy
from bench.tools import BUILD, CHAT_PATH, Mock, ToolError, build_tools

BYTES_PER_TOKEN = 4
TOKENS = {"1k": KIB, "8k": 8 * KIB, "32k": 32 * KIB, "128k": 128 * KIB, "256k": 256 * KIB, "1M": 1024 * KIB}
MB = 1e6
WARM_UP = 2  # pairs before those that count
CHUNKS = 10
CHUNKS_PER_S = 250
WIDE = Shape(rtt_s=0.0, bytes_per_s=1e12)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: `pairs` of a direct and a proxied request of each kind and length, in each round."""

    rivals: tuple[Rival, ...]
    sizes: tuple[str, ...] = CONTEXT_SIZES
    rounds: int = 3
    pairs: int = 60
    upstream: str = ""  # the mock
    model: str = MODEL
    effort: str = "full"
    command: str = ""


@dataclass(slots=True)
class _Pairs:
    """Direct and proxied requests of one kind."""

    direct: list[Times] = field(default_factory=list)
    proxied: list[Times] = field(default_factory=list)
    cpu_us: float = 0.0


@dataclass(frozen=True, slots=True)
class _Stage:
    """An upstream on this machine, and the folder of tools and logs."""

    server: Server
    port: int
    cores: Cores
    build: Path

    def own_cpu_s(self, instance: Instance) -> float:
        """What we and what we measure have used."""
        return time.process_time() + self.server.cpu_s() + instance.server.cpu_s()


def execute(plan: Plan, report: Callable[[str], None], build: Path = BUILD) -> Run:
    """Measures everything; whatever was started is stopped. Raises ToolError, StartError or ValueError."""
    cores = share_out(available_cores())
    run = Run(plan.command, describe().as_dict(), "client beside the upstream", plan.effort)
    with _upstream(plan, cores, build) as stage, ExitStack() as started:
        instances = [instance for rival in plan.rivals if (instance := _start(rival, stage, run, started))]
        for round_ in range(plan.rounds):
            for instance in instances:
                report(f"round {round_ + 1} of {plan.rounds}: {instance.rival.name}")
                instance.server.resume()
                run.samples.append(_measure(plan, stage, instance, round_))
                instance.server.pause()
    return run


@contextmanager
def _upstream(plan: Plan, cores: Cores, build: Path) -> Iterator[_Stage]:
    """The mock; or what listens elsewhere, through a relay: rivals are told a port of this machine and nothing more."""
    if not plan.upstream:
        build_tools(build)
        mock = Mock(build / "run" / "mock", cores.mock, build)
        try:
            mock.profile(chunks=CHUNKS, pace=CHUNKS_PER_S)
            yield _Stage(mock.server, mock.port, cores, build)
        finally:
            mock.server.stop()
        return
    url = urlsplit(plan.upstream)
    if url.scheme != "http" or not url.hostname or url.path.rstrip("/") != "/v1":
        raise ValueError(f"--upstream {plan.upstream}: must look like http://127.0.0.1:8000/v1")
    relay = Link(build / "run" / "relay", cores.mock, (url.hostname, url.port or 80), WIDE)
    try:
        yield _Stage(relay.server, relay.port, cores, build)
    finally:
        relay.stop()


def _start(rival: Rival, stage: _Stage, run: Run, started: ExitStack) -> Instance | None:
    """A rival that does not start is kept with its reason."""
    instance = Instance(rival, stage.port, stage.cores.proxy, stage.build)
    problem = version = ""
    try:
        instance.start()
    except StartError as exc:
        problem = str(exc)
    else:
        started.callback(instance.stop)
        version = rival.packages.version(instance.site.prefix)
        instance.server.pause()
    run.subjects.append(Subject(rival.name, rival.about, version, problem))
    return None if problem else instance


def _measure(plan: Plan, stage: _Stage, instance: Instance, round_: int) -> Sample:
    """Short prompts first: a peak of memory is not that of an earlier, longer one."""
    into = Measurement()
    direct = ContextClient("127.0.0.1", stage.port, CHAT_PATH, (f"authorization: Bearer {UPSTREAM_KEY}",))
    proxied = ContextClient("127.0.0.1", instance.site.port, instance.command.path, instance.command.headers)
    before, own_before_s = BusyTimes.read(stage.cores.all), stage.own_cpu_s(instance)
    with pinned(stage.cores.load):
        for size in plan.sizes:
            try:
                figures = _at(size, plan, direct, proxied, instance)
            except (BadAnswer, OSError) as exc:
                into.faults.append(f"{size} tokens: {exc}")
            else:
                into.figures.update({f"{key}@{size}": value for key, value in figures.items()})
    own_s = stage.own_cpu_s(instance) - own_before_s
    share = foreign_share(before, BusyTimes.read(stage.cores.all), own_s, len(stage.cores.all))
    direct.close()
    proxied.close()
    return Sample(LONG_CONTEXT, instance.rival.name, round_, into.figures, into.faults, round(share, 3))


def _at(size: str, plan: Plan, direct: ContextClient, proxied: ContextClient, instance: Instance) -> dict[str, float]:
    instance.server.reset_peak()
    streams = _pairs(direct, proxied, _body(size, plan.model, stream=True), instance, plan.pairs)
    plain = _pairs(direct, proxied, _body(size, plan.model, stream=False), instance, plan.pairs)
    return {**_figures(streams, plain), "peak_mb": instance.memory().peak_bytes / MB}


def _body(size: str, model: str, *, stream: bool) -> bytes:
    body = chat_body(TOKENS[size] * BYTES_PER_TOKEN, stream=stream)
    return body.replace(b'"model":"%b"' % MODEL.encode(), b'"model":"%b"' % model.encode())


def _pairs(direct: ContextClient, proxied: ContextClient, body: bytes, instance: Instance, count: int) -> _Pairs:
    for _ in range(WARM_UP):
        direct.ask(body)
        proxied.ask(body)
    pairs = _Pairs()
    before_s = instance.server.cpu_s()
    for _ in range(count):
        pairs.direct.append(direct.ask(body))
        pairs.proxied.append(proxied.ask(body))
    pairs.cpu_us = (instance.server.cpu_s() - before_s) * 1e6 / count
    return pairs


def _figures(streams: _Pairs, plain: _Pairs) -> dict[str, float]:
    """By key, without the length. What is added is the median of what each pair differs by."""
    figures = {"stream_cpu_us": streams.cpu_us, "plain_cpu_us": plain.cpu_us}
    for name, pairs, time_of in (("first", streams, _first_ms), ("whole", plain, _whole_ms)):
        direct, proxied = [time_of(each) for each in pairs.direct], [time_of(each) for each in pairs.proxied]
        figures[f"direct_{name}_ms"] = statistics.median(direct)
        figures[f"{name}_ms"] = statistics.median(proxied)
        figures[f"added_{name}_ms"] = statistics.median(b - a for a, b in zip(direct, proxied, strict=True))
    straight, relayed = _delays(streams.direct), _delays(streams.proxied)
    if straight and relayed:
        figures["added_chunk_ms"] = statistics.median(relayed) - statistics.median(straight)
    return figures


def _first_ms(times: Times) -> float:
    return times.first_ms


def _whole_ms(times: Times) -> float:
    return times.whole_ms


def _delays(all_times: list[Times]) -> list[float]:
    """Of every event but the first, which has waited for its request."""
    return [delay for times in all_times for delay in times.delays_ms[1:]]


COLUMNS = {
    "direct_first_ms": ("first token\ndirect, ms", 2),
    "added_first_ms": ("\nadded, ms", 2),
    "direct_whole_ms": ("plain answer\ndirect, ms", 2),
    "added_whole_ms": ("\nadded, ms", 2),
    "added_chunk_ms": ("a chunk\nlater by, ms", 3),
    "stream_cpu_us": ("processor, µs\nstreamed", 0),
    "plain_cpu_us": ("\nplain", 0),
    "peak_mb": ("peak memory\nMB", 0),
}


def context_table(run: Run, subject: str, sizes: tuple[str, ...]) -> Table:
    """Rows are lengths of the prompt; cells are medians of the rounds."""
    table = Table(title=f"{LABELS.get(subject, subject)}, by tokens of the prompt ({run.effort})")
    table.add_column("")
    for title, _ in COLUMNS.values():
        table.add_column(title, justify="right")
    for size in sizes:
        found = [(run.summary(subject, LONG_CONTEXT, f"{key}@{size}"), digits) for key, (_, digits) in COLUMNS.items()]
        table.add_row(size, *(f"{each.median:,.{digits}f}" if each else "-" for each, digits in found))
    return table


def show(run: Run, plan: Plan) -> None:
    """The tables, and what a reader has to know beside them."""
    console = tables.console_of(120)
    console.print(", ".join(f"{name} {value}" for name, value in run.machine.items()))
    for subject in run.measured():
        console.print(context_table(run, subject, plan.sizes))
    for line in tables.notes(run):
        console.print(line, markup=False)


def main(argv: list[str]) -> int:
    """The exit status: 0, 1 where qproxy could not be measured, 2 where the command cannot be carried out."""
    options = _parser().parse_args(argv)
    plan = _plan(options)
    try:
        run = execute(plan, lambda line: print(line, file=sys.stderr, flush=True), options.build)
    except (ToolError, StartError, ValueError, OSError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    if options.json:
        run.write(options.json)
    if options.svg:
        options.svg.write_text(long_context_chart(run))
    show(run, plan)
    return 0 if QPROXY in run.measured() and all(sample.figures for sample in run.samples) else 1


def _plan(options: argparse.Namespace) -> Plan:
    rounds, pairs = (1, 10) if options.quick else (3, 60)
    return Plan(
        rivals=(qproxy(options.backend), *(RIVALS[name] for name in options.against)),
        sizes=options.sizes,
        rounds=options.rounds or rounds,
        pairs=options.pairs or pairs,
        upstream=options.upstream,
        model=options.model,
        effort="quick" if options.quick else "full",
        command="python -m bench.long_context " + shlex.join(sys.argv[1:]),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.long_context", description=__doc__)
    add = parser.add_argument
    add("--upstream", default="", metavar="URL", help="a model server's base URL, plain http; default: the mock")
    add("--model", default=MODEL, help="what to ask it for: %(default)s")
    add("--against", type=names_of(tuple(RIVALS)), default=(), metavar="NAME,...", help=f"all, or {', '.join(RIVALS)}")
    add("--sizes", type=names_of(CONTEXT_SIZES), default=CONTEXT_SIZES, metavar="SIZE,...", help="in tokens")
    add("--backend", choices=BACKENDS, default=BACKENDS[0])
    add("--rounds", type=int, metavar="N", help="default: 3, quick 1")
    add("--pairs", type=int, metavar="N", help="requests of each kind and length in a round; default: 60, quick 10")
    add("--quick", action="store_true", help="short: shows that everything works, its times say little")
    add("--build", type=lambda text: Path(text).absolute(), default=BUILD, metavar="DIR", help="of tools and rivals")
    add("--json", type=Path, metavar="FILE", help="everything that was measured, for python -m bench compare")
    add("--svg", type=Path, metavar="FILE", help="the chart")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

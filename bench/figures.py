"""The table of figures: what the scenarios measure, how it reads, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]
# By what share two runs on a calm machine may differ: processor time and memory, medians of latencies, their tails.
CALM = 0.1
LATENCY = 0.25
TAIL = 1.0
# Of a latency over that of the direct requests between the proxied ones.
PAIRED = 0.15
LONG_CONTEXT = "LC"
CONTEXT_SIZES = ("1k", "8k", "32k", "128k", "256k", "1M")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `ranked` rows are those in which qproxy has to be ahead of every other gateway.

    Rows that are not `judged` make no ratio: they are about the run, or have a goal of their own, or are tails that two
    calm runs do not repeat.
    `tolerance` is by what share two calm runs may differ beyond the spread of their rounds.
    """

    scenario: str
    key: str
    title: str
    better: Better
    digits: int = 2
    ranked: bool = False
    tolerance: float = CALM
    judged: bool = True

    @property
    def name(self) -> str:
        """Unique over all scenarios; the name in files of ratios."""
        return f"{self.scenario} {self.key}"


def _of_long_contexts() -> tuple[Figure, ...]:
    """What `bench/long_context.py` measures at each length of a prompt, in tokens."""

    def rows(size: str) -> tuple[Figure, ...]:
        lc = LONG_CONTEXT
        return (
            Figure(lc, f"direct_first_ms@{size}", f"{size} tokens: direct first token, ms", "lower", 3, judged=False),
            Figure(lc, f"first_ms@{size}", "… proxied, ms", "lower", 3, tolerance=PAIRED, judged=False),
            Figure(lc, f"added_first_ms@{size}", "… added, ms", "lower", 3, tolerance=LATENCY),
            Figure(lc, f"direct_whole_ms@{size}", "… direct plain answer, ms", "lower", 3, judged=False),
            Figure(lc, f"whole_ms@{size}", "… proxied, ms", "lower", 3, tolerance=PAIRED, judged=False),
            Figure(lc, f"added_whole_ms@{size}", "… added, ms", "lower", 3, tolerance=LATENCY),
            Figure(lc, f"added_chunk_ms@{size}", "… each chunk later by, ms", "lower", 3, judged=False),
            Figure(lc, f"stream_cpu_us@{size}", "… CPU per streamed request, µs", "lower", 0),
            Figure(lc, f"plain_cpu_us@{size}", "… CPU per plain request, µs", "lower", 0),
            Figure(lc, f"peak_mb@{size}", "… peak memory, MB", "lower", 1),
        )

    return tuple(row for size in CONTEXT_SIZES for row in rows(size))


FIGURES: tuple[Figure, ...] = (
    Figure("T1", "requests_per_s@64", "requests/s, 64 connections", "higher", 0, ranked=True),
    Figure("T1", "cpu_us@64", "CPU per request, 64 connections, µs", "lower", 1, ranked=True),
    Figure("T1", "cpu_us@1", "CPU per request, 1 connection, µs", "lower", 1),
    Figure("T1", "cpu_us@1000", "CPU per request, 1,000 connections, µs", "lower", 1),
    Figure("T1", "p99_ms@64", "p99 at 64 connections, ms", "lower", judged=False),
    Figure("T1", "tools_share@64", "share of the load core, 64 connections", "lower", judged=False),
    Figure("T1", "tools_lead@64", "mock and load client, each ahead by, x", "higher", 1, judged=False),
    Figure("T2", "added_ms@1KB", "added p50 at 1 KB, ms", "lower", 3, ranked=True, tolerance=LATENCY),
    Figure("T2", "added_ms@100KB", "added p50 at 100 KB, ms", "lower", 3, tolerance=LATENCY),
    Figure("T2", "added_ms@600KB", "added p50 at 600 KB, ms", "lower", 3, ranked=True, tolerance=LATENCY),
    Figure("T2", "added_ms@600KB-model-first", "… with model before messages, ms", "lower", 3, tolerance=LATENCY),
    Figure("T2", "added_ms@4MB", "added p50 at 4 MB, ms", "lower", 3, ranked=True, tolerance=LATENCY),
    Figure("T2", "added_ms@4MB-model-first", "… with model before messages, ms", "lower", 3, tolerance=LATENCY),
    Figure("T2", "last_byte_ms@1KB", "paced upload, last byte up after, 1 KB, ms", "lower", 3, judged=False),
    Figure("T2", "last_byte_ms@100KB", "… 100 KB, ms", "lower", 3, judged=False),
    Figure("T2", "last_byte_ms@600KB", "… 600 KB, ms", "lower", 3, judged=False),
    Figure("T2", "last_byte_ms@4MB", "… 4 MB, ms", "lower", 3, judged=False),
    Figure("T2", "last_byte_ms@16MB", "… 16 MB, ms", "lower", 3, judged=False),
    Figure("T3", "cpu_us_per_chunk", "CPU per chunk, a write each, µs", "lower", ranked=True),
    Figure("T3", "chunks_per_s", "chunks/s, a write each", "higher", 0, judged=False),
    Figure("T3", "tools_share", "share of the load core, a write each", "lower", judged=False),
    Figure("T3", "tools_lead", "mock and load client, each ahead by, x", "higher", 1, judged=False),
    Figure("T3", "cpu_us_per_chunk@burst", "CPU per chunk, 32 a write, µs", "lower"),
    Figure("T3", "chunks_per_s@burst", "chunks/s, 32 a write", "higher", 0),
    Figure("T3", "tools_lead@burst", "mock and load client, each ahead by, x", "higher", 1, judged=False),
    Figure("T4", "cpu_us_per_chunk", "CPU per chunk, µs", "lower", 1, ranked=True),
    Figure("T4", "added_first_p50_ms", "added first token p50, ms", "lower", ranked=True, tolerance=LATENCY),
    Figure("T4", "added_first_p99_ms", "added first token p99, ms", "lower", ranked=True, tolerance=TAIL),
    Figure("T4", "gap_p99_ms", "gap between events p99 (20 ms sent), ms", "lower", judged=False),
    Figure("T5", "idle_mb", "idle, MB", "lower", 0, ranked=True),
    Figure("T5", "per_idle_connection_kib@5000", "per idle connection of 5,000, KiB", "lower", 1),
    Figure("T5", "per_stream_kib@500", "per open stream of 500, KiB", "lower", 1),
    Figure("T5", "per_stream_kib@3000", "per open stream of 3,000, KiB", "lower", 1),
    Figure("T5", "per_stuck_reader_kib", "per client that does not read, KiB", "lower", 0, judged=False),
    Figure("T5", "peak_growth_of_bodies", "peak with 16 x 4 MB, x bodies", "lower"),
    Figure("T6", "added_ms@0", "one more request, none held, ms", "lower", 3, tolerance=LATENCY),
    Figure("T6", "added_ms@200", "… 200 held, ms", "lower", 3, tolerance=LATENCY),
    Figure("T6", "added_ms@1000", "… 1,000 held, ms", "lower", 3, tolerance=LATENCY),
    Figure("T6", "added_ms@3000", "… 3,000 held, ms", "lower", 3, tolerance=LATENCY),
    Figure("T6", "lost@3000", "… of their events lost", "lower", 0, judged=False),
    Figure("T7", "cpu_us", "CPU per exchange, µs", "lower", 0),
    Figure("T7", "quiet_after_ms", "upstream quiet after, ms", "lower", 0, judged=False),
    Figure("T7", "added_ms_after", "one request afterwards, ms", "lower", 3, tolerance=LATENCY),
    Figure("T8", "watched@T1", "CPU per request, watching on / off, x", "lower", 3, judged=False),
    Figure("T8", "watched@T4", "CPU per paced chunk, watching on / off, x", "lower", 3, judged=False),
    Figure("T9", "direct_new_ms", "600 KB over 200 ms, 50 Mbit/s: direct, new, ms", "lower", 0, judged=False),
    Figure("T9", "direct_kept_ms", "… direct, connection kept, ms", "lower", 0, judged=False),
    Figure("T9", "new_ms", "… proxied, new connection upwards, ms", "lower", 0, judged=False),
    Figure("T9", "spare_ms", "… proxied, opened ahead, ms", "lower", 0, judged=False),
    Figure("T9", "kept_ms", "… proxied, kept, ms", "lower", 0, judged=False),
    Figure("T9", "kept_over_direct", "… kept, proxied / direct, x", "lower", 3, judged=False),
    *_of_long_contexts(),
)
BY_NAME: dict[str, Figure] = {figure.name: figure for figure in FIGURES}

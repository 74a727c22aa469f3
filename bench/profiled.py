"""Runs qproxy's command line under cProfile: `python -m bench.profiled STATS_FILE serve ...`.

SIGUSR1 begins the profile, SIGUSR2 ends it and writes the file. The clock is the thread's CPU time, so that waiting for
work does not count.
"""

from __future__ import annotations

import cProfile
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from qproxy.cli import main


def run(stats_file: Path) -> None:
    """Serves until the command line ends."""
    profiler = cProfile.Profile(time.thread_time)

    def begin(_signal: int, _frame: FrameType | None) -> None:
        profiler.enable()

    def end(_signal: int, _frame: FrameType | None) -> None:
        profiler.disable()
        unfinished = stats_file.with_suffix(".part")
        profiler.dump_stats(unfinished)
        unfinished.rename(stats_file)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    main()


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    run(path)

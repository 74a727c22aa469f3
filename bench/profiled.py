"""Runs qproxy's command line and samples where it is: `python -m bench.profiled SAMPLES_FILE serve ...`.

SIGUSR1 begins, SIGUSR2 ends and writes the file: [[count, [[file, function], ...]], ...], innermost function first.
Between the two the kernel interrupts the process once per tick of CPU time that it used (ITIMER_PROF: while it sleeps,
nothing is sampled), a few hundred times a second, so the code runs as it always does.
"""

from __future__ import annotations

import dis
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

from qproxy.cli import main

TICK_S = 0.001  # the kernel rounds up to its own tick
RESUME = dis.opmap["RESUME"]
Stack = tuple[CodeType, ...]


def stack_of(frame: FrameType | None) -> Stack:
    """Innermost first. The interpreter looks for signals at certain instructions only: where it finds one on entering
    or resuming a function, the time before went into whoever did that."""
    if frame is not None and frame.f_code.co_code[frame.f_lasti] == RESUME:
        frame = frame.f_back
    codes = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    return tuple(codes)


def write(samples: Counter[Stack], path: Path) -> None:
    """Appears at once and whole."""
    rows = [(count, [(code.co_filename, code.co_qualname) for code in stack]) for stack, count in samples.most_common()]
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(rows))
    unfinished.rename(path)


def run(path: Path) -> None:
    """Serves until the command line ends."""
    samples: Counter[Stack] = Counter()

    def take(_signal: int, frame: FrameType | None) -> None:
        samples[stack_of(frame)] += 1

    def begin(_signal: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, TICK_S, TICK_S)

    def end(_signal: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        write(samples, path)

    signal.signal(signal.SIGPROF, take)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    main()


if __name__ == "__main__":
    run(Path(sys.argv.pop(1)))

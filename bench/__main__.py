"""`python -m bench`."""

from __future__ import annotations

import signal
import sys

from bench.cli import main

if __name__ == "__main__":
    # What was started is stopped on the way out, so a termination has to take that way too.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))

"""`python -m bench.soak.trimmed serve ...`: qproxy, that gives free memory back to the system when it is sent SIGUSR2.

qproxy tells the allocator to keep what is freed, for the next long body. What stays in use can only be seen without it.
Nothing else is touched: the garbage collector is left to its own times.
"""

from __future__ import annotations

import ctypes
import signal
import threading

from qproxy.cli import main

TRIM = signal.SIGUSR2


def trim_when_asked() -> None:
    """For as long as the process lives."""
    malloc_trim = ctypes.CDLL(None).malloc_trim
    while True:
        signal.sigwait({TRIM})
        malloc_trim(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {TRIM})  # in this thread, and in all that it starts
    threading.Thread(target=trim_when_asked, name="trim", daemon=True).start()
    main()

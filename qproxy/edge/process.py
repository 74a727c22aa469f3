"""What a process can do once, at its start, for the long run. Each line is measured in
`docs/explanation/performance.md`; where a system lacks a call, the start goes on without it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

RESERVED_DESCRIPTORS = 64  # log, resolver, loop, credential files
DESCRIPTORS_PER_CONNECTION = 2  # the client's and the upstream's
UNLIMITED_CONNECTIONS = 100_000
FULL_COLLECTION_EVERY = (20_000, 20, 50)
SWITCH_INTERVAL_S = 0.0005

# glibc, malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 64 * 1024 * 1024
_MAPPED_BYTES = 32 * 1024 * 1024  # the most that glibc takes


def tune_process() -> None:
    _raise_descriptor_limit()
    _keep_freed_memory()
    _calm_garbage_collector()
    _switch_threads_soon()


def connections_carried() -> int:
    """How many clients the descriptor limit carries."""
    if resource is None:
        return UNLIMITED_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return UNLIMITED_CONNECTIONS
    return max(1, (soft - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)


def _raise_descriptor_limit() -> None:
    """To the hard limit; and the kernel's table is grown now, not in the middle of a burst of connections."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError):
        os.close(os.dup2(2, min(max(soft, 4096), 65_536) - 1))


def _keep_freed_memory() -> None:
    """Bodies arrive in blocks of 256 KiB. glibc would map each one anew and give it back: a page fault every 4 KiB."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _calm_garbage_collector() -> None:
    """Exchanges leave no cycles behind; what was imported never becomes garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*FULL_COLLECTION_EVERY)


def _switch_threads_soon() -> None:
    """The loop gets the interpreter back from the thread that counts tokens after this time, and not after 5 ms."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)

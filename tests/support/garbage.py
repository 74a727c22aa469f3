"""What waits for the garbage collector: with bodies of megabytes that is memory."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = ("qproxy.edge", "qproxy.core", "qproxy.errors")


@contextmanager
def kept_garbage() -> Iterator[Counter[str]]:
    """The proxy's objects that the block leaves to the collector, by type, when the block is over."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found.update(type(each).__name__ for each in gc.garbage if type(each).__module__.startswith(OURS))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

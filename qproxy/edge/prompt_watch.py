"""Finds out beside the event loop why a prompt cache missed, and says so in the log.

One thread, which begins with the first prompt. What waits for it is bounded; where more comes, the oldest is not looked
at. Reading over a long body takes a millisecond a megabyte, and that is why it is not done on the loop.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from qproxy.core.limits import MIB
from qproxy.core.prompt_blocks import MOST_BYTES, blocks_of
from qproxy.core.prompt_cache import LEAST_TOKENS, CacheKey, CacheWatch
from qproxy.core.splice import Buffer
from qproxy.core.usage import Usage

log = logging.getLogger(__name__)

MOST_WAITING = 64
MOST_WAITING_BYTES = 8 * MIB  # the newest one is always taken
MOST_CACHES = 1_024  # upstreams and models; those that are met later are not looked at
PATIENCE_S = 0.5


class Prompt(NamedTuple):
    """One that was answered. `pieces` are its body's; `at_s` is on the monotonic clock."""

    request_id: str
    key: CacheKey
    pieces: Sequence[Buffer]
    size_bytes: int
    usage: Usage
    at_s: float


class PromptWatch:
    """The watch of one server. It sees nothing where upstreams never say that something was cached."""

    def __init__(self) -> None:
        self._watch = CacheWatch()
        self._key = secrets.token_bytes(32)
        self._caches: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self._waiting: deque[Prompt] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._is_busy = False
        self._is_closed = False

    def wants(self, key: CacheKey, usage: Usage, size_bytes: int) -> bool:
        """Whether a prompt is worth a look: nobody knows what an upstream caches that never speaks of it."""
        place = (key.upstream, key.model)
        if usage.cached_tokens and len(self._caches) < MOST_CACHES:
            self._caches.add(place)
        return usage.prompt_tokens >= LEAST_TOKENS and size_bytes <= MOST_BYTES and place in self._caches

    def note(self, prompt: Prompt) -> None:
        """Have it looked at, some time. Returns at once."""
        with self._changed:
            if self._is_closed:
                return
            self._waiting.append(prompt)
            self._waiting_bytes += prompt.size_bytes
            while len(self._waiting) > 1 and (
                len(self._waiting) > MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES
            ):
                self._waiting_bytes -= self._waiting.popleft().size_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="qproxy-prompt-watch", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until nothing is left to look at; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_busy, patience_s)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Drop what waits. Blocks until the thread has ended, within the patience."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                prompt = self._waiting.popleft()  # in their order, or a conversation could not be followed
                self._waiting_bytes -= prompt.size_bytes
                self._is_busy = True
            self._look(prompt)

    def _look(self, prompt: Prompt) -> None:
        blocks = blocks_of(b"".join(prompt.pieces), self._key)
        if blocks is None:
            return
        reason = self._watch.see(prompt.key, blocks, prompt.usage, prompt.at_s)
        if reason:
            log.warning(
                "prompt cache missed: %d of %d tokens found (upstream %s, model %s, request %s): %s since the last "
                "request of this conversation",
                prompt.usage.cached_tokens,
                prompt.usage.prompt_tokens,
                prompt.key.upstream,
                ascii(prompt.key.model),
                prompt.request_id,
                reason,
            )

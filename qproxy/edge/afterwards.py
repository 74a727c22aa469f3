"""What is learned from a request when its answer has gone down: the bytes of a token, what was cached, and why not.

All of it rests on the usage that the upstream states, so a short prompt, or one without usage, costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qproxy.core.exchange import Exchange
from qproxy.core.prompt_cache import CacheKey, CacheShares
from qproxy.core.token_ratio import TokenRatios
from qproxy.core.usage import Usage
from qproxy.edge.prompt_watch import Prompt, PromptWatch
from qproxy.edge.upstreams import Outgoing
from qproxy.edge.windows import sent_pieces

if TYPE_CHECKING:
    from qproxy.core.tokens import Counted
    from qproxy.edge.token_counter import TokenCounter

PROMPTS = frozenset({b"/chat/completions", b"/completions"})  # a response may begin with what the upstream has kept


class Afterwards:
    """One for a server. Without a `watch` misses of the cache are not looked into; without a `counter` nothing is
    counted."""

    def __init__(
        self,
        ratios: TokenRatios,
        watch: PromptWatch | None,
        counter: TokenCounter | None,
        now: Callable[[], float],
    ) -> None:
        self._ratios = ratios
        self._watch = watch
        self._counter = counter
        self._now = now
        self.shares = CacheShares()

    def learn(self, outgoing: Outgoing, exchange: Exchange, usage: Usage) -> None:
        """The answer to `outgoing` is complete, and `usage` is what it said: `LEAST_PROMPT_TOKENS` or more. Takes a few
        microseconds."""
        if outgoing.path not in PROMPTS or not exchange.model:
            return
        model = exchange.model
        self._ratios.learn(model, outgoing.body_bytes, usage.prompt_tokens)
        key = CacheKey(outgoing.upstream, exchange.account, model)
        self.shares.add(key, usage)
        pieces = sent_pieces(outgoing)
        if not pieces:
            return
        if self._watch is not None and self._watch.wants(key, usage, outgoing.body_bytes):
            request_id = exchange.request_id.decode("latin-1")
            self._watch.note(Prompt(request_id, key, pieces, outgoing.body_bytes, usage, self._now()))
        if self._counter is not None:

            def counted(count: Counted) -> None:
                self._ratios.learn_count(model, count.tokens, usage.prompt_tokens)

            self._counter.note(pieces, model, counted)

    def close(self) -> None:
        """Drop what is not known yet."""
        if self._watch is not None:
            self._watch.close()

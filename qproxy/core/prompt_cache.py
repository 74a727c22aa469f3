"""What upstreams had in their prompt caches: the share of each model and account, and why a conversation missed.

A conversation's next request begins with all of its last one, so the upstream should find that in its cache. Where it
does not, the first part of the prompt that changed is the reason; what stands behind it is read, and paid, anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from qproxy.core.prompt_blocks import Blocks
    from qproxy.core.usage import Usage

LEAST_TOKENS = 1_024  # shorter blocks are not cached when asked for; DashScope's own cache begins at 256
WARM_S = 240.0  # a cached block is valid for 5 min (`qwen-wire.md` 5.5); the rest is for the answer's own time
MISSED_BELOW = 0.5  # of what could have been found: caches work in blocks, and round down by a few hundred tokens
MOST_SHARES = 1_024
MOST_CONVERSATIONS = 512  # at 2,048 messages each about 10 MB


class CacheKey(NamedTuple):
    """What shares are counted apart for."""

    upstream: str
    account: str
    model: str


@dataclass(slots=True)
class Share:
    """Sums since the start. `cached_tokens` are part of `prompt_tokens`."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class CacheShares:
    """Bounded: the key that was met first makes room."""

    def __init__(self) -> None:
        self._shares: dict[CacheKey, Share] = {}

    def add(self, key: CacheKey, usage: Usage) -> None:
        share = self._shares.get(key)
        if share is None:
            if len(self._shares) >= MOST_SHARES:
                del self._shares[next(iter(self._shares))]
            share = self._shares[key] = Share()
        share.requests += 1
        share.prompt_tokens += usage.prompt_tokens
        share.cached_tokens += usage.cached_tokens

    def rows(self) -> dict[CacheKey, Share]:
        return dict(self._shares)


@dataclass(slots=True)
class _Seen:
    """The last request of a conversation, and what was said about it so far."""

    blocks: Blocks
    account: str
    usage: Usage
    at_s: float
    told: str = ""


class CacheWatch:
    """Compares each request with the one before it in its conversation. Belongs to one thread. Bounded: the
    conversation that was silent for longest makes room."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, bytes], _Seen] = {}
        self._caching: dict[tuple[str, str], None] = {}  # upstreams and models that have ever had something cached

    def see(self, key: CacheKey, blocks: Blocks, usage: Usage, now_s: float) -> str:
        """An answer has come. What broke the cache, in words, where something did that was not said before; else ""."""
        place = (key.upstream, key.model)
        if usage.cached_tokens:
            self._note_caching(place)
        last = self._seen.pop((*place, blocks.conversation), None)
        seen = _Seen(blocks, key.account, usage, now_s)
        change = ""
        if last is not None and place in self._caching and _has_missed(last, seen):
            change = _change(last, seen)
            seen.told = change
        self._keep((*place, blocks.conversation), seen)
        return "" if last is not None and change == last.told else change

    def share(self, key: CacheKey, blocks: Blocks) -> float | None:
        """The cached share of the conversation's last request; None where it is not known."""
        seen = self._seen.get((key.upstream, key.model, blocks.conversation))
        return None if seen is None else seen.usage.cached_tokens / max(1, seen.usage.prompt_tokens)

    def _note_caching(self, place: tuple[str, str]) -> None:
        if place not in self._caching and len(self._caching) >= MOST_SHARES:
            del self._caching[next(iter(self._caching))]
        self._caching[place] = None

    def _keep(self, key: tuple[str, str, bytes], seen: _Seen) -> None:
        if len(self._seen) >= MOST_CONVERSATIONS:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = seen


def _has_missed(last: _Seen, now: _Seen) -> bool:
    """Whether the last prompt should have been found, and was not. A shorter conversation is another one, or cut."""
    could_be_found = last.usage.prompt_tokens
    return (
        now.at_s - last.at_s <= WARM_S
        and could_be_found >= LEAST_TOKENS
        and len(now.blocks.roles) >= len(last.blocks.roles)
        and now.usage.cached_tokens < MISSED_BELOW * could_be_found
    )


def _change(last: _Seen, now: _Seen) -> str:
    """Empty where the prompt is innocent: caches promise nothing, and forget when they need the room."""
    change = last.blocks.first_change(now.blocks)
    if change:
        return f"{change} changed"
    return "another account answered" if last.account != now.account else ""

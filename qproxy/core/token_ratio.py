"""How many bytes of a request make a token, per model, learned from the usage that upstreams state.

A body's length is known before anything is sent, and costs nothing: divided by this ratio it is the estimate of the
prompt's tokens. A second ratio tells how many tokens the upstream sees where our own count sees one: models whose
vocabulary is not the one that we count with are corrected by it. Both are exponential means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qproxy.core.limits import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_PROMPT_TOKENS = 256  # below that the names of the fields and the chat template say more than the text
MEMORY = 32  # requests that a mean remembers: enough to smooth, few enough to follow a user to another language
MOST_MODELS = 256
LONGEST_NAME = 128
# Outside of these it is no text: an image in the body has thousands of bytes a token, and digits have one.
LOWEST_BYTES_PER_TOKEN, HIGHEST_BYTES_PER_TOKEN = 1.0, 12.0
LOWEST_PER_COUNT, HIGHEST_PER_COUNT = 0.5, 2.0


class RatioRow(NamedTuple):
    """What is known of one model. A ratio without samples is 0.0 and not known."""

    model: str
    bytes_per_token: float = 0.0
    requests: int = 0
    tokens_per_count: float = 0.0
    counts: int = 0


class TokenRatios:
    """The ratios of one server. Bounded: the model that was not heard of for longest makes room."""

    __slots__ = ("_changed", "_rows")

    def __init__(self) -> None:
        self._rows: dict[str, RatioRow] = {}
        self._changed: set[str] = set()

    def learn(self, model: str, request_bytes: int, prompt_tokens: int) -> None:
        """A request of that many bytes had that many tokens, as its upstream said. Short ones teach nothing."""
        if prompt_tokens < LEAST_PROMPT_TOKENS:
            return
        ratio = request_bytes / prompt_tokens
        if LOWEST_BYTES_PER_TOKEN <= ratio <= HIGHEST_BYTES_PER_TOKEN and _is_name(model):
            row = self._row(model)
            mean = _mean(row.bytes_per_token, row.requests, ratio)
            self._put(row._replace(bytes_per_token=mean, requests=row.requests + 1))

    def learn_count(self, model: str, counted_tokens: int, prompt_tokens: int) -> None:
        """What we counted, and what the upstream did, for one request."""
        if min(counted_tokens, prompt_tokens) < LEAST_PROMPT_TOKENS:
            return
        ratio = prompt_tokens / counted_tokens
        if LOWEST_PER_COUNT <= ratio <= HIGHEST_PER_COUNT and _is_name(model):
            row = self._row(model)
            mean = _mean(row.tokens_per_count, row.counts, ratio)
            self._put(row._replace(tokens_per_count=mean, counts=row.counts + 1))

    def bytes_per_token(self, model: str | None) -> float:
        """Learned, or the usual one."""
        row = self._rows.get(model) if model is not None else None
        return row.bytes_per_token if row is not None and row.requests else float(BYTES_PER_TOKEN)

    def tokens_per_count(self, model: str) -> float | None:
        """By how much to multiply a count of ours; None where nothing was learned."""
        row = self._rows.get(model)
        return row.tokens_per_count if row is not None and row.counts else None

    def tokens_in(self, model: str | None, body_bytes: int) -> int:
        """The estimate for a body of that length."""
        return int(body_bytes / self.bytes_per_token(model))

    def is_learned(self, model: str | None) -> bool:
        """Whether `bytes_per_token` was learned."""
        row = self._rows.get(model) if model is not None else None
        return row is not None and row.requests > 0

    def rows(self) -> list[RatioRow]:
        """All that is known, what was heard of last at the end."""
        return list(self._rows.values())

    def restore(self, rows: Iterable[RatioRow]) -> None:
        """What was known before a restart. What makes no sense is left out."""
        for row in rows:
            if _is_sane(row):
                self._put(row)
        self._changed.clear()

    def take_changes(self) -> list[RatioRow]:
        """The rows that changed since they were last taken."""
        if not self._changed:
            return []
        changed = [self._rows[model] for model in self._changed if model in self._rows]
        self._changed.clear()
        return changed

    def _row(self, model: str) -> RatioRow:
        return self._rows.get(model) or RatioRow(model)

    def _put(self, row: RatioRow) -> None:
        self._rows.pop(row.model, None)
        if len(self._rows) >= MOST_MODELS:
            del self._rows[next(iter(self._rows))]
        self._rows[row.model] = row
        self._changed.add(row.model)
        if len(self._changed) > MOST_MODELS:
            self._changed.intersection_update(self._rows)


def _is_name(model: str) -> bool:
    return 0 < len(model) <= LONGEST_NAME


def _is_sane(row: RatioRow) -> bool:
    has_bytes = not row.requests or LOWEST_BYTES_PER_TOKEN <= row.bytes_per_token <= HIGHEST_BYTES_PER_TOKEN
    has_counts = not row.counts or LOWEST_PER_COUNT <= row.tokens_per_count <= HIGHEST_PER_COUNT
    return _is_name(row.model) and has_bytes and has_counts


def _mean(mean: float, samples: int, sample: float) -> float:
    """A plain mean at first, so that the first sample does not stay in it for long."""
    return mean + (sample - mean) / min(samples + 1, MEMORY)

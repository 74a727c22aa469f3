"""The models of all upstreams as one list: reading theirs, merging, rendering ours, and how long a list is good."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from qproxy.core import jsonscan
from qproxy.errors import DownstreamError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qproxy.errors import QProxyError

_COMPARED_CHARS = 100  # of an unknown id: comparing costs its length times that of every known one


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model. `id` is what a client asks for; `raw` is the upstream's own object, which nobody changes.

    `built_in` is True where the entry comes from our table, not from the upstream.
    """

    id: str
    upstream: str
    built_in: bool
    raw: Mapping[str, object]

    @property
    def own_id(self) -> str:
        """The id that the upstream knows the model by."""
        return str(self.raw["id"])


def parse_listing(body: bytes, upstream: str) -> list[ModelEntry]:
    """The entries of an upstream's `GET /models`: an object with `data`, or a bare list. Those without an id fall out,
    and those that nest too deep to be written again.

    Raises UpstreamError `upstream_protocol_error` where the body is neither.
    """
    try:
        listing = jsonscan.loads(body)
    except orjson.JSONDecodeError:
        listing = None
    objects = listing.get("data", listing) if isinstance(listing, dict) else listing
    if isinstance(listing, dict) and objects is None:
        return []  # what a Go server makes of an empty list
    if not isinstance(objects, list):
        message = f"The model list of the upstream {upstream} is no OpenAI model list. Check its base URL."
        raise UpstreamError("upstream_protocol_error", message)
    return [ModelEntry(item["id"], upstream, built_in=False, raw=item) for item in objects if _is_model(item)]


def _is_model(item: object) -> bool:
    has_id = isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"] != ""
    return has_id and jsonscan.can_be_written(item)


def built_in_listing(ids: Iterable[str], upstream: str) -> list[ModelEntry]:
    """The entries of our own table, for an upstream that has no list."""
    return [ModelEntry(model, upstream, built_in=True, raw={"id": model}) for model in ids]


def merge(listings: Iterable[Sequence[ModelEntry]]) -> list[ModelEntry]:
    """One list of several, in the order of the configuration.

    Of equal ids the first keeps its name; a later upstream's is listed as `upstream:id`.
    """
    merged: dict[str, ModelEntry] = {}
    for listing in listings:
        for entry in listing:
            holder = merged.setdefault(entry.id, entry)
            if holder.upstream != entry.upstream:
                full_id = f"{entry.upstream}:{entry.id}"
                merged.setdefault(full_id, replace(entry, id=full_id))
    return list(merged.values())


def find(entries: Sequence[ModelEntry], model: str) -> ModelEntry | None:
    """The entry with this id, or the one that `upstream:id` names."""
    for entry in entries:
        if entry.id == model:
            return entry
    upstream, _, own_id = model.partition(":")
    for entry in entries:
        if entry.upstream == upstream and entry.own_id == own_id:
            return entry
    return None


def model_not_found(entries: Sequence[ModelEntry], model: str) -> DownstreamError:
    """The error for an id that `find` does not know, with the nearest ones."""
    shown = model[:_COMPARED_CHARS]
    nearest = difflib.get_close_matches(shown, [entry.id for entry in entries], n=3)
    advice = f"The nearest are {', '.join(nearest)}." if nearest else "GET /v1/models lists those there are."
    return DownstreamError("model_not_found", f"There is no model {shown!r}. {advice}", param="model")


def render(entries: Iterable[ModelEntry]) -> bytes:
    """The body of our `GET /v1/models`."""
    return orjson.dumps({"object": "list", "data": [_shape(entry) for entry in entries]})


def render_one(entry: ModelEntry) -> bytes:
    """The body of our `GET /v1/models/{id}`."""
    return orjson.dumps(_shape(entry))


def _shape(entry: ModelEntry) -> dict[str, object]:
    """The upstream's object with our id, what OpenAI clients require, and our own facts under one key."""
    required: dict[str, object] = {"id": entry.id, "object": "model", "created": 0, "owned_by": entry.upstream}
    given = {key: value for key, value in entry.raw.items() if value is not None or key not in required}
    own: dict[str, object] = {"upstream": entry.upstream}
    if entry.built_in:
        own["built_in"] = True
    return required | given | {"id": entry.id, "qproxy": own}


@dataclass(frozen=True, slots=True)
class Standing:
    """What to do about one upstream's list: ask for it where `is_due`, and make do with `entries` where that fails.

    `entries` is None where there has never been a list. `error` is that of the last try, None after a success.
    """

    entries: tuple[ModelEntry, ...] | None
    is_due: bool
    error: QProxyError | None


@dataclass(slots=True)
class _Record:
    entries: tuple[ModelEntry, ...] | None = None
    due_at_s: float = 0.0
    error: QProxyError | None = None


class ListingCache:
    """The last good list of every upstream, and when to ask again.

    A list is good for `lifetime_s`; a stale one is kept until a better comes. An upstream that failed is left alone
    for `failure_s`. Times are seconds of one monotonic clock.
    """

    def __init__(self, lifetime_s: float, failure_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._failure_s = failure_s
        self._records: dict[str, _Record] = {}

    def standing(self, upstream: str, now: float) -> Standing:
        """How the list of `upstream` stands at `now`."""
        record = self._records.get(upstream)
        if record is None:
            return Standing(entries=None, is_due=True, error=None)
        return Standing(record.entries, now >= record.due_at_s, record.error)

    def store(self, upstream: str, entries: Iterable[ModelEntry], now: float) -> None:
        """Keep a list that the upstream has just given."""
        self._records[upstream] = _Record(tuple(entries), now + self._lifetime_s)

    def fail(self, upstream: str, error: QProxyError, now: float) -> None:
        """Remember that the upstream did not give its list."""
        record = self._records.setdefault(upstream, _Record())
        record.error = error
        record.due_at_s = now + self._failure_s

"""The model lists of all upstreams, asked for when they are due, each by one request at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from qproxy.core.catalogue import ListingCache, ModelEntry, built_in_listing, merge, parse_listing
from qproxy.core.models import NO_UPSTREAM
from qproxy.errors import InternalError, QProxyError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qproxy.core.ports import ModelLister
    from qproxy.core.upstream import Upstream

LIFETIME_S = 300.0
FAILURE_S = 10.0
FETCH_S = 10.0


class ModelCatalogue:
    """The `Catalogue` of a running server; `upstreams` are in the order in which their names win, `clock` in seconds.

    An upstream's built-in table stands in where it has no list of its own, or has not given one yet.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        lister: ModelLister,
        *,
        clock: Callable[[], float],
        lifetime_s: float = LIFETIME_S,
        failure_s: float = FAILURE_S,
        fetch_s: float = FETCH_S,
    ) -> None:
        self._upstreams = tuple(upstreams)
        self._asked = tuple(upstream.name for upstream in upstreams if upstream.has_model_list)
        self._lister = lister
        self._clock = clock
        self._fetch_s = fetch_s
        self._cache = ListingCache(lifetime_s, failure_s)
        self._locks = {name: anyio.Lock() for name in self._asked}

    async def listing(self) -> list[ModelEntry]:
        """The merged list: fresh where that can be had, else stale, else built in.

        Raises the first upstream's QProxyError where none of them has anything, InternalError `no_upstream` where
        none is configured.
        """
        if not self._upstreams:
            raise InternalError("no_upstream", NO_UPSTREAM)
        due = [name for name in self._asked if self._is_due(name)]
        if due:
            async with anyio.create_task_group() as tasks:
                for name in due:
                    tasks.start_soon(self._refresh, name)
        return merge(self._known())

    def _is_due(self, name: str) -> bool:
        return self._cache.standing(name, self._clock()).is_due

    async def _refresh(self, name: str) -> None:
        """Whoever holds the lock asks; who waited for it finds the list there, or asks if the holder was cancelled."""
        async with self._locks[name]:
            if not self._is_due(name):
                return
            try:
                entries = await self._fetch(name)
            except QProxyError as error:
                self._cache.fail(name, error, self._clock())
            else:
                self._cache.store(name, entries, self._clock())

    async def _fetch(self, name: str) -> list[ModelEntry]:
        with anyio.move_on_after(self._fetch_s):
            return parse_listing(await self._lister.list_models(name), name)
        message = f"The upstream {name} did not send its model list within {self._fetch_s:g} s."
        raise UpstreamError("first_byte_timeout", message)

    def _known(self) -> list[Sequence[ModelEntry]]:
        listings: list[Sequence[ModelEntry]] = []
        errors: list[QProxyError] = []
        for upstream in self._upstreams:
            standing = self._cache.standing(upstream.name, self._clock())
            if standing.entries is not None:
                listings.append(standing.entries)
            elif upstream.models or standing.error is None:
                listings.append(built_in_listing(upstream.models, upstream.name))
            else:
                errors.append(standing.error)
        if errors and not listings:
            raise errors[0].with_traceback(None)  # the same object is raised again until the upstream is asked again
        return listings

"""What tests see of a simulator and what they tell it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from qproxy.simulator.accounts import Account, known
from qproxy.simulator.oauth import OAuth
from qproxy.simulator.routes import api_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from qproxy.simulator.oauth import Login
    from qproxy.simulator.options import Options
    from qproxy.simulator.request import Request


@dataclass(slots=True)
class Counters:
    """What happened so far.

    `heads`: request heads, whatever came after them; `requests`: whole requests; `completed`: answers sent to their
    end; `aborted`: answers that the client did not wait for; `aborted_uploads`: bodies that never became whole;
    `bad_requests`: what was no HTTP/1.1; `held`: exchanges that wait for `release()` right now.
    """

    connections: int = 0
    connections_open: int = 0
    heads: int = 0
    requests: int = 0
    completed: int = 0
    aborted: int = 0
    aborted_uploads: int = 0
    bad_requests: int = 0
    held: int = 0


class Control:
    """`url` is `http(s)://HOST:PORT` or `http+unix://PATH`; `base_url` is where the OpenAI paths are.

    `requests` holds the newest `Options.record` requests, whole ones only, in the order in which they became whole.
    """

    def __init__(self, options: Options, url: str) -> None:
        self.options = options
        self.url = url
        self.base_url = url if url.startswith("http+unix:") else f"{url}/v1"
        self.counters = Counters()
        self.requests: deque[Request] = deque(maxlen=options.record)
        self.oauth = OAuth(options, url)
        self._accounts: dict[str, Account] = {}
        self._script: deque[tuple[str, str]] = deque()
        self._changed: anyio.Event | None = None
        self._gate = anyio.Event()

    def account(self, key: str) -> Account:
        """The account behind an API key, or of the user of that name where it is an access token."""
        return self._accounts.setdefault(self.oauth.account_of(key) or key, Account())

    def login(self, account: str = "user") -> Login:
        """A pair of OAuth tokens without the device flow."""
        return self.oauth.login(account, anyio.current_time())

    def fail_next(self, scenario: str, *, times: int = 1, path: str = "") -> None:
        """The next requests whose path ends with `path` get `scenario`, whatever they ask for.

        Without a path: the next requests of the OpenAI API, not those of the login. Entries are used in their order.
        """
        self._script.extend([(known(scenario), path)] * times)

    def release(self) -> None:
        """Lets everything go on that is held right now."""
        self._gate.set()
        self._gate = anyio.Event()

    async def until(self, condition: Callable[[Counters], bool]) -> None:
        """Returns when the counters fulfil the condition."""
        while not condition(self.counters):
            self._changed = self._changed or anyio.Event()
            await self._changed.wait()

    async def received(self, count: int = 1) -> None:
        """Returns when that many whole requests have come."""
        await self.until(lambda counters: counters.requests >= count)

    async def completed(self, count: int = 1) -> None:
        """Returns when that many answers were sent to their end."""
        await self.until(lambda counters: counters.completed >= count)

    async def aborted(self, count: int = 1) -> None:
        """Returns when that many answers were given up by their clients."""
        await self.until(lambda counters: counters.aborted >= count)

    async def held(self, count: int = 1) -> None:
        """Returns when that many exchanges wait for `release()`."""
        await self.until(lambda counters: counters.held >= count)

    async def disconnected(self) -> None:
        """Returns when no connection is open."""
        await self.until(lambda counters: counters.connections_open == 0)

    async def _hold(self) -> None:
        self.counters.held += 1
        self._notify()
        try:
            await self._gate.wait()
        finally:
            self.counters.held -= 1
            self._notify()

    def _notify(self) -> None:
        """Wakes those who wait for the counters; costs nothing where nobody does."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _next_in_script(self, path: str) -> str:
        """The scenario that the script has for a request of this path; empty where it is not its turn."""
        if not self._script:
            return ""
        scenario, suffix = self._script[0]
        meant = path.endswith(suffix) if suffix else bool(api_path(path))
        if not meant:
            return ""
        self._script.popleft()
        return scenario

"""Who may call, and what a single key is answered: scripts, request limits, revocation."""

from __future__ import annotations

from collections import deque

from qproxy.simulator.scenarios import SCENARIOS


class Account:
    """What the simulator knows of one bearer token or API key."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.closed_with = ""
        self._script: deque[str] = deque()
        self._allowance: int | None = None
        self._beyond_allowance = ""
        self._concurrency: int | None = None

    def answer_next(self, *scenarios: str) -> None:
        """Each of the next requests gets one of these scenarios, in this order."""
        self._script.extend(known(name) for name in scenarios)

    def limit(self, requests: int, scenario: str = "429-quota") -> None:
        """After so many more requests every further one gets `scenario`, until the next call of `limit` or `lift`."""
        self._allowance = requests
        self._beyond_allowance = known(scenario)

    def limit_concurrency(self, requests: int) -> None:
        """More requests at once than this are answered `429-concurrency`."""
        self._concurrency = requests

    def close(self, scenario: str = "401-expired") -> None:
        """From now on every request gets `scenario`."""
        self.closed_with = known(scenario)

    def lift(self) -> None:
        """Forgets all scripts and limits."""
        self._script.clear()
        self._allowance = self._concurrency = None
        self.closed_with = ""

    def next_scenario(self) -> str:
        """Counts one request; the scenario that it gets, empty where none is set. `in_flight` includes the request."""
        self.requests += 1
        if self.closed_with:
            return self.closed_with
        if self._script:
            return self._script.popleft()
        if self._concurrency is not None and self.in_flight > self._concurrency:
            return "429-concurrency"
        if self._allowance is None:
            return ""
        self._allowance -= 1
        return self._beyond_allowance if self._allowance < 0 else ""


def known(scenario: str) -> str:
    """The name itself. Raises ValueError where the table has no such row."""
    if scenario not in SCENARIOS:
        raise ValueError(f"no scenario is called {scenario!r}; there are: {', '.join(SCENARIOS)}")
    return scenario

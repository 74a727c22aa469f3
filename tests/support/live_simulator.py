"""A simulator in a thread, and the hand that approves logins there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio.from_thread import BlockingPortal, start_blocking_portal

from qproxy import simulator

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class LiveSimulator:
    """`url` has no path."""

    simulator: simulator.Simulator
    portal: BlockingPortal

    @property
    def url(self) -> str:
        return self.simulator.url

    def approve(self, user_code: str, account: str = "user") -> None:
        assert self.portal.call(self.simulator.oauth.approve, user_code, account)

    def deny(self, user_code: str) -> None:
        assert self.portal.call(self.simulator.oauth.deny, user_code)

    def fail_next(self, *scenarios: str, path: str) -> None:
        def plan() -> None:
            for scenario in scenarios:
                self.simulator.fail_next(scenario, path=path)

        self.portal.call(plan)

    def account_of(self, access_token: str) -> str:
        return self.portal.call(self.simulator.oauth.account_of, access_token)


@contextmanager
def live_simulator(options: simulator.Options | None = None) -> Iterator[LiveSimulator]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulator.running(options)) as running,
    ):
        yield LiveSimulator(running, portal)

"""What a login tells while it waits for its user: lines and a QR code for people, a JSON object a line for programs."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread
import orjson
from rich.console import Console
from rich.live import Live
from rich.text import Text

from qproxy.cli.browser import is_desktop, open_browser
from qproxy.cli.console import print_line, print_note, print_text
from qproxy.cli.qr import can_show, coloured, qr_code
from qproxy.cli.when import utc
from qproxy.core.device_flow import LoginState
from qproxy.core.oauth import FREE_TIER_ENDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from qproxy.core.device_flow import DeviceCode, Progress

LINES_BENEATH = 6  # the address, the code, the countdown and the prompt stay in sight
TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class End:
    """How a login ended: its word for programs, its sentence for people, its exit status.

    `expires_s` is when the token ends, in Unix time; None where there is none.
    """

    event: str
    message: str
    status: int
    expires_s: float | None = None


class Reporter(Protocol):
    """Who is told of a login's progress."""

    async def begun(self, code: DeviceCode) -> None:
        """Somebody has to approve this code now."""
        ...

    def told(self, progress: Progress) -> None:
        """The answer to a poll that leaves the login open."""
        ...

    async def wait(self, left_s: Callable[[], float]) -> None:
        """Show how much time there is. Runs until it is cancelled."""
        ...

    def ended(self, end: End) -> None: ...


class JsonReporter:
    """For programs. Neither a device code nor a token is in it."""

    def __init__(self, account: str) -> None:
        self._account = account

    async def begun(self, code: DeviceCode) -> None:
        self._print(
            "code",
            verification_uri=code.bare_page,
            verification_uri_complete=code.page,
            user_code=code.user_code,
            expires_in=code.expires_in_s,
            interval=code.interval_s,
        )

    def told(self, progress: Progress) -> None:
        self._print(progress.state.value, interval=progress.wait_s, message=progress.note)

    async def wait(self, left_s: Callable[[], float]) -> None:
        await anyio.sleep_forever()

    def ended(self, end: End) -> None:
        expires_at = None if end.expires_s is None else utc(end.expires_s)
        self._print(end.event, message=end.message, expires_at=expires_at)

    def _print(self, event: str, **facts: object) -> None:
        """Facts that are None or empty are left out."""
        known = {name: value for name, value in facts.items() if value not in (None, "")}
        print_line(orjson.dumps({"event": event, "account": self._account, **known}).decode())


class HumanReporter:
    """For people. `browser` and `qr` say whether these are wanted; whether they are possible is found out here."""

    def __init__(self, *, browser: bool, qr: bool) -> None:
        self._browser = browser and is_desktop(os.environ)
        self._qr = qr and sys.stdout is not None and sys.stdout.isatty()
        self._live: Live | None = None

    async def begun(self, code: DeviceCode) -> None:
        print_note(FREE_TIER_ENDED)
        if self._qr:
            _print_qr(code.page)
        print_line(f"Open this page and approve the login:\n\n  {code.page}\n")
        if code.user_code:
            print_line(f"The code there is {code.user_code}.\n")
        if self._browser and not await anyio.to_thread.run_sync(open_browser, code.page):
            print_note("No browser could be opened.")

    def told(self, progress: Progress) -> None:
        if progress.state is LoginState.SLOW_DOWN:
            self._note(f"The login server wants fewer questions: the next one is in {progress.wait_s:.0f} s.")
        elif progress.note:
            self._note(progress.note)

    async def wait(self, left_s: Callable[[], float]) -> None:
        console = Console(stderr=True)
        if not console.is_terminal:
            print_note(f"Waiting for approval, at most {_clock(left_s())} minutes.")
            await anyio.sleep_forever()
        self._live = live = Live(console=console, auto_refresh=False, transient=True)
        try:
            with live:
                while True:
                    live.update(Text(f"Waiting for approval: {_clock(left_s())} left. Ctrl-C stops."), refresh=True)
                    await anyio.sleep(TICK_S)
        finally:
            self._live = None

    def ended(self, end: End) -> None:
        if end.status:
            print_note(f"qproxy: {end.message}")
        else:
            print_line(end.message)

    def _note(self, text: str) -> None:
        if self._live is None:
            print_note(text)
        else:
            self._live.console.print(Text(text))


def _print_qr(page: str) -> None:
    size = shutil.get_terminal_size()
    rows = qr_code(page, size.columns, size.lines - LINES_BENEATH) if can_show(sys.stdout.encoding) else None
    if rows is None:
        print_note("This terminal has no room for a QR code of the address.")
        return
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    print_text("\n".join(rows if plain else map(coloured, rows)) + "\n\n")


def _clock(left_s: float) -> str:
    minutes, seconds = divmod(int(left_s + 0.5), 60)
    return f"{minutes}:{seconds:02}"

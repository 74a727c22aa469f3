"""A login in memory in step with where it is kept, which other programs change as they like.

Only a whole, valid version takes the place of the token in memory. What could not be saved is kept and saved later, and
right before the file is replaced it is looked at once more, because locks get lost: the newer file wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import anyio.to_thread

from qproxy.core.oauth import OAuthToken, parse_token_file
from qproxy.core.token_answer import skew_s
from qproxy.core.token_file import token_file
from qproxy.core.token_state import Backoff, TokenState
from qproxy.edge.login_store import LoginStore
from qproxy.edge.token_file import FileContent, FileVersion, reason_of


class LoginClock:
    """Unix time as the login's server counts it: its Date header corrects a clock of ours that is off by more than
    30 s. Both clocks give seconds."""

    def __init__(self, wall_clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.wall_s = wall_clock
        self.monotonic_s = monotonic
        self.skew_s = 0.0

    def now_s(self) -> float:
        return self.wall_s() + self.skew_s

    def correct(self, date_s: float | None) -> None:
        """Without a Date header our own clock is as good as any."""
        self.skew_s = skew_s(date_s, self.wall_s())


class _Sighting(NamedTuple):
    """What a look at the store found: a new content, or what is wrong, or neither: then it is gone."""

    version: FileVersion | None
    content: FileContent | None = None
    problem: str = ""


class _Unsaved(NamedTuple):
    """Tokens that are in memory alone, and the access token in the place of which they came."""

    token: OAuthToken
    replaced: str


class KeptLogin:
    """Brings what the store holds into a `TokenState`, and new tokens into the store.

    `hosts` may get a token beyond the built-in list; `chance` gives numbers from 0 to 1; `report` takes lines for the
    operator.
    """

    def __init__(
        self,
        store: LoginStore,
        state: TokenState,
        clock: LoginClock,
        hosts: tuple[str, ...],
        chance: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self.problem = ""  # why the newest tokens are not saved
        self.taken_at_s = 0.0  # since when the present token is used, by our own clock
        self._store = store
        self._state = state
        self._clock = clock
        self._hosts = hosts
        self._chance = chance
        self._report = report
        self._version: FileVersion | None = None
        self._unsaved: _Unsaved | None = None
        self._retry = Backoff()
        self._is_writing = False

    @property
    def is_volatile(self) -> bool:
        """Whether the token is in memory alone."""
        return self._unsaved is not None or not self._store.is_durable

    def look(self) -> None:
        """Take over a new version, where there is one and it is whole. Blocks for a stat, or for one short read."""
        if not self._is_writing:
            self._take_over(self._sight())

    async def look_again(self) -> None:
        """The same in a worker thread."""
        known = self._version
        sighting = await anyio.to_thread.run_sync(self._sight)
        if known == self._version:
            self._take_over(sighting)

    def may_save(self) -> bool:
        """Whether there is something to save, and it is time for an attempt."""
        return self._unsaved is not None and not self._retry.wait_s(self._clock.monotonic_s())

    async def save_again(self) -> None:
        """Another attempt, where one has failed."""
        if self._unsaved is not None:
            await self.save(*self._unsaved)

    async def save(self, token: OAuthToken, replaced: str) -> None:
        """Save and use these tokens, which came in the place of the access token `replaced`.

        Where the disk fails they are used all the same. Where somebody else has put a newer login there, that is used.
        """
        if self._unsaved is not None:
            replaced = self._unsaved.replaced
        self._is_writing = True
        try:
            written = await anyio.to_thread.run_sync(self._write_unless_newer, token, replaced)
        except OSError as exc:
            self._keep_unsaved(_Unsaved(token, replaced), reason_of(exc))
            self._use(token, self._clock.now_s())
        else:
            self._take_written(written, token)
        finally:
            self._is_writing = False

    def _sight(self) -> _Sighting | None:
        """None: nothing is new. In any thread."""
        version = None
        try:
            version = self._store.version()
            return _Sighting(version, self._store.read()) if version != self._version else None
        except FileNotFoundError:
            return _Sighting(None)
        except OSError as exc:
            return _Sighting(None, problem=f"the file cannot be read ({reason_of(exc)})")
        except ValueError as exc:
            return _Sighting(version, problem=str(exc))

    def _take_over(self, sighting: _Sighting | None) -> None:
        if sighting is None:
            return
        self._version = sighting.version
        if sighting.content is not None:
            self._take_content(sighting.content)
        elif sighting.problem:
            self._spoil(sighting.problem)
        elif self._unsaved is None:
            self._state.vanish()
            self._report(self._state.file_problem)

    def _take_content(self, content: FileContent) -> None:
        self._version = content.version
        try:
            token = parse_token_file(content.data, self._hosts)
        except ValueError as exc:
            self._spoil(str(exc))
            return
        if self._unsaved is not None and token.access_token == self._unsaved.replaced:
            return  # what we were not able to replace
        self._forget_unsaved()
        self._state.is_read_only = content.is_foreign
        written_s = content.version.mtime_ns / 1e9
        is_first = self._state.token is None
        self._use(token, written_s + self._clock.skew_s if written_s else self._clock.now_s())
        if is_first and written_s:  # a start is no new login
            self.taken_at_s = min(self.taken_at_s, written_s)
        if content.is_loose:
            self._report("others than its owner can open the login's file: its mode should be 0600")
        if content.is_foreign:
            self._report("the login's file belongs to another user: it is read, and never renewed from here")

    def _spoil(self, reason: str) -> None:
        self._state.spoil(reason)
        self._report(f"the login's file cannot be used: {reason}")

    def _use(self, token: OAuthToken, issued_s: float) -> None:
        if token != self._state.token:
            self.taken_at_s = self._clock.wall_s()
        self._state.take(token, issued_s, self._clock.now_s(), self._chance())

    def _write_unless_newer(self, token: OAuthToken, replaced: str) -> FileContent | FileVersion:
        """The version written, or the content that is newer. In a worker thread."""
        try:
            content = self._store.read()
            present = parse_token_file(content.data, self._hosts)
        except (OSError, ValueError):
            pass  # nothing is there that could be newer
        else:
            if present.access_token != replaced:
                return content
        return self._store.write(token_file(token.document))

    def _take_written(self, written: FileContent | FileVersion, token: OAuthToken) -> None:
        self._forget_unsaved()
        if isinstance(written, FileContent):
            self._take_content(written)
        else:
            self._version = written
            self._use(token, self._clock.now_s())

    def _keep_unsaved(self, unsaved: _Unsaved, reason: str) -> None:
        self._unsaved = unsaved
        self._retry.fail(self._clock.monotonic_s())
        self.problem = f"the login cannot be saved: {reason}"
        self._report(self.problem)

    def _forget_unsaved(self) -> None:
        self._unsaved = None
        self.problem = ""
        self._retry.clear()

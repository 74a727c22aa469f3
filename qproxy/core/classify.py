"""From an upstream's answer to what it means, for whom, and how long: the rows are in `outcome_table`.

    outcome = classify(response.status, response.headers, first_bytes_of_the_body, now_s)

Pure: the book of accounts, the attempts and the messages for clients decide what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qproxy.core.causes import STATUS_OF, Cause, Scope, Window
from qproxy.core.error_body import Said, hidden_in, said_in
from qproxy.core.outcome_table import IN_BAND, Row, family, find_row
from qproxy.core.retry_after import retry_after_s
from qproxy.core.sse import last_events

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Cause", "Outcome", "Scope", "Window", "classify", "hidden_error", "late_error"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer means.

    `cooldown_s`: seconds during which whatever `scope` names should be left alone, 0 for none; what the upstream asked
    for, where it asked, else the table's. `retry_after_s`: what it asked for, None for nothing. `code`: the upstream's
    own code, "" where it gave none; safe to show. `window`: over which time the limit that was hit is counted.
    `status`: the answer's, or for an error inside a 200 the one that it stands for.
    """

    cause: Cause
    scope: Scope
    cooldown_s: float = 0.0
    retry_after_s: float | None = None
    code: str = ""
    window: Window = Window.NONE
    status: int = 200

    @property
    def may_be_daily(self) -> bool:
        """A quota error that is a day's end as likely as a minute's: two in a row, more than 60 s apart and with no
        success between, are the better sign of a day's (`qwen-wire.md` 7.3)."""
        return self.cause is Cause.QUOTA and self.window is Window.UNKNOWN


GOOD = Outcome(Cause.OK, Scope.REQUEST)


def classify(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, now_s: float) -> Outcome:
    """What an answer means. `body` is its payload or a prefix of it; more than 16 KiB is not looked at.

    A 2xx or 304 is good; `hidden_error` tells whether its body agrees. Never raises, whatever the bytes.
    """
    if 200 <= status < 300 or status == 304:
        return GOOD
    return _outcome(status, said_in(body), retry_after_s(headers, now_s))


def hidden_error(first_event_payload: bytes) -> Outcome | None:
    """What the error is that a 200 brings as its first event (the event's data) or as its JSON body; None for a normal
    one, which costs two substring searches. Never raises."""
    said = hidden_in(first_event_payload)
    return None if said is None else _outcome(said.status or IN_BAND, said, None)


def late_error(tail: bytes) -> Outcome | None:
    """The same for a stream that ends with `tail`: what the error is that stands among its last events. None for a
    normal end, which costs two substring searches. Never raises."""
    if tail.rfind(b"error") < 0 and tail.rfind(b'"code"') < 0:
        return None
    outcomes = map(hidden_error, last_events(tail))
    return next((outcome for outcome in outcomes if outcome is not None), None)


def _outcome(status: int, said: Said, asked_s: float | None) -> Outcome:
    row = find_row(status, said.codes, said.text)
    return Outcome(
        cause=row.cause,
        scope=row.scope,
        cooldown_s=_cooldown_s(row, asked_s),
        retry_after_s=asked_s,
        code=_telling_code(row, said.codes),
        window=row.window,
        status=STATUS_OF[row.cause] if status == IN_BAND else status,
    )


def _cooldown_s(row: Row, asked_s: float | None) -> float:
    """A request that is wrong does not get better by waiting."""
    return row.cooldown_s if asked_s is None or row.scope is Scope.REQUEST else asked_s


def _telling_code(row: Row, codes: tuple[str, ...]) -> str:
    """The code that the row knows, else the first that is a name."""
    telling = (code for code in codes if not row.codes.isdisjoint(family(code)))
    names = (code for code in codes if not code.isdigit())
    return next(telling, None) or next(names, "")

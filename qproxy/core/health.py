"""The health of one account: its standing, its cool-downs, and both as rows for a store and as facts for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from qproxy.core.classify import Cause, Outcome
from qproxy.core.cooldown import WHOLE_ACCOUNT, CoolDown, CoolDowns


class AccountKind(Enum):
    """What an account's credential is."""

    OAUTH = "login"
    API_KEY = "key"


class Standing(Enum):
    """Whether an account can be used. LOGIN_NEEDED and CLOSED end by `recover` alone."""

    READY = "ready"
    COOLING = "cooling down"
    LOGIN_NEEDED = "login needed"  # the login is dead; a person has to log in again
    CLOSED = "closed"  # a good token or key is refused; only another credential helps


TROUBLES = (Standing.LOGIN_NEEDED, Standing.CLOSED)


@dataclass(frozen=True, slots=True)
class CoolingView:
    """One cool-down; `model` is `WHOLE_ACCOUNT` where it holds for all of them."""

    model: str
    cause: Cause
    remaining_s: float


@dataclass(frozen=True, slots=True)
class AccountView:
    """One account for people, at one moment.

    `standing` is COOLING where the whole account cools down; single models stand in `cooling` alone. `since_s` and
    `message` belong to LOGIN_NEEDED and CLOSED. `leases` counts from the start of the process. `retired`: it is gone
    when its last lease is back.
    """

    upstream: str
    account_id: str
    kind: AccountKind
    standing: Standing
    since_s: float
    message: str
    cooling: tuple[CoolingView, ...]
    in_flight: int
    leases: int
    retired: bool


@dataclass(frozen=True, slots=True)
class StateRow:
    """What a store keeps of an account's health: a row for each cool-down, and one for LOGIN_NEEDED or CLOSED.

    (upstream, account_id, model, standing) is unique. `standing` and `cause` are names in their enums. `model` is
    `WHOLE_ACCOUNT` for all models. `since_s` is when it began: a credential that is newer calls for `recover`. A
    cool-down lasts `length_s`; the other two have 0.0 there, "" as cause, and a `message`. A closed API key has no row:
    keys are configured anew at each start, and one answer shows whether this one is better.
    """

    upstream: str
    account_id: str
    model: str
    standing: str
    cause: str
    since_s: float
    length_s: float
    message: str


class Health:
    """Changed by the `AccountBook` alone. `trouble` is LOGIN_NEEDED, CLOSED or None.

    `last_turn` is the newest lease of the upstream when the trouble began.
    """

    __slots__ = ("cool_downs", "kind", "last_turn", "message", "since_s", "trouble")

    def __init__(self, kind: AccountKind, day_starts_s: float) -> None:
        self.kind = kind
        self.cool_downs = CoolDowns(day_starts_s)
        self.trouble: Standing | None = None
        self.since_s = 0.0
        self.last_turn = 0
        self.message = ""

    @property
    def is_refused_alone(self) -> bool:
        """Whether it cannot be used even where there is no other account: then the upstream's own answer to a refused
        key is worth more than ours, but a dead login has nothing to send."""
        return self.trouble is not None and self.kind is AccountKind.OAUTH

    def standing(self, model: str, now_s: float) -> Standing:
        """As far as this model is concerned."""
        if self.trouble is not None:
            return self.trouble
        return Standing.COOLING if self.cool_downs.remaining_s(model, now_s) > 0 else Standing.READY

    def note(self, outcome: Outcome, model: str, now_s: float, *, turn: int, last_turn: int) -> bool:
        """As `CoolDowns.note`. A lone key is used although it is closed, so it may turn out to be good again."""
        if outcome.cause is Cause.OK and self.trouble is not None and turn > self.last_turn:
            return self.recover()
        return self.cool_downs.note(outcome, model, now_s, turn=turn, last_turn=last_turn)

    def fall(self, trouble: Standing, message: str, since_s: float, last_turn: int) -> None:
        """Into LOGIN_NEEDED or CLOSED."""
        self.trouble, self.message, self.since_s, self.last_turn = trouble, message, since_s, last_turn

    def recover(self) -> bool:
        """Returns whether there was anything to recover from."""
        if self.trouble is None:
            return False
        self.trouble, self.message, self.since_s = None, "", 0.0
        self.cool_downs.clear()
        return True

    def cooling(self, now_s: float) -> tuple[CoolingView, ...]:
        return tuple(
            CoolingView(model, each.cause, each.remaining_s(now_s))
            for model, each in self.cool_downs.active(now_s).items()
        )

    def rows(self, upstream: str, account_id: str, now_s: float) -> Iterator[StateRow]:
        if self.trouble is not None and self.kind is AccountKind.OAUTH:
            standing, since_s = self.trouble.name, self.since_s
            yield StateRow(upstream, account_id, WHOLE_ACCOUNT, standing, "", since_s, 0.0, self.message)
        standing = Standing.COOLING.name
        for model, each in self.cool_downs.active(now_s).items():
            since_s = each.until_s - each.length_s
            yield StateRow(upstream, account_id, model, standing, each.cause.name, since_s, each.length_s, "")

    def restore(self, row: StateRow, now_s: float) -> None:
        """A row that this version does not know changes nothing."""
        if row.standing == Standing.COOLING.name:
            cause = Cause.__members__.get(row.cause, Cause.UNKNOWN)
            cool_down = CoolDown(cause, row.since_s + row.length_s, row.length_s)
            self.cool_downs.start(row.model, cool_down, now_s)
        elif (trouble := Standing.__members__.get(row.standing)) in TROUBLES:
            self.fall(trouble, row.message, row.since_s, 0)

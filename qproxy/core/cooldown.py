"""How long an account is left alone: for one model or for all, ended by time, by a success, never late by a clock.

Times are Unix seconds, since cool-downs outlive the process. A wall clock may be set back, so each cool-down keeps its
length too: seen from any moment it ends within that length.

A quota error that may be a minute's limit or a day's (`qwen-wire.md` 7.3) is cooled as the first; a second one more
than a minute later, with no success between, is taken for the second, and holds until the day ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qproxy.core.classify import Cause, Outcome, Scope, Window

DAY_S = 86_400
APART_S = 60.0  # two quota errors within a minute are one minute's limit, met twice
WHOLE_ACCOUNT = ""  # in place of a model; a limit of a model that is not known holds for the account

# The client invents names of models: what does not fit is not remembered, and costs the account's next user one answer.
MAX_MODELS = 256
MAX_MODEL_CHARS = 256


@dataclass(slots=True)
class CoolDown:
    """`last_turn` is the newest lease of the upstream when it began: the success of a newer one ends it."""

    cause: Cause
    until_s: float
    length_s: float
    last_turn: int = 0

    def remaining_s(self, now_s: float) -> float:
        """Seconds to its end, 0.0 behind it. Where the clock was set back, the end moves with it."""
        remaining_s = self.until_s - now_s
        if remaining_s > self.length_s:
            self.until_s = now_s + self.length_s
            return self.length_s
        return max(remaining_s, 0.0)


class CoolDowns:
    """Those of one account. `day_starts_s`: seconds behind UTC midnight at which the upstream's day begins.

    Wherever a model is asked for, `WHOLE_ACCOUNT` stands for all of them.
    """

    __slots__ = ("_by_model", "_day_starts_s", "_first_quota_s")

    def __init__(self, day_starts_s: float = 0.0) -> None:
        self._day_starts_s = day_starts_s
        self._by_model: dict[str, CoolDown] = {}
        self._first_quota_s: dict[str, float] = {}  # when a quota error came that a second one would make a day's

    def remaining_s(self, model: str, now_s: float) -> float:
        """Seconds until the account may be asked for the model; 0.0: now."""
        if not self._by_model:
            return 0.0
        return max(self._remaining_s(WHOLE_ACCOUNT, now_s), self._remaining_s(model, now_s))

    def active(self, now_s: float) -> Mapping[str, CoolDown]:
        """By model. Those that have ended are forgotten."""
        self._by_model = {model: each for model, each in self._by_model.items() if each.remaining_s(now_s) > 0}
        return self._by_model

    def note(self, outcome: Outcome, model: str, now_s: float, *, turn: int, last_turn: int) -> bool:
        """What became of the lease `turn`, where `last_turn` is the upstream's newest one. Returns whether a cool-down
        began or ended."""
        if outcome.cause is Cause.OK:
            return self._succeeded(model, turn)
        if outcome.scope not in (Scope.MODEL, Scope.ACCOUNT):
            return False
        covered = model if outcome.scope is Scope.MODEL else WHOLE_ACCOUNT
        length_s = self._length_s(outcome, covered, now_s)
        return self.start(covered, CoolDown(outcome.cause, now_s + length_s, length_s, last_turn), now_s)

    def start(self, model: str, cool_down: CoolDown, now_s: float) -> bool:
        """Returns whether it was taken: it must end later than the one that holds already."""
        if cool_down.remaining_s(now_s) <= self._remaining_s(model, now_s) or not self._has_room(model, now_s):
            return False
        self._by_model[model] = cool_down
        return True

    def clear(self) -> None:
        """As if nothing had ever been noted."""
        self._by_model.clear()
        self._first_quota_s.clear()

    def _succeeded(self, model: str, turn: int) -> bool:
        """A request that went up before a cool-down began proves nothing about it."""
        if not self._by_model and not self._first_quota_s:
            return False
        ended = False
        for covered in (model, WHOLE_ACCOUNT):
            self._first_quota_s.pop(covered, None)
            cool_down = self._by_model.get(covered)
            if cool_down is not None and turn > cool_down.last_turn:
                del self._by_model[covered]
                ended = True
        return ended

    def _length_s(self, outcome: Outcome, model: str, now_s: float) -> float:
        """What the upstream asked for counts, where it asked."""
        if outcome.retry_after_s is not None:
            return outcome.cooldown_s
        if outcome.window is Window.DAY or (outcome.may_be_daily and self._is_second_quota(model, now_s)):
            return next_day_s(now_s, self._day_starts_s) - now_s
        return outcome.cooldown_s

    def _is_second_quota(self, model: str, now_s: float) -> bool:
        """Whether a first one came before, more than a minute and at most a day ago. The next one is a first again."""
        apart_s = now_s - self._first_quota_s.get(model, now_s)
        if 0 < apart_s <= APART_S:
            return False
        if APART_S < apart_s <= DAY_S:
            del self._first_quota_s[model]
            return True
        self._suspect(model, now_s)
        return False

    def _suspect(self, model: str, now_s: float) -> None:
        if len(self._first_quota_s) >= MAX_MODELS:
            self._first_quota_s = {each: at_s for each, at_s in self._first_quota_s.items() if now_s - at_s <= DAY_S}
        if model in self._first_quota_s or _is_bearable(model, len(self._first_quota_s)):
            self._first_quota_s[model] = now_s

    def _remaining_s(self, model: str, now_s: float) -> float:
        cool_down = self._by_model.get(model)
        return 0.0 if cool_down is None else cool_down.remaining_s(now_s)

    def _has_room(self, model: str, now_s: float) -> bool:
        return model in self._by_model or _is_bearable(model, len(self.active(now_s)))


def next_day_s(now_s: float, day_starts_s: float = 0.0) -> float:
    """When the next day begins, later than now: at UTC midnight and `day_starts_s` seconds."""
    return ((now_s - day_starts_s) // DAY_S + 1) * DAY_S + day_starts_s


def _is_bearable(model: str, remembered: int) -> bool:
    """Whether one more name may be remembered beside so many."""
    return model == WHOLE_ACCOUNT or (len(model) <= MAX_MODEL_CHARS and remembered < MAX_MODELS)

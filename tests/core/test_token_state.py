"""How a login stands over time and events; no clock runs here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.oauth import OAuthToken, base_from_resource_url
from qproxy.core.token_state import TRANSITIONS, Backoff, Event, Standing, TokenState
from qproxy.core.upstream import Credential

NOW_S = 1_700_000_000.0
MONO_S = 50.0
BUFFER_S = 30.0


def token(name: str = "at", life_s: float = 3600, refresh_token: str | None = "rt") -> OAuthToken:
    return OAuthToken(name, refresh_token, (NOW_S + life_s) * 1000, base_from_resource_url(None))


def state_with(given: OAuthToken | None = None, buffer_s: float = BUFFER_S, chance: float = 0.0) -> TokenState:
    state = TokenState(buffer_s)
    state.take(given or token(), NOW_S, NOW_S, chance)
    return state


def secret(credential: Credential | None) -> str | None:
    return credential.secret if credential is not None else None


def used_at(state: TokenState, after_s: float, monotonic_s: float = MONO_S) -> str | None:
    return secret(state.credential_at(NOW_S + after_s, monotonic_s))


class TestTheTimesOfALife:
    def test_used_then_renewed_beside_then_waited_for(self) -> None:
        state = state_with(chance=0.0)  # 5 % of an hour: 180 s
        assert not state.wants_renewal(NOW_S + 3419, MONO_S)
        assert state.wants_renewal(NOW_S + 3420, MONO_S)
        assert used_at(state, 3569) == "at"
        assert used_at(state, 3570) is None

    @pytest.mark.parametrize(("chance", "lead_s"), [(0.0, 180), (1.0, 720), (0.5, 450)])
    def test_chance_spreads_the_renewals(self, chance: float, lead_s: float) -> None:
        assert NOW_S + 3600 - state_with(chance=chance).due_s == pytest.approx(lead_s)

    def test_the_buffer_is_the_last_floor(self) -> None:
        state = state_with(buffer_s=900.0, chance=1.0)
        assert state.due_s == state.floor_s == NOW_S + 2700

    def test_a_buffer_longer_than_a_life_leaves_half_of_it(self) -> None:
        state = state_with(token(life_s=60), buffer_s=7200.0)
        assert state.due_s == state.floor_s == NOW_S + 30

    def test_a_token_that_has_lived_a_while_is_not_due_sooner(self) -> None:
        state = TokenState(BUFFER_S)
        state.take(token(life_s=600), NOW_S - 3000, NOW_S, 0.0)
        assert NOW_S + 600 - state.due_s == pytest.approx(180)

    def test_a_life_that_began_in_the_future_begins_now(self) -> None:
        state = TokenState(BUFFER_S)
        state.take(token(life_s=1000), NOW_S + 999, NOW_S, 0.0)
        assert NOW_S + 1000 - state.due_s == pytest.approx(50)

    @given(st.floats(60, 86_400), st.floats(0, 100_000), st.floats(0, 1))
    def test_a_new_token_is_never_due(self, life_s: float, buffer_s: float, chance: float) -> None:
        state = state_with(token(life_s=life_s), buffer_s, chance)
        assert NOW_S < state.due_s <= state.floor_s <= state.expires_s

    def test_the_clock_is_set_back(self) -> None:
        state = state_with()
        assert state.standing_at(NOW_S + 7200) is Standing.EXPIRED
        assert state.standing_at(NOW_S) is Standing.VALID


class TestFailingRenewals:
    def test_the_old_token_is_used_to_its_end(self) -> None:
        state = state_with()
        assert used_at(state, 3580) is None
        state.fail("x", MONO_S)
        assert used_at(state, 3580) == "at"
        assert used_at(state, 3599.9) == "at"
        assert used_at(state, 3600) is None
        assert used_at(state, 3580, MONO_S + 1) is None

    def test_each_pause_is_twice_as_long_up_to_five_minutes(self) -> None:
        backoff, pauses = Backoff(), []
        for _ in range(12):
            backoff.fail(MONO_S)
            pauses.append(backoff.wait_s(MONO_S))
        assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
        assert backoff.wait_s(MONO_S + 300) == 0
        backoff.clear()
        assert backoff.wait_s(MONO_S) == 0
        for _ in range(2000):
            backoff.fail(MONO_S)
        assert backoff.wait_s(MONO_S) == 300

    def test_the_error_says_when_the_next_attempt_is(self) -> None:
        state = state_with(token(life_s=-1))
        state.fail("the login server answered 503", MONO_S)
        state.fail("the login server answered 503", MONO_S)
        error = state.error(NOW_S, MONO_S + 0.5)
        assert (error.code, error.retry_after_s) == ("credentials_unavailable", 2)
        assert "answered 503. The next attempt is in 2 s" in error.message

    def test_a_new_token_ends_the_pause(self) -> None:
        state = state_with()
        state.fail("x", MONO_S)
        state.take(token("at-2", life_s=-1), NOW_S, NOW_S, 0.0)
        assert state.may_renew(MONO_S)
        assert state.problem() == ""

    def test_the_same_token_does_not(self) -> None:
        state = state_with()
        state.fail("x", MONO_S)
        state.take(token(), NOW_S, NOW_S, 0.0)
        assert not state.may_renew(MONO_S)


class TestEnds:
    def test_a_refused_token_is_used_no_more(self) -> None:
        state = state_with()
        state.refuse()
        assert used_at(state, 0) is None
        assert state.last_resort(NOW_S) is None
        assert state.wants_renewal(NOW_S, MONO_S)
        state.fail("x", MONO_S)
        assert used_at(state, 0) is None
        assert state.standing_at(NOW_S) is Standing.REFUSED

    def test_a_login_that_is_not_renewed_any_more_lasts_as_long_as_its_token(self) -> None:
        state = state_with()
        state.deny("the login server answered 400 invalid_grant")
        assert not state.wants_renewal(NOW_S + 9999, MONO_S)
        assert used_at(state, 3599) == "at"
        assert used_at(state, 3600) is None
        error = state.error(NOW_S + 3600, MONO_S)
        assert (error.code, error.kind.should_retry) == ("no_healthy_account", False)
        assert "qproxy auth login" in error.message
        assert state.summary(NOW_S, "qproxy auth login --account a") == "login needed: qproxy auth login --account a"

    def test_a_new_login_heals_it(self) -> None:
        state = state_with()
        state.deny("x")
        state.take(token("at-2"), NOW_S, NOW_S, 0.0)
        assert (state.standing_at(NOW_S), used_at(state, 0)) == (Standing.VALID, "at-2")

    def test_a_token_that_belongs_elsewhere_is_not_used(self) -> None:
        state = state_with()
        state.mislead("it leads away")
        assert used_at(state, 0) is None
        assert state.last_resort(NOW_S) is None
        assert not state.wants_renewal(NOW_S, MONO_S)
        assert "it leads away" in state.error(NOW_S, MONO_S).message

    def test_a_damaged_file_takes_no_token_away(self) -> None:
        state = state_with()
        state.spoil("the file is empty")
        assert (state.standing_at(NOW_S), used_at(state, 0)) == (Standing.VALID, "at")
        assert state.problem() == "the file is empty"
        assert state.wants_renewal(NOW_S + 3500, MONO_S)

    def test_a_file_that_is_gone_is_not_made_again(self) -> None:
        state = state_with()
        state.vanish()
        assert used_at(state, 3599) == "at"
        assert not state.wants_renewal(NOW_S + 3599, MONO_S)
        assert "has expired" in state.error(NOW_S + 3600, MONO_S).message
        state.take(token(), NOW_S, NOW_S, 0.0)
        assert state.wants_renewal(NOW_S + 3599, MONO_S)

    @pytest.mark.parametrize("read_only", [True, False])
    def test_what_cannot_be_renewed_is_used_to_its_end(self, read_only: bool) -> None:
        state = state_with(token(refresh_token="rt" if read_only else None))
        state.is_read_only = read_only
        assert not state.wants_renewal(NOW_S + 3599, MONO_S)
        assert used_at(state, 3599) == "at"
        assert state.error(NOW_S + 3600, MONO_S).code == "credentials_unavailable"

    def test_nobody_is_logged_in(self) -> None:
        state = TokenState(BUFFER_S)
        state.vanish()
        assert used_at(state, 0) is None
        assert not state.wants_renewal(NOW_S, MONO_S)
        assert "no Qwen login" in state.error(NOW_S, MONO_S).message
        assert state.summary(NOW_S, "") == "not logged in"

    def test_a_file_that_never_was_good(self) -> None:
        state = TokenState(BUFFER_S)
        state.spoil("the file is empty")
        assert "the file is empty" in state.error(NOW_S, MONO_S).message
        assert state.summary(NOW_S, "") == "unusable: the file is empty"
        state.vanish()
        assert state.standing_at(NOW_S) is Standing.NOT_LOGGED_IN


class TestTheTable:
    def test_a_login_heals_every_standing(self) -> None:
        assert all(TRANSITIONS[standing, Event.TAKEN] is Standing.VALID for standing in Standing)

    def test_every_standing_can_be_reached(self) -> None:
        assert {Standing.NOT_LOGGED_IN, *TRANSITIONS.values()} == set(Standing)

    def test_every_event_changes_something(self) -> None:
        assert {event for _, event in TRANSITIONS} == set(Event)

    @given(st.lists(st.sampled_from(["take", "old", "refuse", "fail", "deny", "mislead", "spoil", "vanish", "wait"])))
    def test_no_history_gives_a_token_that_must_not_be_used(self, history: list[str]) -> None:
        state, now_s, number = TokenState(BUFFER_S), NOW_S, 0
        refused: set[str] = set()
        for step in history:
            if step == "take":
                number += 1
                state.take(OAuthToken(f"t{number}", "rt", (now_s + 3600) * 1000, token().base), now_s, now_s, 0.5)
            elif step == "old" and state.token is not None:
                state.take(state.token, now_s, now_s, 0.5)
            elif step == "refuse":
                refused.add(f"t{number}")
                state.refuse()
            elif step == "fail":
                state.fail("x", MONO_S)
            elif step == "deny":
                state.deny("x")
            elif step == "mislead":
                refused.add(f"t{number}")
                state.mislead("x")
            elif step == "spoil":
                state.spoil("x")
            elif step == "vanish":
                state.vanish()
            elif step == "wait":
                now_s += 1800
            for credential in (state.credential_at(now_s, MONO_S), state.last_resort(now_s)):
                if credential is not None:
                    assert credential.secret == f"t{number}"
                    assert credential.secret not in refused
                    assert now_s < state.expires_s
            assert state.error(now_s, MONO_S).kind.status == 503

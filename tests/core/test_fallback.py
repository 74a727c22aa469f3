"""Which rule leads where, and by what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.breaker import LeftAlone
from qproxy.core.classify import Cause, Outcome, Scope, classify, hidden_error
from qproxy.core.fallback import FallbackRule, Fallbacks, Stop, Trigger, triggers_of, triggers_of_error
from qproxy.core.models import Choice
from qproxy.core.outcome_table import ROWS
from qproxy.errors import CATALOGUE, AccountError, DownstreamError, Fault, InternalError, QProxyError, UpstreamError

ALL = frozenset(Trigger)
CONNECT, QUOTA, TOO_MANY, OVERLOADED, ACCOUNT, CONTEXT, SERVER_ERROR = Trigger
ERRORS = {
    Fault.DOWNSTREAM: DownstreamError,
    Fault.UPSTREAM: UpstreamError,
    Fault.ACCOUNT: AccountError,
    Fault.INTERNAL: InternalError,
}


def rule(
    source: Stop | tuple[None, str] | tuple[None, None],
    target: tuple[str | None, str | None],
    on: frozenset[Trigger] = ALL,
) -> FallbackRule:
    return FallbackRule(source[0], source[1], target[0], target[1], on)


class TestWhatAnAnswerTriggers:
    @pytest.mark.parametrize(
        ("status", "body", "triggers"),
        [
            (429, b"{}", {TOO_MANY}),
            (429, b'{"error":{"code":"insufficient_quota"}}', {QUOTA, TOO_MANY}),
            (429, b'{"error":{"code":"ModelServingError"}}', {OVERLOADED, TOO_MANY}),
            (403, b'{"error":{"code":"insufficient_quota"}}', {QUOTA}),
            (400, b'{"error":{"code":"Arrearage"}}', {QUOTA}),
            (403, b'{"error":{"code":"Model.AccessDenied"}}', {QUOTA}),
            (402, b"{}", {QUOTA}),
            (401, b"{}", {ACCOUNT}),
            (503, b"{}", {OVERLOADED}),
            (400, b'{"error":{"code":"context_length_exceeded"}}', {CONTEXT}),
            (500, b"{}", {SERVER_ERROR}),
            (502, b"<html>", {SERVER_ERROR}),
            (504, b"", {SERVER_ERROR}),
            (400, b"{}", set()),
            (404, b"{}", set()),
            (413, b"{}", set()),
            (501, b"{}", set()),
        ],
    )
    def test_by_status_and_body(self, status: int, body: bytes, triggers: set[Trigger]) -> None:
        assert triggers_of(classify(status, [], body, 0.0)) == triggers

    def test_an_error_in_a_200_counts_as_what_it_stands_for(self) -> None:
        outcome = hidden_error(b'{"error":{"code":"Throttling.RateQuota","message":"slow down"}}')
        assert outcome is not None
        assert triggers_of(outcome) == {TOO_MANY}

    @pytest.mark.parametrize("cause", Cause)
    def test_what_is_the_requests_own_fault_triggers_nothing(self, cause: Cause) -> None:
        own_fault = {Cause.OK, Cause.BAD_REQUEST, Cause.CONTENT_FILTER, Cause.NOT_FOUND, Cause.UNKNOWN}
        if cause in own_fault:
            assert triggers_of(Outcome(cause, Scope.REQUEST, status=400)) == set()

    def test_every_row_of_the_table_has_a_meaning(self) -> None:
        for row in ROWS:
            assert triggers_of(Outcome(row.cause, row.scope, status=418)) <= ALL


def error_of(code: str) -> QProxyError:
    return ERRORS[CATALOGUE[code].fault](code, "text")


class TestWhatAnErrorTriggers:
    @pytest.mark.parametrize(
        ("code", "triggers"),
        [
            ("upstream_connect_failed", {CONNECT}),
            ("upstream_dns_failed", {CONNECT}),
            ("upstream_tls_failed", {CONNECT}),
            ("overloaded", {OVERLOADED}),
            ("all_accounts_limited", {QUOTA, TOO_MANY}),
            ("no_healthy_account", {ACCOUNT}),
            ("credentials_unavailable", {ACCOUNT}),
            ("context_length_exceeded", {CONTEXT}),
        ],
    )
    def test_nothing_was_sent(self, code: str, triggers: set[Trigger]) -> None:
        assert triggers_of_error(error_of(code)) == triggers

    def test_an_upstream_that_is_left_alone_could_not_be_reached_before(self) -> None:
        assert triggers_of_error(LeftAlone(1.0)) == {CONNECT, OVERLOADED}

    @pytest.mark.parametrize(
        "code", ["upstream_closed", "first_byte_timeout", "upload_timeout", "total_timeout", "stream_truncated"]
    )
    def test_the_upstream_may_have_worked(self, code: str) -> None:
        assert triggers_of_error(error_of(code)) == set()

    def test_nothing_that_the_client_did_leads_elsewhere(self) -> None:
        for code, kind in CATALOGUE.items():
            if kind.fault is Fault.DOWNSTREAM and code != "context_length_exceeded":
                assert triggers_of_error(error_of(code)) == set()


class TestWhereItLeads:
    def test_from_a_model_to_a_model_it_stays_at_its_upstream(self) -> None:
        rules = Fallbacks([rule((None, "big"), (None, "small"))])
        assert rules.after([("a", "big")], ALL) == Choice("a", "small", rename=True)
        assert rules.after([("b", "big")], ALL) == Choice("b", "small", rename=True)
        assert rules.after([("a", "small")], ALL) is None

    def test_from_an_upstream_to_another_the_model_keeps_its_name(self) -> None:
        rules = Fallbacks([rule(("a", None), ("b", None))])
        assert rules.after([("a", "big")], ALL) == Choice("b", "big", rename=True)
        assert rules.after([("a", None)], ALL) == Choice("b", None, rename=False)
        assert rules.after([("c", "big")], ALL) is None

    def test_a_rule_for_one_model_of_one_upstream(self) -> None:
        rules = Fallbacks([rule(("a", "big"), ("b", "other"))])
        assert rules.after([("a", "big")], ALL) == Choice("b", "other", rename=True)
        assert rules.after([("a", "small")], ALL) is None
        assert rules.after([("b", "big")], ALL) is None

    def test_a_rule_for_all(self) -> None:
        rules = Fallbacks([rule((None, None), ("b", None))])
        assert rules.after([("a", "big")], ALL) == Choice("b", "big", rename=True)
        assert rules.after([("a", "big"), ("b", "big")], ALL) is None

    def test_the_first_rule_with_the_cause_wins(self) -> None:
        rules = Fallbacks(
            [
                rule((None, "big"), ("b", None), frozenset({CONNECT})),
                rule((None, "big"), ("c", None), frozenset({QUOTA, CONNECT})),
            ]
        )
        assert rules.after([("a", "big")], frozenset({CONNECT})) == Choice("b", "big", rename=True)
        assert rules.after([("a", "big")], frozenset({QUOTA})) == Choice("c", "big", rename=True)
        assert rules.after([("a", "big")], frozenset({TOO_MANY})) is None
        assert rules.after([("a", "big")], frozenset()) is None

    def test_a_chain(self) -> None:
        rules = Fallbacks([rule(("a", None), ("b", None)), rule(("b", None), ("c", "small"))])
        been: list[Stop] = [("a", "big")]
        choice = rules.after(been, ALL)
        assert choice == Choice("b", "big", rename=True)
        been.append(("b", "big"))
        assert rules.after(been, ALL) == Choice("c", "small", rename=True)
        assert rules.after([*been, ("c", "small")], ALL) is None

    def test_a_ring_ends_where_it_began(self) -> None:
        rules = Fallbacks([rule(("a", None), ("b", None)), rule(("b", None), ("a", None))])
        assert rules.after([("a", "m"), ("b", "m")], ALL) is None

    def test_where_a_way_ends_the_other_ways_of_the_places_before_are_left(self) -> None:
        rules = Fallbacks([rule(("a", None), ("b", None)), rule(("a", None), ("c", None))])
        assert rules.after([("a", "m"), ("b", "m")], ALL) == Choice("c", "m", rename=True)

    def test_the_newest_place_comes_first(self) -> None:
        rules = Fallbacks(
            [rule(("a", None), ("b", None)), rule(("a", None), ("c", None)), rule(("b", None), ("d", None))]
        )
        assert rules.after([("a", "m"), ("b", "m")], ALL) == Choice("d", "m", rename=True)

    def test_within_one_upstream(self) -> None:
        rules = Fallbacks([rule((None, "big"), ("b", None)), rule((None, "big"), (None, "small"))])
        assert rules.after([("a", "big")], ALL, within="a") == Choice("a", "small", rename=True)
        assert rules.after([("a", "big"), ("a", "small")], ALL, within="a") is None

    def test_whom_rules_concern(self) -> None:
        rules = Fallbacks([rule(("a", "big"), ("b", None))])
        assert rules.concern([("a", "big")])
        assert rules.concern([("a", "big"), ("b", "big")])
        assert not rules.concern([("a", "small")])
        assert not Fallbacks([]).concern([("a", "big")])


names = st.sampled_from(["a", "b", "c"])
models = st.sampled_from(["m", "n"])


@given(
    st.lists(
        st.builds(
            FallbackRule,
            st.none() | names,
            st.none() | models,
            st.none() | names,
            st.none() | models,
            st.frozensets(st.sampled_from(Trigger), min_size=1),
        ),
        max_size=8,
    ),
    st.tuples(names, st.none() | models),
    st.lists(st.frozensets(st.sampled_from(Trigger)), min_size=9, max_size=9),
)
def test_every_way_ends_and_no_place_is_visited_twice(
    rules: list[FallbackRule], begin: Stop, causes: list[frozenset[Trigger]]
) -> None:
    fallbacks = Fallbacks(rules)
    been = [begin]
    for triggers in causes:
        choice = fallbacks.after(been, triggers)
        if choice is None:
            return
        assert fallbacks.concern(been)
        stop = (choice.upstream, choice.model)
        assert stop not in been
        assert choice.rename == (choice.model is not None)
        assert any(each.leads_to(old) == stop and each.on & triggers for each in rules for old in been)
        been.append(stop)
    assert len(been) <= 3 * 3, "there are no more places than that"

"""Every error body that is known of Qwen's upstreams, in every shape it comes in, and what it means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core.causes import STATUS_OF
from qproxy.core.classify import GOOD, Cause, Outcome, Scope, Window, classify, hidden_error
from qproxy.core.error_body import BODY_BYTES, said_in
from qproxy.core.outcome_table import IN_BAND, ROWS, Row, find_row
from qproxy.simulator.answers import Refusal
from qproxy.simulator.scenarios import SCENARIOS
from tests.support.error_bodies import (
    BAD,
    BODIES,
    BUSY_TEXT,
    FAILED,
    GAVE_UP,
    KINDS,
    MODEL,
    NO_CAPACITY,
    NO_MODEL,
    PER_MINUTE,
    REFUSED,
    REQUEST,
    SHAPES,
    UNPAID,
    UPSTREAM,
    Known,
    Shape,
    envelope,
    flat,
    nested,
)
from tests.support.json_texts import DAMAGED

NOW_S = 1_790_000_000.0


def meaning(outcome: Outcome) -> tuple[Cause, Scope, float, Window]:
    return outcome.cause, outcome.scope, outcome.cooldown_s, outcome.window


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("known", BODIES.values(), ids=BODIES)
def test_every_known_body_in_every_shape(known: Known, shape: Shape) -> None:
    expected = (known.cause, known.scope, known.cooldown_s, known.window)
    for code in (known.native, known.openai):
        for kind in ("", code, KINDS.get(known.status, "invalid_request_error")):
            body = shape(code, kind, known.message)
            assert meaning(classify(known.status, [], body, NOW_S)) == expected, (body, code)


STATUS_ALONE: dict[int, tuple[Cause, Scope, float, Window]] = {
    400: (*BAD, 0.0, Window.NONE),
    401: (*REFUSED, 0.0, Window.NONE),
    402: (*UNPAID, Window.NONE),
    403: (Cause.ENTITLEMENT, MODEL, 60.0, Window.NONE),
    404: (*NO_MODEL, 0.0, Window.NONE),
    408: (*GAVE_UP, 0.0, Window.NONE),
    413: (*BAD, 0.0, Window.NONE),
    422: (*BAD, 0.0, Window.NONE),
    429: PER_MINUTE,
    500: (*FAILED, 0.0, Window.NONE),
    502: (*FAILED, 0.0, Window.NONE),
    503: (*NO_CAPACITY, 0.0, Window.NONE),
    504: (*GAVE_UP, 0.0, Window.NONE),
    529: (*NO_CAPACITY, 0.0, Window.NONE),
    302: (Cause.UNKNOWN, REQUEST, 0.0, Window.NONE),
}


@pytest.mark.parametrize(
    "body", [b"", b" \r\n", b"{}", b"null", b"[]", b'"', b"\xff\xfe", b"no luck", b'{"error":null}']
)
@pytest.mark.parametrize(("status", "expected"), STATUS_ALONE.items())
def test_a_body_that_says_nothing_leaves_the_status(
    status: int, expected: tuple[Cause, Scope, float, Window], body: bytes
) -> None:
    outcome = classify(status, [], body, NOW_S)
    assert meaning(outcome) == expected
    assert outcome.code == ""
    assert outcome.status == status


def test_a_firewalls_page_costs_no_account_anything() -> None:
    page = b"<!DOCTYPE html><html><head><title>405</title></head><body>captcha</body></html>"
    assert meaning(classify(403, [], page, NOW_S)) == (Cause.UNKNOWN, REQUEST, 0.0, Window.NONE)
    assert classify(504, [], page, NOW_S).cause is Cause.TIMEOUT
    assert classify(502, [], page, NOW_S).cause is Cause.SERVER_ERROR


@pytest.mark.parametrize("status", [200, 201, 206, 304])
def test_good_answers(status: int) -> None:
    assert classify(status, [(b"retry-after", b"9")], envelope("x", "y", "z"), NOW_S) == GOOD


class TestQuota:
    def test_one_quota_error_does_not_bench_an_account_for_the_day(self) -> None:
        for known in (BODIES["quota"], BODIES["free login"], BODIES["free login, native"]):
            outcome = classify(429, [], envelope(known.native, "", known.message), NOW_S)
            assert outcome.may_be_daily
            assert outcome.cooldown_s == 60.0

    @pytest.mark.parametrize("name", ["tokens", "requests", "burst", "5 hours", "week", "month", "daily", "arrearage"])
    def test_what_is_surely_no_hidden_daily_limit(self, name: str) -> None:
        known = BODIES[name]
        assert not classify(known.status, [], envelope(known.native, "", known.message), NOW_S).may_be_daily

    def test_403_quota_is_no_refused_key(self) -> None:
        body = envelope("insufficient_quota", "authentication_error", "")
        assert classify(403, [], body, NOW_S).cause is Cause.QUOTA

    def test_arrearage_is_neither_a_bad_request_nor_a_refused_key(self) -> None:
        known = BODIES["arrearage"]
        for status in (400, 401, 403, 429):
            assert classify(status, [], flat("Arrearage", "", known.message), NOW_S).cause is Cause.BILLING


OVERFLOWS = [
    "context length exceeded",
    "Context_Length_Exceeded",
    "This model's maximum context length is 131072 tokens, however you requested 140000 tokens",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "Prompt too long",
    "Input is too long for requested model.",
    "input token count is too long",
    "Range of input length should be [1, 98304]",
    "Too many tokens in the prompt",
    "210,000 tokens > 131,072 limit",
    "The input token count (140000) exceeds the maximum number of tokens allowed (131072).",
    "Your messages hold 140000 tokens, which exceeds the limit",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "the request exceeds the available context size, try increasing it",
]
NO_OVERFLOWS = {
    "context deadline exceeded": Cause.TIMEOUT,
    "context deadline exceeded: 9000 tokens of input exceed the patience": Cause.TIMEOUT,
    "request timed out: input too long": Cause.TIMEOUT,
    "Range of max_tokens should be [1, 65536]": Cause.BAD_REQUEST,
    "max_tokens exceeds the limit": Cause.BAD_REQUEST,
}


@pytest.mark.parametrize("message", OVERFLOWS)
def test_context_overflow(message: str) -> None:
    for status in (400, 413, 422):
        outcome = classify(status, [], envelope("", "BadRequestError", message), NOW_S)
        assert outcome.cause is Cause.CONTEXT_OVERFLOW
        assert outcome.scope is REQUEST
    assert classify(429, [], envelope("", "", message), NOW_S).cause is Cause.RATE, "a minute's tokens, not the context"


@pytest.mark.parametrize(("message", "cause"), NO_OVERFLOWS.items())
def test_what_only_looks_like_context_overflow(message: str, cause: Cause) -> None:
    assert classify(400, [], envelope("", "BadRequestError", message), NOW_S).cause is cause


def test_codes_of_self_hosted_servers_for_context_overflow() -> None:
    body = json.dumps({"error": {"code": 400, "message": "no", "type": "exceed_context_size_error"}}).encode()
    assert classify(400, [], body, NOW_S).cause is Cause.CONTEXT_OVERFLOW


WORDS = [
    *("Arrearage", "insufficient_quota", "Access denied, please make sure your account is in good standing"),
    *("hour allocated quota exceeded", "free allocated quota exceeded", "The prepaid bill is overdue", "daily quota"),
    *("invalid api-key", "request rate increased too quickly", "x\nThe prepaid bill is overdue."),
]


class TestEchoes:
    """A client's own words in an answer never cost an account anything."""

    @pytest.mark.parametrize("words", WORDS)
    def test_in_the_name_of_a_model(self, words: str) -> None:
        body = envelope("model_not_found", "invalid_request_error", f"The model `{words}` does not exist.")
        assert meaning(classify(404, [], body, NOW_S)) == (Cause.NOT_FOUND, REQUEST, 0.0, Window.NONE)
        body = json.dumps({"detail": f"No model {words} here"}).encode()
        assert meaning(classify(404, [], body, NOW_S)) == (Cause.NOT_FOUND, REQUEST, 0.0, Window.NONE)

    @pytest.mark.parametrize("words", WORDS)
    @pytest.mark.parametrize("kept", [None, 60, 200])
    def test_in_a_validation_error(self, words: str, kept: int | None) -> None:
        theirs = {"code": words, "type": words, "error": {"code": words}, "message": words}
        fault = {"type": "missing", "input": theirs, "msg": "Field required", "loc": ["body", words]}
        for body in (
            {"detail": [fault]},
            {"detail": [{"input": theirs} | fault]},
            {"input": theirs, "detail": [fault]},
        ):
            outcome = classify(422, [], json.dumps(body).encode()[:kept], NOW_S)
            assert meaning(outcome) == (Cause.BAD_REQUEST, REQUEST, 0.0, Window.NONE)


class TestRetryAfter:
    def test_the_upstreams_wish_replaces_the_tables_cool_down(self) -> None:
        body = envelope("limit_requests", "", "")
        for headers, wait_s in (
            ([(b"Retry-After", b"2")], 2.0),
            ([(b"retry-after", b"100"), (b"Retry-After-Ms", b"20")], 0.02),
            ([(b"retry-after", b"0")], 0.0),
            ([(b"retry-after", b"99999999999")], 7 * 24 * 3600.0),
        ):
            outcome = classify(429, headers, body, NOW_S)
            assert (outcome.cooldown_s, outcome.retry_after_s) == (wait_s, wait_s)

    def test_garbage_leaves_the_tables(self) -> None:
        outcome = classify(429, [(b"retry-after", b"-5")], envelope("limit_requests", "", ""), NOW_S)
        assert (outcome.cooldown_s, outcome.retry_after_s) == (60.0, None)

    def test_an_overloaded_upstream(self) -> None:
        outcome = classify(503, [(b"retry-after", b"1")], envelope("ModelServingError", "", BUSY_TEXT), NOW_S)
        assert meaning(outcome) == (Cause.OVERLOADED, UPSTREAM, 1.0, Window.NONE)

    def test_a_wrong_request_does_not_get_better_by_waiting(self) -> None:
        outcome = classify(400, [(b"retry-after", b"30")], envelope("invalid_parameter_error", "", "no"), NOW_S)
        assert (outcome.cooldown_s, outcome.retry_after_s) == (0.0, 30.0)


class TestCode:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (envelope("Throttling.RateQuota", "requests", "m"), "Throttling.RateQuota"),
            (envelope("invalid_request_error", "insufficient_quota", "m"), "insufficient_quota"),
            (nested("insufficient_quota", "x", "m"), "insufficient_quota"),
            (b'{"error":"insufficient_quota","error_description":"m"}', "insufficient_quota"),
            (b'{"error":{"code":429,"message":"m","type":null}}', ""),
            (b'{"code":"a code\\u0000with \\"tricks\\"","message":"m"}', ""),
            (b'{"code":"' + b"x" * 65 + b'","message":"m"}', ""),
            (b'{"code":true,"message":"m"}', ""),
        ],
    )
    def test_it_is_the_telling_one_and_safe_to_show(self, body: bytes, code: str) -> None:
        assert classify(429, [], body, NOW_S).code == code


def test_the_simulators_refusals() -> None:
    """Its error bodies are those of the wire document, so each of them has a meaning."""
    refusals = {
        name: scenario.answer
        for name, scenario in SCENARIOS.items()
        if isinstance(scenario.answer, Refusal) and scenario.answer.status >= 400
    }
    causes = {}
    for name, refusal in refusals.items():
        reply = refusal.reply("1")
        causes[name] = classify(reply.status, reply.headers, reply.body, NOW_S).cause
    assert Cause.UNKNOWN not in causes.values()
    assert causes["429-nested"] is causes["429-sse"] is causes["429-quota"] is causes["403-quota"] is Cause.QUOTA
    assert causes["400-nested"] is causes["400-sse"] is causes["400-flat"] is Cause.CONTEXT_OVERFLOW
    assert causes["400-arrearage"] is causes["429-billing"] is Cause.BILLING
    assert causes["504"] is causes["500-timeout"] is Cause.TIMEOUT
    assert causes["401-expired"] is causes["403-plan-key"] is Cause.AUTH


class TestTheTable:
    def test_every_cause_is_reached(self) -> None:
        assert {row.cause for row in ROWS} == set(Cause) - {Cause.OK}
        assert set(STATUS_OF) == set(Cause)

    def test_the_last_row_takes_everything(self) -> None:
        assert ROWS[-1].fits(0, frozenset(), "")
        assert ROWS[-1].fits(999, frozenset(), "")

    def test_every_row_but_the_last_is_used(self) -> None:
        """Each wins for some answer of this file: a row behind a wider one would be dead."""
        seen = {
            _row_of(known.status, envelope(code, code, known.message))
            for known in BODIES.values()
            for code in (known.native, known.openai)
        }
        seen |= {_row_of(status, b"") for status in STATUS_ALONE}
        seen |= {_row_of(IN_BAND, flat(code, "", "m")) for code in ("InvalidParameter", "InternalError", "odd")}
        seen |= {_row_of(403, b"<html>")} | {_row_of(400, envelope("", "", message)) for message in NO_OVERFLOWS}
        assert [ROWS[index] for index in range(len(ROWS)) if index not in seen] == []

    @pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.cause.name}-{row.scope.name}")
    def test_a_row_is_consistent(self, row: Row) -> None:
        assert not (row.scope is REQUEST and row.cooldown_s), "waiting mends no request"
        assert (row.window is not Window.NONE) == (row.cause in (Cause.QUOTA, Cause.RATE))
        assert all(code == code.lower() for code in row.codes)


def _row_of(status: int, body: bytes) -> int:
    said = said_in(body)
    return ROWS.index(find_row(status, said.codes, said.text))


def assert_sane(outcome: Outcome) -> None:
    assert 0 <= outcome.cooldown_s <= 7 * 24 * 3600
    assert len(outcome.code) <= 64
    assert outcome.code.isascii()
    assert outcome.status > 0


FRAGMENTS = st.sampled_from(
    [
        *(b"data:", b"event: error", b"\n\n", b"\r\n", b"\r", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b" "),
        *(b'"error":', b'"code":', b'"type":', b'"message":', b'"metadata":{"raw":', b'"choices":', b'"error_finish"'),
        *(b'"insufficient_quota"', b"429", b"null", b"1e400", b"HTTP_STATUS/429", b"<429> ", b"\xff", b"\xef\xbb\xbf"),
        *(b'"\\ud800"', b"input tokens exceed", b"Throttling.", b"[" * 50, b'{"error":' * 20),
    ]
)
BODIES_OF_ANY_KIND = st.one_of(
    st.binary(max_size=200),
    DAMAGED,
    st.lists(FRAGMENTS, max_size=25).map(b"".join),
    st.tuples(st.sampled_from(SHAPES), st.sampled_from(list(BODIES.values())), st.integers(0, 300)).map(
        lambda drawn: drawn[0](drawn[1].native, "x", drawn[1].message)[: drawn[2]]
    ),
)


@given(st.integers(100, 599), st.binary(max_size=40), BODIES_OF_ANY_KIND)
@settings(max_examples=800, deadline=None)
def test_no_bytes_are_an_exception(status: int, wait: bytes, body: bytes) -> None:
    assert_sane(classify(status, [(b"retry-after", wait), (b"retry-after-ms", wait)], body, NOW_S))
    found = hidden_error(body)
    if found is not None:
        assert found.cause is not Cause.OK
        assert_sane(found)


@pytest.mark.parametrize("name", ["quota", "input length", "5 hours", "arrearage", "delimiter"])
def test_a_body_cut_anywhere_never_means_something_for_another_scope(name: str) -> None:
    """Cut before its code or text it falls back to what the status says, and to nothing else."""
    known = BODIES[name]
    by_status = meaning(classify(known.status, [], b"", NOW_S))
    body = flat(known.native, "", known.message)
    whole = meaning(classify(known.status, [], body, NOW_S))
    by_code = meaning(classify(known.status, [], flat(known.native, "", ""), NOW_S))
    seen = {meaning(classify(known.status, [], body[:length], NOW_S)) for length in range(len(body) + 1)}
    assert whole in seen
    assert seen <= {by_status, by_code, whole}


@pytest.mark.parametrize(
    "filler",
    [b" ", b"[", b'{"error":', b'{"', b'"\\', b"data:\n\n", b"data: {\n", b"input tokens ", b"1,", b"requests daily "],
)
def test_no_more_than_the_first_16_kib_is_looked_at(filler: bytes) -> None:
    """The longest inputs that a pattern could stumble over; what stands behind the limit changes nothing."""
    body = (filler * BODY_BYTES)[:BODY_BYTES]
    tail = b"\n\ndata: " + envelope("Arrearage", "Arrearage", "m")
    assert classify(429, [], body + tail, NOW_S) == classify(429, [], body, NOW_S)
    assert classify(429, [], b"data: {}\n\n" + tail, NOW_S).cause is Cause.BILLING

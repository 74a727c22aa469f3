"""The body of an error, of any status or hidden in a 200: a judgement, always, and nothing in it that is not plain."""

from __future__ import annotations

import re

from qproxy.core.causes import Cause, Scope
from qproxy.core.classify import Outcome, classify, hidden_error
from qproxy.core.error_body import MAX_NESTING, hidden_in, said_in
from qproxy.core.local import error_in_stream, hidden_error_answer
from qproxy.core.retry_after import MAX_RETRY_AFTER_S, retry_after_s

STATUSES = (400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, 599)
NOW_S = 1_790_000_000.0
CODE = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
MOST_CODES = 16 * MAX_NESTING


def one_input(data: bytes) -> None:
    for status in STATUSES:
        _check_outcome(classify(status, [], data, NOW_S))
        assert classify(status, [], data, NOW_S).status == status
    for status in (200, 204, 304):
        assert classify(status, [], data, NOW_S).cause is Cause.OK
    _check_said(data)
    _check_hidden(data)
    waits = [retry_after_s([(name, data[:100])], NOW_S) for name in (b"Retry-After", b"retry-after-ms")]
    assert all(wait_s is None or 0 <= wait_s <= MAX_RETRY_AFTER_S for wait_s in waits)


def _check_outcome(outcome: Outcome) -> None:
    assert CODE.fullmatch(outcome.code)
    assert outcome.cooldown_s >= 0
    assert outcome.retry_after_s is None
    assert outcome.scope is not Scope.REQUEST or outcome.cause is not Cause.QUOTA


def _check_said(data: bytes) -> None:
    said = said_in(data)
    assert said.status == 0 or 400 <= said.status <= 599
    assert len(said.codes) <= MOST_CODES
    assert all(CODE.fullmatch(code) for code in said.codes)
    assert said.text == said.text.lower()


def _check_hidden(data: bytes) -> None:
    outcome = hidden_error(data)
    assert (outcome is None) == (hidden_in(data) is None)
    if outcome is None:
        return
    _check_outcome(outcome)
    assert 400 <= outcome.status <= 599
    assert hidden_error_answer(outcome.status, data, outcome.code, b"qp-1").status == outcome.status
    assert error_in_stream(outcome.status, data, b"qp-1").body

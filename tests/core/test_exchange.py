"""One request and its answer: phases go forward only, one commit, one settlement; what an answer means."""

from __future__ import annotations

import pytest

from qproxy.core.exchange import Exchange, Phase
from qproxy.core.http1 import ResponseHead, parse_response_head
from qproxy.core.limits import Limits
from qproxy.core.outcome import Verdict, judge
from qproxy.core.replay import ReplayBuffer
from qproxy.errors import DownstreamError, UpstreamError


def exchange() -> Exchange:
    return Exchange(b"qp-1", "127.0.0.1", 10.0)


def test_a_whole_life() -> None:
    life = exchange()
    life.method, life.path, life.endpoint = b"POST", b"/v1/x\xff", "x"
    life.upstream, life.model = "mine", "m"
    for phase in (Phase.ADMITTED, Phase.RECEIVING, Phase.WAITING):
        life.enter(phase)
    life.received = 10.5
    assert not life.committed
    life.commit(200, 11.0)
    assert life.committed
    life.request_bytes, life.response_bytes = 5, 7
    record = life.settle(12.0)
    assert (record.request_id, record.peer, record.method, record.path) == ("qp-1", "127.0.0.1", "POST", "/v1/x\xff")
    assert (record.endpoint, record.upstream, record.model, record.status) == ("x", "mine", "m", 200)
    assert (record.started, record.received, record.answered, record.ended) == (10.0, 10.5, 11.0, 12.0)
    assert (record.request_bytes, record.response_bytes) == (5, 7)
    assert (record.phase, record.error) == (Phase.RELAYING, "")


def test_a_life_that_ended_before_it_began() -> None:
    record = exchange().settle(11.0)
    assert (record.phase, record.status, record.model, record.answered) == (Phase.HEAD, 0, "", 0.0)


@pytest.mark.parametrize("phase", list(Phase))
def test_phases_never_go_back(phase: Phase) -> None:
    for earlier in Phase:
        if Phase.HEAD < earlier <= phase:
            life = exchange()
            if phase > Phase.HEAD:
                life.enter(phase)
            with pytest.raises(AssertionError):
                life.enter(earlier)


def test_it_commits_once() -> None:
    life = exchange()
    life.commit(200, 1.0)
    with pytest.raises(AssertionError):
        life.commit(502, 2.0)


def test_it_settles_once_and_then_commits_no_more() -> None:
    life = exchange()
    life.settle(1.0)
    with pytest.raises(AssertionError):
        life.settle(2.0)
    with pytest.raises(AssertionError):
        life.commit(200, 2.0)


def test_the_first_failure_counts_with_the_phase_it_fell_into() -> None:
    life = exchange()
    life.enter(Phase.WAITING)
    life.fail("upstream_closed")
    life.commit(502, 1.0)
    life.fail("client_closed")
    record = life.settle(2.0)
    assert (record.error, record.phase, record.status) == ("upstream_closed", Phase.WAITING, 502)


# --- what an answer means


def answered(status: int, content_type: bytes = b"application/json") -> ResponseHead:
    raw = b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: 0\r\n\r\n" % (status, content_type)
    return parse_response_head(raw, Limits(), method=b"POST")


@pytest.mark.parametrize(
    ("status", "content_type"),
    [
        (200, b"application/json"),
        (200, b"text/event-stream"),
        (200, b"audio/mpeg"),
        (204, b"text/html"),
        (206, b"application/octet-stream"),
        (304, b"application/json"),
        (400, b"text/html"),
        (401, b"application/json"),
        (429, b"text/plain"),
        (500, b"application/json; charset=utf-8"),
        (503, b"application/problem+json"),
    ],
)
def test_answers_that_pass(status: int, content_type: bytes) -> None:
    assert judge(answered(status, content_type)) is Verdict.COMMIT


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
@pytest.mark.parametrize("content_type", [b"text/html", b"text/plain", b""])
def test_an_error_that_is_no_json_is_wrapped(status: int, content_type: bytes) -> None:
    """U25."""
    assert judge(answered(status, content_type)) is Verdict.WRAP


@pytest.mark.parametrize(
    ("status", "content_type"),
    [*((status, b"application/json") for status in (300, 301, 302, 303, 307, 308)), (200, b"text/html; charset=utf-8")],
)
def test_answers_that_must_not_pass(status: int, content_type: bytes) -> None:
    """U30, U33."""
    with pytest.raises(UpstreamError) as caught:
        judge(answered(status, content_type))
    assert caught.value.code == "upstream_protocol_error"


# --- the body that can be sent again


def test_a_body_is_kept_as_it_came() -> None:
    replay = ReplayBuffer(5)
    for piece in (b"ab", b"", b"cde"):
        replay.put(piece)
    assert replay.seal() == [b"ab", b"cde"]
    assert replay.size == 5
    with pytest.raises(AssertionError):
        replay.put(b"f")


def test_a_body_over_the_limit_is_refused_with_the_piece_that_goes_over_it() -> None:
    """C15."""
    replay = ReplayBuffer(5)
    replay.put(b"abcde")
    with pytest.raises(DownstreamError) as caught:
        replay.put(b"f")
    assert caught.value.code == "body_too_large"

"""The soak: that it notices what it looks for, and that nothing of the kind is there."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cli import main, parser
from bench.soak.answers import Seen, end_of
from bench.soak.books import Attempt, Books, Case, Deed, End, Guilt, guilt_of
from bench.soak.command import run
from bench.soak.faults import FAULTS, NO_FAULT, Fault, Harm, Reading
from bench.soak.orders import Manner, Order, OrderBook, answer_of, digest_of
from bench.soak.script import Ending, Pause, whole
from bench.soak.storm import Plan, Soaked
from bench.soak.verdict import GROWTH_MB, checks
from qproxy.core.framing import bare_walker
from qproxy.simulator.answers import DONE

BREAKS = next(fault for fault in FAULTS if fault.harm is Harm.BREAKS)
REFUSES = next(fault for fault in FAULTS if fault.harm is Harm.REFUSES)
ERROR_EVENT = b'data: {"error":{"code":"upstream_closed"}}\n\n'
ERROR = b'{"error":{"code":"overloaded"}}'


def order_of(*, is_stream: bool = False, manner: Manner = Manner.READS) -> Order:
    order, _ = OrderBook(1).next_plain("one")
    return replace(order, is_stream=is_stream, pieces=3, manner=manner)


def attempt_of(fault: Fault = NO_FAULT, deed: Deed = Deed.SENT) -> Attempt:
    return Attempt("one", "key", fault, fault.harm is not Harm.REFUSES, deed)


def case_of(end: End | None, *attempts: Attempt, detail: str = "", manner: Manner = Manner.READS) -> Case:
    return Case(order_of(manner=manner), list(attempts), end, detail)


GOOD = {
    "a whole answer": case_of(End.WHOLE, attempt_of()),
    "refused once": case_of(End.WHOLE, attempt_of(REFUSES), attempt_of()),
    "refused": case_of(End.TOLD, attempt_of(REFUSES), detail="limit_requests"),
    "told of a break": case_of(End.TOLD, attempt_of(BREAKS), detail="upstream_closed"),
    "told late": case_of(End.TOLD_LATE, attempt_of(BREAKS, Deed.ENDED)),
    "broken by a restart": case_of(End.BROKEN, attempt_of(deed=Deed.CUT)),
    "no place": case_of(End.TOLD, detail="overloaded"),
    "left": case_of(End.LEFT, attempt_of(deed=Deed.LEFT)),
    "cut off because it was stuck": case_of(End.BROKEN, attempt_of(deed=Deed.LEFT), manner=Manner.STUCK),
}
BAD = {
    "no end": (Guilt.LOST, case_of(None, attempt_of())),
    "too late": (Guilt.LOST, case_of(End.LATE)),
    "closed without an answer": (Guilt.LOST, case_of(End.NOTHING)),
    "done twice": (Guilt.DOUBLED, case_of(End.WHOLE, attempt_of(BREAKS), attempt_of())),
    "done twice for one who left": (Guilt.DOUBLED, case_of(End.LEFT, attempt_of(), attempt_of())),
    "another answer": (Guilt.WRONG, case_of(End.BAD, attempt_of())),
    "an answer from nowhere": (Guilt.WRONG, case_of(End.WHOLE)),
    "whole, though it broke": (Guilt.WRONG, case_of(End.WHOLE, attempt_of(BREAKS, Deed.ENDED))),
    "a good answer broken": (Guilt.WRONG, case_of(End.BROKEN, attempt_of())),
    "told though all was well": (Guilt.WRONG, case_of(End.TOLD, attempt_of(), detail="upstream_closed")),
    "refused for nothing": (Guilt.WRONG, case_of(End.TOLD, detail="internal_error")),
    "half an answer from nowhere": (Guilt.WRONG, case_of(End.BROKEN)),
}


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD)
def test_a_request_may_end_so(case: Case) -> None:
    assert guilt_of(case) is None


@pytest.mark.parametrize(("guilt", "case"), BAD.values(), ids=BAD)
def test_a_request_must_not_end_so(guilt: Guilt, case: Case) -> None:
    found = guilt_of(case)
    assert found is not None
    assert found[0] is guilt


def seen(status: int, payload: bytes, *, is_whole: bool = True) -> Seen:
    return Seen(status, {}, bytearray(payload), is_whole=is_whole)


def test_what_a_client_saw_of_a_plain_answer() -> None:
    order = order_of()
    body = answer_of(order)
    assert end_of(order, seen(200, body))[0] is End.WHOLE
    assert end_of(order, seen(200, body[:-9], is_whole=False))[0] is End.BROKEN
    assert end_of(order, seen(200, body[:-9]))[0] is End.BAD
    assert end_of(order, seen(200, body.replace(b"stop", b"stob"), is_whole=False))[0] is End.BAD
    assert end_of(order, seen(503, ERROR)) == (End.TOLD, "overloaded")
    assert end_of(order, seen(503, ERROR, is_whole=False))[0] is End.BAD
    assert end_of(order, seen(503, b"<html>"))[0] is End.BAD
    assert end_of(order, Seen())[0] is End.NOTHING


def test_what_a_client_saw_of_a_stream() -> None:
    order = order_of(is_stream=True)
    body = answer_of(order)
    half = body[: len(body) // 2]
    events = body[: body.index(b"\n\n") + 2]
    assert end_of(order, seen(200, body))[0] is End.WHOLE
    assert end_of(order, seen(200, b": keep-alive\n\n" * 2 + body))[0] is End.WHOLE
    assert end_of(order, seen(200, body.removesuffix(DONE)))[0] is End.WHOLE
    assert end_of(order, seen(200, half, is_whole=False))[0] is End.BROKEN
    assert end_of(order, seen(200, events + ERROR_EVENT, is_whole=False)) == (End.TOLD_LATE, "upstream_closed")
    assert end_of(order, seen(200, half))[0] is End.BAD
    assert end_of(order, seen(200, events + events, is_whole=False))[0] is End.BAD


@settings(max_examples=50, deadline=None)
@given(st.integers(), st.integers(0, 30))
def test_upstreams_send_the_answer_that_clients_expect(seed: int, count: int) -> None:
    orders = OrderBook(seed)
    order, body = [orders.next() for _ in range(count + 1)][-1]
    head, *rest = whole(order, random.Random(seed))
    assert isinstance(head, bytes)
    raw = head + b"".join(step for step in rest if isinstance(step, bytes))
    fields, _, framed = raw.partition(b"\r\n\r\n")
    length = fields.lower().rpartition(b"content-length: ")[2] if b"content-length" in fields.lower() else None
    walker = bare_walker(None if length is None else int(length), chunked=length is None)
    assert walker.walk(framed) == answer_of(order)
    assert walker.done
    assert order.id.encode() in body


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(FAULTS), st.integers())
def test_every_fault_has_a_script_for_whoever_can_meet_it(fault: Fault, seed: int) -> None:
    rng = random.Random(seed)
    orders = OrderBook(seed)
    fitting = [order for order, _ in (orders.next() for _ in range(40)) if fault.fits(order, is_lone=True)]
    for order in fitting[:3]:
        steps = fault.script(order, rng)
        endings = [step for step in steps if isinstance(step, Ending)]
        assert steps
        assert endings in ([], steps[-1:])
        if fault.harm is Harm.NONE:
            sent = b"".join(step for step in steps if isinstance(step, bytes))
            assert any(isinstance(step, Pause) for step in steps) or fault.reading is Reading.LATE
            assert not endings
            assert order.id.encode() in sent


def test_the_same_seed_makes_the_same_requests() -> None:
    first, second, other = OrderBook(7), OrderBook(7), OrderBook(8)
    assert [first.next() for _ in range(20)] == [second.next() for _ in range(20)]
    assert first.next() != other.next()


def test_a_body_arrives_as_it_was_sent_but_for_its_model() -> None:
    orders = OrderBook(3)
    for order, body in (orders.next() for _ in range(60)):
        names = [f"{route}{sign}{order.model}" for route in ("one", "two", "lone") for sign in "/:"]
        arrived = [body.replace(f'"{name}"'.encode(), f'"{order.model}"'.encode(), 1) for name in names]
        assert order.digest in {digest_of(each) for each in (body, *arrived)}


def test_the_books_judge_what_was_opened() -> None:
    books = Books()
    lost = books.open(order_of())
    attempt = books.begin(lost, "one", "key", NO_FAULT)
    assert books.attempts_open == 1
    books.end(attempt, Deed.SENT)
    books.settle()
    assert (books.attempts_open, books.guilty[Guilt.LOST]) == (0, 1)
    assert lost.order.id in books.samples[0]
    books.settle()
    assert books.guilty[Guilt.LOST] == 1


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Soaked:
    return run(Plan(12.0, 1, "uvloop", tmp_path_factory.mktemp("soak") / "run", print))


@pytest.mark.timeout(150)
def test_a_short_soak_ends_well(soaked: Soaked) -> None:
    failed = [check for check in checks(soaked) if not check.ok]
    assert not failed, soaked.books.samples
    assert soaked.books.ends[End.WHOLE.value] > 500
    assert soaked.hostile.total() > 10
    assert len([name for name in soaked.books.faults if name != NO_FAULT.name]) > 20


def test_what_is_left_behind_is_noticed(soaked: Soaked) -> None:
    grown = replace(soaked.rests[-1], used_bytes=soaked.rests[-2].used_bytes + int(GROWTH_MB * 1.1e6))
    left = replace(soaked.final, down=1, up=1, descriptors=soaked.baseline.descriptors + 9)
    status = replace(soaked.farewell, exit_status=1, defects=("internal error",))
    bad = replace(soaked, rests=[*soaked.rests[:-1], grown], final=left, farewell=status, recovered=99)
    assert sum(not check.ok for check in checks(bad)) == sum(not check.ok for check in checks(soaked)) + 7


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = parser().parse_args(["soak", "--minutes", "0.5", "--seed", "4", "--build", str(tmp_path)])
    assert (options.minutes, options.seed, options.backend) == (0.5, 4, "uvloop")
    with pytest.raises(SystemExit):
        main(["soak", "--backend", "twisted"])
    assert "twisted" in capsys.readouterr().err

"""A line in use: whoever comes, leaves and gives up in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from qproxy.core.line import Line, Standing, Ticket

KEYS = ["a", "b", "c", None]


@dataclass(eq=False)
class Visitor:
    """One ticket, and how often it was woken."""

    number: int
    ticket: Ticket
    woken: list[Standing] = field(default_factory=list)


class LineInUse(RuleBasedStateMachine):
    """Beside the line, the simplest account of it."""

    visitors = Bundle("visitors")

    @initialize(places=st.integers(0, 5), places_per_key=st.integers(0, 3), size=st.integers(0, 6))
    def start(self, places: int, places_per_key: int, size: int) -> None:
        self.places, self.places_per_key, self.size = places, places_per_key, size
        self.line = Line(places=places, places_per_key=places_per_key, size=size)
        self.here: list[Visitor] = []
        self.now_s = 0.0
        self.came = 0

    @rule(target=visitors, key=st.sampled_from(KEYS), is_long=st.booleans())
    def come(self, key: str | None, is_long: bool) -> Visitor:
        before = self.standings()
        ticket = self.line.enter(key, self.now_s, is_long=is_long)
        self.came += 1
        visitor = Visitor(self.came, ticket)
        ticket.wake = lambda: visitor.woken.append(ticket.standing)
        if ticket.standing is Standing.REFUSED:
            assert len(self.having(Standing.WAITING)) == self.size
        self.check_changes(before)
        self.here.append(visitor)
        return visitor

    @rule(visitor=consumes(visitors), seconds=st.sampled_from([0.0, 0.5, 100.0]))
    def leave(self, visitor: Visitor, seconds: float) -> None:
        self.now_s += seconds
        before = self.standings()
        self.line.leave(visitor.ticket, self.now_s)
        del before[visitor]
        self.here.remove(visitor)
        self.check_changes(before)

    def standings(self) -> dict[Visitor, Standing]:
        return {visitor: visitor.ticket.standing for visitor in self.here}

    def having(self, standing: Standing) -> list[Visitor]:
        return [visitor for visitor in self.here if visitor.ticket.standing is standing]

    def check_changes(self, before: dict[Visitor, Standing]) -> None:
        """Who was waiting and has been let in came before all of its kind who still wait, and was told once."""
        for visitor, standing in before.items():
            now = visitor.ticket.standing
            if now is standing:
                continue
            assert standing is Standing.WAITING
            assert visitor.woken == [now]
            for other in self.having(Standing.WAITING) if now is Standing.INSIDE else []:
                assert kind(other) != kind(visitor) or other.number > visitor.number

    @invariant()
    def never_more_than_the_limits(self) -> None:
        inside = self.having(Standing.INSIDE)
        groups = [(self.places, inside)]
        groups += [(self.places_per_key, [each for each in inside if each.ticket.key == key]) for key in KEYS]
        for places, members in groups:
            if places:
                assert len(members) <= places
                assert sum(each.ticket.is_long for each in members) <= max(1, places // 2)
        assert self.line.waiting == len(self.having(Standing.WAITING)) <= self.size

    @invariant()
    def nobody_waits_who_could_go_in(self) -> None:
        """No turn is lost: whatever has happened, whoever waits finds no place."""
        for visitor in self.having(Standing.WAITING):
            assert not self.line._has_place(visitor.ticket)
            assert visitor.woken == []

    def teardown(self) -> None:
        for visitor in getattr(self, "here", []):
            self.line.leave(visitor.ticket, self.now_s)
        assert not hasattr(self, "line") or self.line.waiting == 0


def kind(visitor: Visitor) -> tuple[object, bool]:
    return visitor.ticket.key, visitor.ticket.is_long


TestLineInUse = LineInUse.TestCase
TestLineInUse.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


class Watch:
    """A line without a limit per key: here whoever could go in is known by the lane alone."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.line = Line(places=places, places_per_key=0, size=100)
        self.inside: list[Ticket] = []
        self.waiting: list[Ticket] = []
        self.overtakers: dict[Ticket, set[object]] = {}
        self.last_lane: bool | None = None

    def come(self, key: object, *, is_long: bool) -> None:
        ticket = self.line.enter(key, 0.0, is_long=is_long)
        (self.inside if ticket.standing is Standing.INSIDE else self.waiting).append(ticket)
        self.look_for_heads()

    def look_for_heads(self) -> None:
        """The first of each key in each lane: from now on its turn counts."""
        for ticket in reversed(self.waiting):
            if not any((ticket.key, ticket.is_long) == (each.key, each.is_long) for each in self.overtakers):
                first = next(t for t in self.waiting if (t.key, t.is_long) == (ticket.key, ticket.is_long))
                self.overtakers[first] = set()

    def go(self, index: int) -> Ticket:
        leaver = self.inside.pop(index % len(self.inside))
        lanes = {ticket.is_long for ticket in self.waiting if not ticket.is_long or self.has_long_place()}
        self.line.leave(leaver, 0.0)
        for ticket in [each for each in self.waiting if each.standing is Standing.INSIDE]:
            assert ticket.is_long is not self.last_lane or lanes == {ticket.is_long}
            self.last_lane = ticket.is_long
            self.waiting.remove(ticket)
            self.inside.append(ticket)
            self.note_turn(ticket)
        return leaver

    def has_long_place(self) -> bool:
        return sum(ticket.is_long for ticket in self.inside) < max(1, self.places // 2)

    def note_turn(self, ticket: Ticket) -> None:
        del self.overtakers[ticket]
        for head, keys in self.overtakers.items():
            if head.is_long is ticket.is_long:
                assert ticket.key not in keys
                keys.add(ticket.key)
        self.look_for_heads()


@given(
    places=st.integers(1, 4),
    arrivals=st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=8, max_size=60),
    leavers=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
)
def test_while_one_waits_nobody_else_has_two_turns(
    places: int, arrivals: list[tuple[str | None, bool]], leavers: list[tuple[int, bool]]
) -> None:
    """The bound of a wait: while the first of a key waits, each other key of its lane goes in once at most; and where
    both lanes could, they take turns."""
    watch = Watch(places)
    for key, is_long in arrivals:
        watch.come(key, is_long=is_long)
    for index, comes_back in leavers:
        leaver = watch.go(index)
        if comes_back or not watch.inside:
            watch.come(leaver.key, is_long=leaver.is_long)

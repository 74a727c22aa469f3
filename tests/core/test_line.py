"""The waiting line: in order, in turns, bounded, and no turn is lost."""

from __future__ import annotations

import pytest

from qproxy.core.line import FIRST_STAY_S, Line, Standing, Ticket


class Visitors:
    """Those who come to one line, and in which order they went in."""

    def __init__(self, *, places: int = 0, places_per_key: int = 0, size: int = 100) -> None:
        self.line = Line(places=places, places_per_key=places_per_key, size=size)
        self.went_in: list[str] = []
        self.refused: list[str] = []

    def come(self, *names: str) -> list[Ticket]:
        """The first letter is the key, a capital letter is a long one."""
        return [self._come(name) for name in names]

    def _come(self, name: str) -> Ticket:
        ticket = self.line.enter(name[0].lower(), 0.0, is_long=name[0].isupper())
        ticket.wake = lambda: self._note(ticket, name)
        if ticket.standing is not Standing.WAITING:
            self._note(ticket, name)
        return ticket

    def _note(self, ticket: Ticket, name: str) -> None:
        (self.went_in if ticket.standing is Standing.INSIDE else self.refused).append(name)

    def go(self, *tickets: Ticket) -> None:
        for ticket in tickets:
            self.line.leave(ticket, 0.0)


class TestPlaces:
    def test_without_a_limit_everybody_goes_in(self) -> None:
        visitors = Visitors(size=0)
        visitors.come(*["a"] * 50, *["B"] * 50)
        assert len(visitors.went_in) == 100
        assert visitors.line.waiting == 0

    def test_who_finds_no_place_waits_and_goes_in_when_one_is_given_back(self) -> None:
        visitors = Visitors(places=2)
        first, second, third = visitors.come("a1", "a2", "a3")
        assert (third.standing, visitors.line.waiting) == (Standing.WAITING, 1)
        visitors.go(second)
        assert (third.standing, visitors.line.waiting) == (Standing.INSIDE, 0)
        visitors.go(first, third)
        assert visitors.went_in == ["a1", "a2", "a3"]

    def test_first_come_first_served(self) -> None:
        visitors = Visitors(places=1)
        inside, *waiting = visitors.come("a0", "a1", "a2", "a3")
        visitors.go(inside, *waiting)
        assert visitors.went_in == ["a0", "a1", "a2", "a3"]

    def test_one_that_leaves_the_line_leaves_no_hole(self) -> None:
        visitors = Visitors(places=1)
        inside, second, third, fourth = visitors.come("a1", "a2", "a3", "a4")
        visitors.go(third)
        assert visitors.line.waiting == 2
        visitors.go(inside, second, fourth)
        assert visitors.went_in == ["a1", "a2", "a4"]

    def test_one_that_leaves_when_it_has_just_got_its_place_gives_it_on(self) -> None:
        visitors = Visitors(places=1)
        inside, second, third = visitors.come("a1", "a2", "a3")
        visitors.go(inside)
        assert second.standing is Standing.INSIDE
        visitors.go(second)
        assert third.standing is Standing.INSIDE

    def test_a_place_is_given_back_once(self) -> None:
        visitors = Visitors(places=1)
        (inside,) = visitors.come("a")
        visitors.go(inside)
        with pytest.raises(RuntimeError, match="given back already"):
            visitors.go(inside)
        assert [each.standing for each in visitors.come("a", "a")] == [Standing.INSIDE, Standing.WAITING]

    def test_a_key_may_have_so_many_places_and_no_more(self) -> None:
        visitors = Visitors(places=3, places_per_key=2)
        a1, _, a3, b1, b2 = visitors.come("a1", "a2", "a3", "b1", "b2")
        assert visitors.went_in == ["a1", "a2", "b1"]
        assert visitors.line.is_held_up_by_its_own(a3)
        assert not visitors.line.is_held_up_by_its_own(b2)
        visitors.go(b1)
        assert visitors.went_in[-1] == "b2"
        visitors.go(a1)
        assert visitors.went_in[-1] == "a3"


class TestTurns:
    def test_a_key_with_one_waiting_is_not_behind_the_hundred_of_another(self) -> None:
        visitors = Visitors(places=1)
        first, second, _, _, third = visitors.come("a0", "a1", "a2", "a3", "b1")
        visitors.go(first, second, third)
        assert visitors.went_in == ["a0", "a1", "b1", "a2"]

    def test_a_key_that_comes_anew_stands_behind_the_others(self) -> None:
        visitors = Visitors(places=1)
        inside, a1, b1, _, c1 = visitors.come("x", "a1", "b1", "b2", "c1")
        visitors.go(inside)
        visitors.come("a2")
        visitors.go(a1, b1, c1)
        assert visitors.went_in == ["x", "a1", "b1", "c1", "a2"]

    def test_a_key_that_may_have_no_more_places_keeps_its_turn(self) -> None:
        visitors = Visitors(places=2, places_per_key=1)
        a1, b1, _, b2, _ = visitors.come("a1", "b1", "a2", "b2", "b3")
        visitors.go(b1)
        visitors.go(b2)
        visitors.go(a1)
        assert visitors.went_in == ["a1", "b1", "b2", "b3", "a2"]


class TestLongOnes:
    def test_they_hold_at_most_half_of_the_places(self) -> None:
        visitors = Visitors(places=4)
        visitors.come("A1", "B1", "C1", "a1", "b1", "c1")
        assert visitors.went_in == ["A1", "B1", "a1", "b1"]

    def test_and_half_of_those_of_a_key(self) -> None:
        visitors = Visitors(places_per_key=4)
        visitors.come("A1", "A2", "A3", "a4", "a5", "a6")
        assert visitors.went_in == ["A1", "A2", "a4", "a5"]

    def test_the_only_place_is_for_them_too(self) -> None:
        assert Visitors(places=1).come("A")[0].standing is Standing.INSIDE

    def test_small_ones_pass_while_huge_ones_wait(self) -> None:
        visitors = Visitors(places=2)
        visitors.come("A1", "A2", "A3")
        for number in range(5):
            name = f"b{number}"
            (small,) = visitors.come(name)
            assert visitors.went_in[-1] == name
            visitors.go(small)
        assert visitors.went_in == ["A1", *(f"b{number}" for number in range(5))]

    def test_both_lanes_take_turns(self) -> None:
        """Else a flood of small ones would starve a long one, which would wait for a moment without them."""
        visitors = Visitors(places=2)
        one, two, *waiting = visitors.come("a1", "a2", "a3", "a4", "a5", "A6", "A7")
        visitors.go(one, two)
        assert visitors.went_in == ["a1", "a2", "a3", "A6"]
        visitors.go(waiting[3])
        assert visitors.went_in[-1] == "a4"
        visitors.go(waiting[0])
        assert visitors.went_in[-1] == "A7"

    def test_one_that_leaves_may_let_two_in(self) -> None:
        visitors = Visitors(places=4, places_per_key=2)
        a1, _, _, _ = visitors.come("A1", "B1", "a2", "b2")
        visitors.come("C1", "a3")
        visitors.go(a1)
        assert visitors.went_in[4:] == ["a3"]
        wide = Visitors(places=6, places_per_key=2)
        a1, *_ = wide.come("A1", "B1", "C1", "a2", "D1", "a3")
        assert wide.went_in == ["A1", "B1", "C1", "a2"]
        wide.go(a1)
        assert wide.went_in[4:] == ["a3", "D1"]


class TestFullLine:
    def test_who_finds_no_place_to_wait_is_refused_at_once(self) -> None:
        visitors = Visitors(places=1, size=1)
        inside, waiting, refused = visitors.come("a1", "a2", "a3")
        assert (refused.standing, visitors.refused) == (Standing.REFUSED, ["a3"])
        visitors.go(refused, inside)
        assert waiting.standing is Standing.INSIDE

    def test_a_line_without_length(self) -> None:
        visitors = Visitors(places=1, size=0)
        visitors.come("a", "b")
        assert (visitors.went_in, visitors.refused) == (["a"], ["b"])

    def test_the_key_with_most_in_it_makes_room(self) -> None:
        visitors = Visitors(places=1, size=3)
        inside, _, _, displaced, newcomer = visitors.come("x", "a1", "a2", "a3", "b1")
        assert (visitors.refused, visitors.line.waiting) == (["a3"], 3)
        assert (displaced.standing, newcomer.standing) == (Standing.REFUSED, Standing.WAITING)
        visitors.go(displaced)
        visitors.come("a4", "b2")
        assert visitors.refused == ["a3", "a4", "b2"]
        visitors.go(inside)
        assert visitors.went_in == ["x", "a1"]

    def test_its_long_ones_first(self) -> None:
        visitors = Visitors(places=1, size=3)
        visitors.come("x", "A1", "A2", "a3", "b1")
        assert visitors.refused == ["A2"]


class TestExpectedWait:
    def test_it_follows_the_stays_and_the_length_of_the_line(self) -> None:
        line = Line(places=2, places_per_key=0, size=10)
        assert line.expected_wait_s("a") == FIRST_STAY_S / 2
        for _ in range(100):
            line.leave(line.enter("a", 0.0, is_long=False), 40.0)
        assert line.expected_wait_s("a") == pytest.approx(20, rel=0.01)
        for _ in range(5):
            line.enter("a", 0.0, is_long=False)
        assert line.expected_wait_s("b") == pytest.approx(80, rel=0.01)

    def test_a_key_with_few_places_waits_for_its_own(self) -> None:
        line = Line(places=100, places_per_key=1, size=10)
        for _ in range(3):
            line.enter("a", 0.0, is_long=False)
        assert line.expected_wait_s("a") == 3 * FIRST_STAY_S
        assert line.expected_wait_s("b") == FIRST_STAY_S

"""Who goes next where only so many may be inside at once: a bounded waiting line, fair between keys.

Of one key the first to come is the first to go in. Between keys turns are taken: one with a hundred waiting gets no
more places than one with a single one. In a full line the key with most in it makes room (as the fattest queue does in
RFC 8290 4.1.2), so that nobody can keep the others out of it.

Long ones have a lane of their own. They hold at most half of the places, so that a few huge ones cannot starve small
ones; and where both lanes have somebody who could go in, they take turns, so that small ones cannot starve them either.

    ticket = line.enter(key, now_s, is_long=False)
    ...                                 # while its standing is WAITING; `wake` is called when that changes
    line.leave(ticket, now_s)           # exactly once, whatever has become of it
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

UNLIMITED = 1 << 62
FIRST_STAY_S = 1.0  # what expected waits are guessed by until somebody has left
STAY_WEIGHT = 1 / 8  # of the newest stay in the mean, as of the newest round trip in RFC 6298


class Standing(enum.Enum):
    WAITING = "in the line"
    INSIDE = "has a place"
    REFUSED = "the line was full"
    GONE = "has left"


def _nobody() -> None:
    pass


class Ticket:
    """One who has come. Whoever waits for a change of `standing` sets `wake`."""

    __slots__ = ("entered_s", "is_long", "key", "standing", "wake")

    def __init__(self, key: Hashable, *, is_long: bool) -> None:
        self.key = key
        self.is_long = is_long
        self.standing = Standing.WAITING
        self.entered_s = 0.0
        self.wake: Callable[[], None] = _nobody


class _Room:
    """Places, of which long ones may hold half. Where there is one place alone, whoever comes may have it."""

    __slots__ = ("_long_places", "_long_taken", "_taken", "places")

    def __init__(self, places: int) -> None:
        self.places = places
        self._long_places = max(1, places // 2)
        self._taken = 0
        self._long_taken = 0

    def has_place(self, ticket: Ticket) -> bool:
        if self._taken >= self.places:
            return False
        return not ticket.is_long or self._long_taken < self._long_places

    def take(self, ticket: Ticket) -> None:
        self._taken += 1
        self._long_taken += ticket.is_long

    def give(self, ticket: Ticket) -> None:
        self._taken -= 1
        self._long_taken -= ticket.is_long


class _Lane:
    """Those of one kind who wait, by key; the key whose turn comes next stands first.

    Coming and leaving cost the same however many wait. `find_next` passes over the keys that may have no more places.
    """

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, OrderedDict[Ticket, None]] = OrderedDict()

    def put(self, ticket: Ticket) -> None:
        self._keys.setdefault(ticket.key, OrderedDict())[ticket] = None

    def remove(self, ticket: Ticket) -> None:
        tickets = self._keys[ticket.key]
        del tickets[ticket]
        if not tickets:
            del self._keys[ticket.key]

    def end_turn(self, key: Hashable) -> None:
        """The other keys come before this one."""
        if key in self._keys:
            self._keys.move_to_end(key)

    def find_next(self, has_place: Callable[[Ticket], bool]) -> Ticket | None:
        for tickets in self._keys.values():
            ticket = next(iter(tickets))
            if has_place(ticket):
                return ticket
        return None

    def newest(self, key: Hashable) -> Ticket | None:
        tickets = self._keys.get(key)
        return None if tickets is None else next(reversed(tickets))


class Line:
    """`places` are there for all, `places_per_key` of them for each key; 0: no limit. `size` may wait at once."""

    def __init__(self, *, places: int, places_per_key: int, size: int) -> None:
        self._room = _Room(places or UNLIMITED)
        self._places_per_key = places_per_key or UNLIMITED
        self._rooms: dict[Hashable, _Room] = {}
        self._short_lane = _Lane()
        self._long_lane = _Lane()
        self._turns = [self._short_lane, self._long_lane]  # the one that was served last stands last
        self._size = size
        self._waiting: Counter[Hashable] = Counter()
        self._all_waiting = 0
        self._mean_stay_s = FIRST_STAY_S

    @property
    def waiting(self) -> int:
        return self._all_waiting

    def enter(self, key: Hashable, now_s: float, *, is_long: bool) -> Ticket:
        """INSIDE at once where there is a place, else WAITING; REFUSED where the line is full as well."""
        ticket = Ticket(key, is_long=is_long)
        if self._has_place(ticket):
            self._let_in(ticket, now_s)
        elif self._all_waiting < self._size or self._make_room(key):
            self._lane_of(ticket).put(ticket)
            self._waiting[key] += 1
            self._all_waiting += 1
        else:
            ticket.standing = Standing.REFUSED
        return ticket

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """Its place goes on to the next. Raises RuntimeError the second time, which would lend one place twice."""
        standing = ticket.standing
        ticket.standing = Standing.GONE
        if standing is Standing.INSIDE:
            self._mean_stay_s += STAY_WEIGHT * (now_s - ticket.entered_s - self._mean_stay_s)
            self._room.give(ticket)
            self._room_of(ticket.key).give(ticket)
            self._serve(now_s)
        elif standing is Standing.WAITING:
            self._take_out(ticket)
        elif standing is Standing.GONE:
            raise RuntimeError("this ticket has been given back already")

    def is_held_up_by_its_own(self, ticket: Ticket) -> bool:
        """Whether its key has all the places that one key may have."""
        return not self._room_of(ticket.key).has_place(ticket)

    def expected_wait_s(self, key: Hashable) -> float:
        """How long one more of this key would wait, by how long others stayed."""
        among_all = (self._all_waiting + 1) / self._room.places
        among_its_own = (self._waiting[key] + 1) / self._places_per_key
        return self._mean_stay_s * max(among_all, among_its_own)

    def _has_place(self, ticket: Ticket) -> bool:
        return self._room.has_place(ticket) and self._room_of(ticket.key).has_place(ticket)

    def _room_of(self, key: Hashable) -> _Room:
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = _Room(self._places_per_key)
        return room

    def _lane_of(self, ticket: Ticket) -> _Lane:
        return self._long_lane if ticket.is_long else self._short_lane

    def _let_in(self, ticket: Ticket, now_s: float) -> None:
        self._room.take(ticket)
        self._room_of(ticket.key).take(ticket)
        ticket.standing = Standing.INSIDE
        ticket.entered_s = now_s

    def _serve(self, now_s: float) -> None:
        """Let in whoever has a place now. These may be two: one that waited for its key's place, and a long one."""
        while (ticket := self._find_next()) is not None:
            self._take_out(ticket)
            self._end_turn(ticket)
            self._let_in(ticket, now_s)
            ticket.wake()

    def _find_next(self) -> Ticket | None:
        if not self._all_waiting:
            return None
        first, second = self._turns
        return first.find_next(self._has_place) or second.find_next(self._has_place)

    def _end_turn(self, ticket: Ticket) -> None:
        lane = self._lane_of(ticket)
        lane.end_turn(ticket.key)
        if lane is self._turns[0]:
            self._turns.reverse()

    def _make_room(self, key: Hashable) -> bool:
        """Refuse one of the key that has most in the line, for one of this key; False where that were no fairer. A long
        one goes first, and of these the newest."""
        crowd, count = max(self._waiting.items(), key=lambda item: item[1], default=(key, 0))
        if count <= self._waiting[key] + 1:
            return False
        ticket = self._long_lane.newest(crowd) or self._short_lane.newest(crowd)
        assert ticket is not None
        self._take_out(ticket)
        ticket.standing = Standing.REFUSED
        ticket.wake()
        return True

    def _take_out(self, ticket: Ticket) -> None:
        """Out of the line, wherever it goes."""
        self._lane_of(ticket).remove(ticket)
        self._all_waiting -= 1
        self._waiting[ticket.key] -= 1
        if not self._waiting[ticket.key]:
            del self._waiting[ticket.key]

"""Every policy by the rules for all; then each by its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.affinity import NO_CONVERSATION, Conversation
from qproxy.core.rotation import DEFAULT_POLICY, POLICIES
from qproxy.core.rotation.fill_first import FillFirst
from qproxy.core.rotation.least_in_flight import LeastInFlight
from qproxy.core.rotation.policy import Policy, Wish
from qproxy.core.rotation.round_robin import RoundRobin
from qproxy.core.rotation.sticky import Reason, Sticky


@dataclass
class Place:
    """An account as a policy sees it."""

    id: str
    in_flight: int = 0
    last_turn: int = 0


def places(ids: str) -> list[Place]:
    return [Place(each) for each in ids]


class Upstream:
    """Leases as the book gives them."""

    def __init__(self, policy: Policy, ids: str) -> None:
        self.policy = policy
        self.places = {each.id: each for each in places(ids)}
        self.turns = 0

    def lease(self, wish: Wish, usable: Iterable[str] | None = None) -> Place:
        candidates = [each for each in self.places.values() if usable is None or each.id in usable]
        chosen = self.policy.choose(candidates, wish)
        self.turns += 1
        chosen.last_turn = self.turns
        chosen.in_flight += 1
        return chosen

    def serve(self, wish: Wish, usable: Iterable[str] | None = None) -> str:
        """A request that ends before the next one comes."""
        chosen = self.lease(wish, usable)
        chosen.in_flight -= 1
        return chosen.id


def talk(*blocks: object, settled: int = 0) -> Wish:
    """The wish of a conversation whose text is these blocks."""
    hashes = tuple(hash(blocks[: at + 1]) for at in range(len(blocks)))
    return Wish("qwen", Conversation(hashes, settled))


WISHES = st.builds(talk, *[st.integers(0, 2)] * 3, settled=st.integers(0, 3)) | st.just(Wish())
PLACES = st.lists(
    st.builds(Place, st.sampled_from("abcdefgh"), st.integers(0, 9), st.integers(0, 99)),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.id,
)


def test_the_default_is_in_the_table() -> None:
    assert isinstance(POLICIES[DEFAULT_POLICY](), Sticky)


@pytest.mark.parametrize("name", POLICIES)
class TestEveryPolicy:
    @given(rounds=st.lists(st.tuples(PLACES, WISHES), max_size=8))
    def test_it_chooses_a_candidate_and_changes_none(self, name: str, rounds: list[tuple[list[Place], Wish]]) -> None:
        policy = POLICIES[name]()
        for candidates, wish in rounds:
            before = [Place(each.id, each.in_flight, each.last_turn) for each in candidates]
            chosen = policy.choose(candidates, wish)
            assert any(chosen is each for each in candidates)
            assert candidates == before

    @given(wishes=st.lists(WISHES, max_size=8))
    def test_it_counts_each_choice_once_or_none(self, name: str, wishes: list[Wish]) -> None:
        policy = POLICIES[name]()
        for wish in wishes:
            policy.choose(places("abc"), wish)
        counts = policy.counts()
        assert sum(counts.values()) == (len(wishes) if counts else 0)

    def test_it_says_whether_the_conversation_counts(self, name: str) -> None:
        """A policy that does not read it chooses the same without it."""
        if POLICIES[name]().reads_conversation:
            return
        upstreams = [Upstream(POLICIES[name](), "abc") for _ in range(2)]
        for block in (1, 1, 2, 1):
            assert upstreams[0].serve(talk(block)) == upstreams[1].serve(Wish())

    def test_each_upstream_has_its_own(self, name: str) -> None:
        assert POLICIES[name]() is not POLICIES[name]()


@pytest.mark.parametrize("name", ["round_robin", "least_in_flight"])
class TestNobodyStarves:
    @given(out=st.lists(st.sets(st.sampled_from("bcd")), max_size=30))
    def test_a_usable_account_waits_for_as_many_turns_as_there_are_others(self, name: str, out: list[set[str]]) -> None:
        """Account a is always usable; of the others, those in `out` are not."""
        upstream = Upstream(POLICIES[name](), "abcd")
        waited = 0
        for unusable in out:
            waited = 0 if upstream.serve(Wish(), set("abcd") - unusable) == "a" else waited + 1
            assert waited <= 3

    def test_all_get_the_same(self, name: str) -> None:
        upstream = Upstream(POLICIES[name](), "abcd")
        assert Counter(upstream.serve(Wish()) for _ in range(40)) == dict.fromkeys("abcd", 10)


def test_round_robin_goes_by_turns_whatever_is_in_flight() -> None:
    upstream = Upstream(RoundRobin(), "abc")
    upstream.places["b"].in_flight = 50
    assert [upstream.serve(Wish()) for _ in range(6)] == list("abcabc")


def test_round_robin_goes_on_with_an_account_that_comes_back() -> None:
    upstream = Upstream(RoundRobin(), "abc")
    assert [upstream.serve(Wish(), "ab") for _ in range(4)] == list("abab")
    assert [upstream.serve(Wish()) for _ in range(4)] == list("cabc")


@given(PLACES)
def test_least_in_flight(candidates: list[Place]) -> None:
    chosen = LeastInFlight().choose(candidates, Wish())
    assert chosen.in_flight == min(each.in_flight for each in candidates)
    assert chosen.last_turn == min(each.last_turn for each in candidates if each.in_flight == chosen.in_flight)


@given(PLACES)
def test_fill_first(candidates: list[Place]) -> None:
    assert FillFirst().choose(candidates, Wish()) is candidates[0]


class TestSticky:
    def test_a_conversation_that_grows_stays(self) -> None:
        upstream = Upstream(Sticky(), "abc")
        homes = {name: upstream.serve(talk(name)) for name in ("x", "y", "z")}
        assert set(homes.values()) == set("abc")
        for turn in range(5):
            for name, home in homes.items():
                assert upstream.serve(talk(name, *range(turn))) == home
        assert non_zero(upstream.policy) == {"new": 3, "hit": 15}

    def test_without_a_key_it_is_least_in_flight(self) -> None:
        upstream = Upstream(Sticky(), "abc")
        upstream.places["a"].in_flight = 1
        assert [upstream.serve(Wish("qwen", NO_CONVERSATION)) for _ in range(4)] == list("bcbc")
        assert non_zero(upstream.policy) == {"no_key": 4}

    def test_a_conversation_moves_for_good_when_its_account_cannot_be_used(self) -> None:
        upstream = Upstream(Sticky(), "abc")
        assert upstream.serve(talk("x", 1)) == "a"
        assert [upstream.serve(talk("x", 1), "bc") for _ in range(3)] == list("bbb")
        assert upstream.serve(talk("x", 1)) == "b"
        assert upstream.serve(talk("x", 1, 2)) == "b"
        assert non_zero(upstream.policy) == {"new": 1, "account_unavailable": 1, "hit": 4}

    def test_a_crowded_account_spills(self) -> None:
        upstream = Upstream(Sticky(), "abc")
        assert upstream.serve(talk("opening", 0)) == "a"
        upstream.places["a"].in_flight = 4  # ceil(1.25 * 4 / 3) + 1 = 3
        assert upstream.serve(talk("opening", 0, "mine")) == "b"
        assert upstream.serve(talk("opening", 0, "mine", "more")) == "b"
        assert non_zero(upstream.policy) == {"new": 1, "spilled": 1, "hit": 1}

    def test_a_spilled_conversation_at_its_full_length_stays_where_it_spilled_to(self) -> None:
        upstream = Upstream(Sticky(), "abc")
        assert upstream.serve(talk("opening", "mine")) == "a"
        upstream.places["a"].in_flight = 4
        assert [upstream.serve(talk("opening", "mine")) for _ in range(3)] == list("bbb")
        upstream.places["a"].in_flight = 0
        assert upstream.serve(talk("opening", "yours")) == "a"

    def test_at_the_bound_it_does_not_spill(self) -> None:
        upstream = Upstream(Sticky(), "abc")
        assert upstream.serve(talk("opening")) == "a"
        upstream.places["a"].in_flight = 3
        assert upstream.serve(talk("opening")) == "a"

    @given(st.integers(2, 5), st.integers(1, 60))
    def test_an_opening_that_all_share_stays_within_the_bound(self, accounts: int, users: int) -> None:
        upstream = Upstream(Sticky(), "abcde"[:accounts])
        for user in range(users):
            upstream.lease(talk(*range(20), user, settled=20))
            total = sum(place.in_flight for place in upstream.places.values())
            bound = -(-5 * total // (4 * accounts)) + 2
            assert max(place.in_flight for place in upstream.places.values()) <= bound

    def test_another_beginning_is_no_reason_to_stay(self) -> None:
        """A time of day at the start of a long system prompt: next to nothing of it is cached anywhere."""
        upstream = Upstream(Sticky(), "ab")
        assert upstream.serve(talk("agent", "12:01", *range(10), settled=12)) == "a"
        assert upstream.serve(talk("agent", "12:02", *range(10), settled=12)) == "b"
        assert non_zero(upstream.policy) == {"new": 1, "changed_prefix": 1}

    def test_another_end_is_no_reason_to_go(self) -> None:
        """A history that was edited near its end."""
        upstream = Upstream(Sticky(), "ab")
        assert upstream.serve(talk(*range(10), "before", settled=11)) == "a"
        assert upstream.serve(talk(*range(10), "behind", settled=11)) == "a"

    def test_fields_behind_the_messages_are_no_change(self) -> None:
        """Blocks of tools follow the first two; they are not settled."""
        upstream = Upstream(Sticky(), "ab")
        assert upstream.serve(talk("x", "y", *"tools" * 4, settled=1)) == "a"
        assert upstream.serve(talk("x", "y", "z", *"tools" * 4, settled=2)) == "a"
        assert non_zero(upstream.policy) == {"new": 1, "hit": 1}

    def test_what_had_to_make_room_has_expired(self) -> None:
        upstream = Upstream(Sticky(remembered_blocks=8), "ab")
        upstream.serve(talk("x"))
        for other in range(7):
            upstream.serve(talk(other))
        upstream.serve(talk("x"))
        assert non_zero(upstream.policy) == {"new": 8, "expired": 1}

    def test_every_reason_has_its_count_from_the_start(self) -> None:
        assert Sticky().counts() == dict.fromkeys((reason.value for reason in Reason), 0)


def non_zero(policy: Policy) -> dict[str, int]:
    return {reason: count for reason, count in policy.counts().items() if count}

"""Leases that come back, accounts that come and go, and what each standing means for them."""

from __future__ import annotations

import pytest

from qproxy.core.account import AccountBook, AccountKind, Standing, Wish
from qproxy.core.affinity import Conversation
from qproxy.core.classify import GOOD
from qproxy.core.rotation import POLICIES
from qproxy.errors import DownstreamError, InternalError
from tests.support.account_books import (
    AUTH,
    BILLING,
    DAILY,
    NOON_S,
    QUOTA,
    QWEN,
    RATE,
    UP,
    book_of,
    fall,
    named,
    refused,
    use,
    view,
)


class TestLeases:
    def test_a_lease_is_in_flight_until_it_is_back(self) -> None:
        book = book_of("a")
        lease = book.lease(UP, QWEN, NOON_S)
        assert (lease.upstream, lease.account_id, lease.model) == (UP, "a", "qwen")
        assert view(book, "a").in_flight == 1
        lease.give_back()
        assert view(book, "a").in_flight == 0
        assert view(book, "a").leases == 1

    def test_it_comes_back_once(self) -> None:
        book = book_of("a")
        lease = book.lease(UP, QWEN, NOON_S)
        lease.give_back()
        with pytest.raises(RuntimeError):
            lease.give_back()
        assert view(book, "a").in_flight == 0

    def test_it_comes_back_when_the_attempt_breaks_off(self) -> None:
        book = book_of("a", "b")
        with pytest.raises(KeyError), book.lease(UP, QWEN, NOON_S):
            raise KeyError
        assert [each.in_flight for each in book.views(NOON_S)] == [0, 0]

    def test_the_policy_chooses_among_several(self) -> None:
        book = book_of("a", "b")
        assert [book.lease(UP, QWEN, NOON_S).account_id for _ in range(4)] == ["a", "b", "a", "b"]

    def test_the_policy_learns_of_a_choice_among_one(self) -> None:
        """Where the others cannot be used, sticky remembers where the conversation is now."""
        book = book_of("a", "b", policy="sticky")
        talk = Wish("qwen", Conversation((1, 2)))
        assert use(book, RATE, wish=talk) == "a"
        assert use(book, GOOD, wish=talk) == "b"
        assert use(book, GOOD, NOON_S + 61, talk) == "b"
        assert book.policy_counts(UP)["account_unavailable"] == 1

    @pytest.mark.parametrize(("policy", "expected"), [("sticky", True), ("round_robin", False)])
    def test_the_conversation_is_read_where_it_decides(self, policy: str, expected: bool) -> None:
        book = book_of("a", policy=policy)
        assert not book.reads_conversation(UP)
        assert not book.reads_conversation("nowhere")
        book.add(UP, "b", AccountKind.OAUTH)
        assert book.reads_conversation(UP) is expected
        book.retire(UP, "a")
        assert not book.reads_conversation(UP)

    def test_an_account_with_as_many_as_it_may_have_is_passed_over(self) -> None:
        book = AccountBook(lambda _: POLICIES["fill_first"](), places={UP: 2})
        for account in ("a", "b"):
            book.add(UP, account, AccountKind.API_KEY)
        leases = [book.lease(UP, QWEN, NOON_S) for _ in range(4)]
        assert [each.account_id for each in leases] == ["a", "a", "b", "b"]
        for wish in (QWEN, named("a")):
            with pytest.raises(InternalError) as caught:
                book.lease(UP, wish, NOON_S)
            assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1)
        leases[1].give_back()
        assert book.lease(UP, named("a"), NOON_S).account_id == "a"

    def test_also_a_lone_one(self) -> None:
        book = AccountBook(places={UP: 1})
        book.add(UP, "a", AccountKind.API_KEY)
        with book.lease(UP, QWEN, NOON_S), pytest.raises(InternalError):
            book.lease(UP, QWEN, NOON_S)
        assert view(book, "a").in_flight == 0
        book.add("other", "a", AccountKind.API_KEY)
        assert [book.lease("other", QWEN, NOON_S).account_id for _ in range(3)] == ["a"] * 3

    def test_a_question_of_our_own_goes_beside_the_limit(self) -> None:
        book = AccountBook(places={UP: 1})
        book.add(UP, "a", AccountKind.API_KEY)
        with book.lease(UP, QWEN, NOON_S), book.lease(UP, Wish(needs_place=False), NOON_S):
            assert view(book, "a").in_flight == 2
        assert view(book, "a").in_flight == 0

    def test_one_that_is_out_is_not_busy(self) -> None:
        """Waiting for its requests would not help."""
        book = AccountBook(lambda _: POLICIES["fill_first"](), places={UP: 1})
        for account in ("a", "b"):
            book.add(UP, account, AccountKind.API_KEY)
            assert use(book, RATE) == account
        assert refused(book).code == "all_accounts_limited"

    def test_upstreams_do_not_know_each_other(self) -> None:
        book = book_of("a")
        book.add("other", "a", AccountKind.API_KEY)
        book.lease("other", QWEN, NOON_S)
        assert [(each.upstream, each.in_flight) for each in book.views(NOON_S)] == [(UP, 0), ("other", 1)]

    def test_the_default_account_comes_first(self) -> None:
        book = book_of("a", "default", "b", policy="fill_first")
        assert [each.account_id for each in book.views(NOON_S)] == ["default", "a", "b"]
        assert use(book, GOOD) == "default"

    def test_the_policy_is_made_for_its_upstream(self) -> None:
        policies = {UP: POLICIES["sticky"](), "other": POLICIES["round_robin"]()}
        book = AccountBook(policies.pop)
        for upstream, account_id in ((UP, "a"), ("other", "a"), (UP, "b")):
            book.add(upstream, account_id, AccountKind.OAUTH)
        use(book, GOOD)
        assert book.policy_counts(UP)["no_key"] == 1
        assert book.policy_counts("other") == {}
        assert book.policy_counts("nowhere") == {}


class TestTheNamedAccount:
    def test_it_is_the_one(self) -> None:
        book = book_of("a", "b")
        assert [use(book, GOOD, wish=named("b")) for _ in range(3)] == ["b"] * 3

    def test_also_where_it_is_the_only_one(self) -> None:
        assert use(book_of("a"), GOOD, wish=named("a")) == "a"

    def test_no_other_takes_its_place(self) -> None:
        book = book_of("a", "b")
        use(book, RATE, wish=named("b"))
        error = refused(book, named("b"))
        assert (error.code, error.retry_after_s) == ("all_accounts_limited", 60)
        assert use(book, GOOD, wish=named("a")) == "a"

    @pytest.mark.parametrize("ids", [["a"], ["a", "b"]])
    def test_an_unknown_one(self, ids: list[str]) -> None:
        with pytest.raises(DownstreamError) as caught:
            book_of(*ids).lease(UP, named("nobody"), NOON_S)
        assert (caught.value.code, caught.value.kind.status) == ("unknown_account", 400)
        assert "nobody" not in caught.value.message

    def test_a_retired_one_is_unknown(self) -> None:
        book = book_of("a", "b")
        book.lease(UP, named("b"), NOON_S)
        book.retire(UP, "b")
        with pytest.raises(DownstreamError):
            book.lease(UP, named("b"), NOON_S)


class TestRetiring:
    def test_an_idle_account_is_gone(self) -> None:
        book = book_of("a", "b")
        book.retire(UP, "a")
        assert [each.account_id for each in book.views(NOON_S)] == ["b"]

    def test_one_in_use_is_gone_with_its_last_lease(self) -> None:
        book = book_of("a", "b")
        leases = [book.lease(UP, named("a"), NOON_S) for _ in range(2)]
        book.retire(UP, "a")
        book.retire(UP, "a")
        assert [each.account_id for each in book.views(NOON_S)] == ["b", "a"]
        assert view(book, "a").retired
        leases[0].give_back()
        assert view(book, "a").in_flight == 1
        book.note(leases[1], RATE, NOON_S)
        leases[1].give_back()
        assert [each.account_id for each in book.views(NOON_S)] == ["b"]

    def test_it_is_not_leased(self) -> None:
        book = book_of("a", "b")
        book.lease(UP, named("a"), NOON_S)
        book.retire(UP, "a")
        assert {use(book, GOOD) for _ in range(4)} == {"b"}

    def test_it_comes_back_with_its_leases(self) -> None:
        book = book_of("a")
        lease = book.lease(UP, QWEN, NOON_S)
        book.retire(UP, "a")
        book.add(UP, "a", AccountKind.OAUTH)
        assert view(book, "a").in_flight == 1
        lease.give_back()
        assert not view(book, "a").retired
        assert use(book, GOOD) == "a"

    def test_what_is_not_there_is_gone_already(self) -> None:
        book = book_of("a")
        book.retire(UP, "b")
        book.retire("nowhere", "a")
        assert len(book.views(NOON_S)) == 1

    def test_the_last_one(self) -> None:
        book = book_of("a")
        book.retire(UP, "a")
        assert refused(book).code == "no_healthy_account"

    def test_what_is_left_alone_is_a_lone_account(self) -> None:
        book = book_of("a", "b")
        use(book, BILLING, wish=named("a"))
        book.retire(UP, "b")
        assert use(book, GOOD) == "a"


class TestTrouble:
    @pytest.mark.parametrize("standing", [Standing.LOGIN_NEEDED, Standing.CLOSED])
    def test_an_account_in_trouble_is_not_leased_until_it_recovers(self, standing: Standing) -> None:
        book = book_of("a", "b")
        fall(book, "a", standing)
        assert {use(book, GOOD) for _ in range(3)} == {"b"}
        assert view(book, "a", NOON_S + 5).standing is standing
        assert (view(book, "a").since_s, view(book, "a").message) == (NOON_S, "what mends it")
        book.recover(UP, "a")
        assert view(book, "a").standing is Standing.READY
        assert use(book, GOOD, wish=named("a")) == "a"

    @pytest.mark.parametrize("kind", AccountKind)
    def test_a_success_of_an_earlier_request_mends_nothing(self, kind: AccountKind) -> None:
        book = book_of("a", kind=kind)
        early = book.lease(UP, QWEN, NOON_S)
        fall(book, "a", Standing.CLOSED)
        book.note(early, GOOD, NOON_S)
        assert view(book, "a").standing is Standing.CLOSED

    def test_recovering_forgets_what_the_old_credential_had_to_wait_for(self) -> None:
        book = book_of("a", "b")
        use(book, QUOTA, wish=named("a"))
        book.close_account(UP, "a", "", NOON_S)
        book.recover(UP, "a")
        assert use(book, QUOTA, NOON_S + 61, named("a")) == "a"
        assert view(book, "a", NOON_S + 61).cooling[0].remaining_s == 60

    def test_recovering_without_trouble_changes_nothing(self) -> None:
        book = book_of("a", "b")
        use(book, BILLING, wish=named("a"))
        book.recover(UP, "a")
        assert view(book, "a").standing is Standing.COOLING

    def test_an_account_that_is_gone_has_no_trouble(self) -> None:
        book = book_of("a")
        book.retire(UP, "a")
        fall(book, "a", Standing.CLOSED)
        book.login_needed("nowhere", "a", "", NOON_S)
        book.recover(UP, "a")
        assert book.views(NOON_S) == []


class TestALoneAccount:
    @pytest.mark.parametrize("kind", AccountKind)
    @pytest.mark.parametrize("wish", [QWEN, named("a")])
    def test_cool_downs_do_not_refuse_it(self, kind: AccountKind, wish: Wish) -> None:
        book = book_of("a", kind=kind)
        for outcome in (RATE, BILLING, DAILY):
            assert use(book, outcome, wish=wish) == "a"
        assert use(book, RATE, wish=wish) == "a"
        assert view(book, "a").standing is Standing.COOLING

    @pytest.mark.parametrize("standing", [Standing.LOGIN_NEEDED, Standing.CLOSED])
    def test_a_login_in_trouble_is_refused(self, standing: Standing) -> None:
        book = book_of("a")
        fall(book, "a", standing)
        assert refused(book).code == "no_healthy_account"
        book.recover(UP, "a")
        assert use(book, GOOD) == "a"

    def test_a_closed_key_is_used_so_that_the_upstream_says_why(self) -> None:
        book = book_of("a", kind=AccountKind.API_KEY)
        fall(book, "a", Standing.CLOSED)
        assert use(book, AUTH) == "a"
        assert view(book, "a").standing is Standing.CLOSED
        use(book, GOOD)
        assert view(book, "a").standing is Standing.READY

    def test_a_second_account_takes_its_privilege(self) -> None:
        book = book_of("a")
        use(book, BILLING)
        book.add(UP, "b", AccountKind.OAUTH)
        assert {use(book, GOOD) for _ in range(3)} == {"b"}

    def test_it_is_tried_once_in_a_request(self) -> None:
        assert refused(book_of("a"), Wish("qwen", tried={"a"})).code == "all_accounts_limited"

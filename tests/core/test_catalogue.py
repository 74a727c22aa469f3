"""Model lists: reading what upstreams send, merging, rendering, finding, and when to ask again."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.catalogue import (
    ListingCache,
    ModelEntry,
    built_in_listing,
    find,
    merge,
    model_not_found,
    parse_listing,
    render,
    render_one,
)
from qproxy.errors import UpstreamError

BROKEN = UpstreamError("upstream_closed", "gone")


def entries(upstream: str, *ids: str) -> list[ModelEntry]:
    return parse_listing(orjson.dumps({"object": "list", "data": [{"id": model} for model in ids]}), upstream)


def ids(listing: list[ModelEntry]) -> list[str]:
    return [entry.id for entry in listing]


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"list","data":[{"id":"a"},{"id":"b"}]}',
        b'{"data":[{"id":"a","object":"model"},{"id":"b"}],"first_id":"a","has_more":false}',
        b'[{"id":"a"},{"id":"b"}]',
        b'{"data":[{"id":"a"},{"name":"c"},{"id":7},{"id":""},null,"x",[],{"id":"b"}]}',
        b'[{"id":"a"},{"id":"c","x":' + b"[" * 252 + b"]" * 252 + b'},{"id":"b"}]',
    ],
)
def test_lists_of_different_servers_are_read(body: bytes) -> None:
    listing = parse_listing(body, "mine")
    assert ids(listing) == ["a", "b"]
    assert all(entry.upstream == "mine" and not entry.built_in for entry in listing)
    assert render(listing)


@pytest.mark.parametrize("body", [b'{"data":[]}', b'{"data":null}', b"[]"])
def test_an_empty_list_is_a_list(body: bytes) -> None:
    assert parse_listing(body, "mine") == []


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b'"x"', b"7", b'{"error":{"message":"no"}}', b'{"data":{}}', b'{"data":7}']
)
def test_anything_else_is_an_error_that_names_the_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamError, match="upstream mine is no OpenAI model list") as caught:
        parse_listing(body, "mine")
    assert caught.value.code == "upstream_protocol_error"


def test_the_upstreams_own_object_passes_with_its_extra_keys() -> None:
    theirs = {"id": "a", "object": "model", "created": 5, "owned_by": "vllm", "max_model_len": 40960, "root": None}
    (entry,) = parse_listing(orjson.dumps([theirs]), "mine")
    assert orjson.loads(render_one(entry)) == theirs | {"qproxy": {"upstream": "mine"}}


def test_what_openai_clients_require_is_filled_in() -> None:
    body = b'{"data":[{"id":"a"},{"id":"b","object":null,"created":null,"owned_by":null,"qproxy":"theirs"}]}'
    listing = orjson.loads(render(parse_listing(body, "mine")))
    required = {"object": "model", "created": 0, "owned_by": "mine", "qproxy": {"upstream": "mine"}}
    assert listing == {"object": "list", "data": [{"id": "a"} | required, {"id": "b"} | required]}


def test_a_built_in_entry_is_marked() -> None:
    (entry,) = built_in_listing(["coder-model"], "qwen-oauth")
    assert orjson.loads(render_one(entry))["qproxy"] == {"upstream": "qwen-oauth", "built_in": True}


def test_the_first_configured_upstream_keeps_an_equal_id() -> None:
    merged = merge([entries("one", "a", "b"), entries("two", "b", "c"), entries("three", "b")])
    assert ids(merged) == ["a", "b", "two:b", "c", "three:b"]
    assert [entry.upstream for entry in merged] == ["one", "one", "two", "two", "three"]
    assert orjson.loads(render(merged))["data"][2]["id"] == "two:b"


def test_an_upstream_that_repeats_itself_is_listed_once() -> None:
    assert ids(merge([entries("one", "a", "a")])) == ["a"]


def test_a_listed_id_is_not_replaced_by_one_that_merging_makes_up() -> None:
    merged = merge([entries("one", "b", "two:b"), entries("two", "b")])
    assert [(entry.id, entry.upstream) for entry in merged] == [("b", "one"), ("two:b", "one")]


def test_merging_nothing() -> None:
    assert merge([]) == []
    assert orjson.loads(render([])) == {"object": "list", "data": []}


@pytest.mark.parametrize(
    ("model", "upstream", "own_id"),
    [
        ("a", "one", "a"),
        ("b", "one", "b"),
        ("two:b", "two", "b"),
        ("one:b", "one", "b"),
        ("two:qwen3:8b", "two", "qwen3:8b"),
        ("qwen3:8b", "two", "qwen3:8b"),
    ],
)
def test_a_model_is_found_by_its_id_or_with_its_upstream(model: str, upstream: str, own_id: str) -> None:
    found = find(merge([entries("one", "a", "b"), entries("two", "b", "qwen3:8b")]), model)
    assert found is not None
    assert (found.upstream, found.own_id) == (upstream, own_id)


@pytest.mark.parametrize("model", ["", "A", "c", "one:c", "three:a", "one:", ":a", "one:one:a"])
def test_an_unknown_model_is_not_found(model: str) -> None:
    assert find(merge([entries("one", "a", "b")]), model) is None


def test_the_error_for_an_unknown_model_names_the_nearest() -> None:
    error = model_not_found(entries("one", "qwen3-coder-plus", "qwen3-max", "text-embedding-v4"), "qwen3-coder-pluss")
    assert (error.code, error.kind.status, error.param) == ("model_not_found", 404, "model")
    assert "qwen3-coder-plus" in error.message
    assert "text-embedding-v4" not in error.message


def test_the_error_for_a_far_off_model_is_short() -> None:
    error = model_not_found(entries("one", "a"), "x" * 5000)
    assert "GET /v1/models" in error.message
    assert len(error.message) < 300


@given(st.lists(st.tuples(st.sampled_from("uvw"), st.lists(st.sampled_from(["a", "b", "u:a", "v:b", "v:"])))))
def test_every_model_of_a_merged_list_has_its_own_id_and_is_found_by_it(
    configured: list[tuple[str, list[str]]],
) -> None:
    unique = dict(configured)
    merged = merge([entries(upstream, *models) for upstream, models in unique.items()])
    assert len(set(ids(merged))) == len(merged)
    for entry in merged:
        assert find(merged, entry.id) is entry
    offered = {entry.id for entry in merged}
    assert offered >= {model for models in unique.values() for model in models}


@given(
    st.dictionaries(
        st.sampled_from(["id", "object", "created", "owned_by", "qproxy", "x"]),
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.lists(st.integers(0, 9)),
    )
)
def test_whatever_an_upstream_says_of_a_model_can_be_rendered(theirs: dict[str, object]) -> None:
    for entry in parse_listing(orjson.dumps([theirs]), "mine"):
        ours = orjson.loads(render_one(entry))
        assert ours["id"] == theirs["id"]
        assert None not in (ours["object"], ours["created"], ours["owned_by"])
        assert ours["qproxy"] == {"upstream": "mine"}
        assert ours.get("x") == theirs.get("x")


def test_an_upstream_that_was_never_asked_is_due() -> None:
    standing = ListingCache(lifetime_s=60, failure_s=5).standing("mine", now=0)
    assert (standing.entries, standing.is_due, standing.error) == (None, True, None)


def test_a_list_is_fresh_for_its_lifetime_and_kept_beyond() -> None:
    cache = ListingCache(lifetime_s=60, failure_s=5)
    cache.store("mine", entries("mine", "a"), now=100)
    assert not cache.standing("mine", now=159).is_due
    stale = cache.standing("mine", now=160)
    assert stale.is_due
    assert stale.entries == tuple(entries("mine", "a"))


def test_a_failing_upstream_is_left_alone_for_a_while_and_its_stale_list_served() -> None:
    cache = ListingCache(lifetime_s=60, failure_s=5)
    cache.store("mine", entries("mine", "a"), now=0)
    cache.fail("mine", BROKEN, now=70)
    held = cache.standing("mine", now=74)
    assert (held.is_due, held.error) == (False, BROKEN)
    assert held.entries == tuple(entries("mine", "a"))
    assert cache.standing("mine", now=75).is_due


def test_a_failure_before_any_list_leaves_nothing_to_serve() -> None:
    cache = ListingCache(lifetime_s=60, failure_s=5)
    cache.fail("mine", BROKEN, now=0)
    standing = cache.standing("mine", now=1)
    assert (standing.entries, standing.is_due, standing.error) == (None, False, BROKEN)
    assert cache.standing("other", now=1).is_due


def test_a_success_ends_a_failure() -> None:
    cache = ListingCache(lifetime_s=60, failure_s=5)
    cache.fail("mine", BROKEN, now=0)
    cache.store("mine", [], now=6)
    standing = cache.standing("mine", now=7)
    assert (standing.entries, standing.is_due, standing.error) == ((), False, None)

"""Shares of the prompt cache, and what broke it."""

from __future__ import annotations

import json

import pytest

from qproxy.core import prompt_cache
from qproxy.core.prompt_blocks import Blocks, blocks_of
from qproxy.core.prompt_cache import WARM_S, CacheKey, CacheShares, CacheWatch, Share
from qproxy.core.usage import Usage

HERE = CacheKey("dashscope", "key-1", "qwen3-max")
COLD, WARM = Usage(10_000, cached_tokens=0), Usage(12_000, cached_tokens=9_900)
SYSTEM = ("system", "It is 12:00.")
LATER = ("system", "It is 12:01.")
ASKED = ("user", "Hi")
ANSWERED = ("assistant", "Hello")


def blocks(*messages: tuple[str, str]) -> Blocks:
    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    found = blocks_of(json.dumps(body).encode(), b"k")
    assert found is not None
    return found


ONE, TWO = blocks(SYSTEM, ASKED), blocks(SYSTEM, ASKED, ANSWERED, ASKED)
BROKEN, BROKEN_AGAIN = blocks(LATER, ASKED, ANSWERED, ASKED), blocks(("system", "12:02"), ASKED, ANSWERED, ASKED)


@pytest.fixture
def watch() -> CacheWatch:
    """It knows that caching happens here, and the first request of a conversation."""
    watch = CacheWatch()
    assert watch.see(HERE, blocks(("user", "another")), WARM, 0.0) == ""
    assert watch.see(HERE, ONE, COLD, 0.0) == ""
    return watch


def test_a_hit_needs_no_words(watch: CacheWatch) -> None:
    assert watch.see(HERE, TWO, WARM, 10.0) == ""
    assert watch.share(HERE, TWO) == pytest.approx(0.825)


def test_a_miss_names_what_changed(watch: CacheWatch) -> None:
    assert watch.see(HERE, BROKEN, COLD, 10.0) == "message 0 (system) changed"


def test_it_is_said_once_until_the_cache_works_again(watch: CacheWatch) -> None:
    watch.see(HERE, BROKEN, COLD, 10.0)
    assert watch.see(HERE, BROKEN_AGAIN, COLD, 20.0) == ""
    assert watch.see(HERE, BROKEN_AGAIN, WARM, 30.0) == ""
    assert watch.see(HERE, BROKEN, COLD, 40.0) == "message 0 (system) changed"


def test_a_block_rounded_down_is_no_miss(watch: CacheWatch) -> None:
    assert watch.see(HERE, BROKEN, Usage(12_000, cached_tokens=5_000), 10.0) == ""
    assert watch.see(HERE, BROKEN_AGAIN, Usage(12_000, cached_tokens=5_999), 20.0) != ""


def test_a_conversation_that_slept_has_no_cache(watch: CacheWatch) -> None:
    assert watch.see(HERE, BROKEN, COLD, WARM_S + 1) == ""


def test_a_short_prompt_has_none() -> None:
    watch = CacheWatch()
    watch.see(HERE, ONE, Usage(1_000, cached_tokens=10), 0.0)
    assert watch.see(HERE, BROKEN, COLD, 1.0) == ""


def test_where_nothing_was_ever_cached_nothing_is_missed() -> None:
    watch = CacheWatch()
    watch.see(HERE, ONE, COLD, 0.0)
    assert watch.see(HERE, BROKEN, COLD, 1.0) == ""


def test_a_conversation_that_was_cut_or_began_anew(watch: CacheWatch) -> None:
    watch.see(HERE, TWO, WARM, 1.0)
    assert watch.see(HERE, blocks(LATER, ASKED), COLD, 2.0) == ""


def test_a_cache_that_forgot_is_nobodys_fault(watch: CacheWatch) -> None:
    assert watch.see(HERE, TWO, COLD, 10.0) == ""


def test_another_account_has_another_cache(watch: CacheWatch) -> None:
    assert watch.see(HERE._replace(account="key-2"), TWO, COLD, 10.0) == "another account answered"


def test_another_model_is_another_matter(watch: CacheWatch) -> None:
    assert watch.see(HERE._replace(model="qwen-plus"), BROKEN, COLD, 10.0) == ""


def test_conversations_are_bounded(watch: CacheWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "MOST_CONVERSATIONS", 2)
    for number in range(5):
        watch.see(HERE, blocks(("user", str(number))), COLD, 1.0)
    assert watch.share(HERE, ONE) is None
    assert watch.see(HERE, BROKEN, COLD, 2.0) == ""


def test_shares_are_sums_by_model_and_account(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = CacheShares()
    shares.add(HERE, COLD)
    shares.add(HERE, WARM)
    assert shares.rows() == {HERE: Share(2, 22_000, 9_900)}
    monkeypatch.setattr(prompt_cache, "MOST_SHARES", 2)
    for account in "abc":
        shares.add(HERE._replace(account=account), COLD)
    assert [key.account for key in shares.rows()] == ["b", "c"]

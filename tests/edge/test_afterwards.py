"""What is learned when an answer has gone down: ratios that outlive a restart, cached shares, broken prompt caches."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from qproxy.cli.token_ratio import learned_ratio, ratio_line
from qproxy.core.prompt_cache import CacheKey
from qproxy.core.token_ratio import MOST_MODELS, RatioRow
from qproxy.core.usage import Usage
from qproxy.edge import prompt_watch
from qproxy.edge.prompt_watch import Prompt, PromptWatch
from qproxy.edge.state_file import FILE_NAME, MIGRATIONS, open_state_file, read_ratios
from qproxy.edge.store import Store
from tests.support.backends import CHAT, JSON, LONG_BYTES, backend, proxy_before
from tests.support.raw_client import post, raw_client, request_head
from tests.support.scripted_upstream import answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.backends import Backend

LOGGER = "qproxy.edge.prompt_watch"
PATIENCE_S = 20.0
ROW = RatioRow("m", 3.5, 7, 1.25, 2)


def good(prompt_tokens: int, cached_tokens: int = 0) -> bytes:
    details = {"prompt_tokens_details": {"cached_tokens": cached_tokens}}
    return answer(200, [JSON], orjson.dumps({"usage": {"prompt_tokens": prompt_tokens, "total_tokens": 0, **details}}))


def talk(system: str, *more: str, padding: int = 4_000) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content} for index, content in enumerate(("Hi", *more))]
    return orjson.dumps(
        {"model": "m", "messages": [{"role": "system", "content": system + "x" * padding}, *messages], "user": "me"}
    )


async def ask(folder: Path, toml: str, upstream: Backend, *bodies: bytes, path: str = CHAT) -> None:
    async with proxy_before(folder, toml, only=upstream) as proxy, raw_client(proxy.url) as client:
        for body in bodies:
            assert (await client.ask(post(path, body))).status == 200
        watch = proxy.app.afterwards._watch
        if watch is not None:
            assert await anyio.to_thread.run_sync(watch.flush, PATIENCE_S)


@pytest.mark.anyio
class TestRatios:
    @pytest.mark.parametrize("padding", [4_000, LONG_BYTES], ids=["stored", "long"])
    async def test_they_are_learned_and_outlive_a_restart(self, tmp_path: Path, padding: int) -> None:
        body = talk("", padding=padding)
        tokens = len(body) // 3
        state = tmp_path / "state"
        toml = f'state_dir = "{state}"\n'
        for requests in (1, 2):
            async with backend(good(tokens)) as only:
                await ask(tmp_path, toml, only, body)
            (row,) = read_ratios(state)
            assert row == RatioRow("m", pytest.approx(len(body) / tokens), requests)  # type: ignore[arg-type]
        assert ratio_line(learned_ratio(state, "m")) == ("3.00 bytes of a request a token, learned from 2 requests")

    async def test_other_paths_teach_nothing(self, tmp_path: Path) -> None:
        async with backend(good(1_000)) as only:
            await ask(tmp_path, f'state_dir = "{tmp_path}/state"\n', only, talk(""), path="/v1/responses")
        assert read_ratios(tmp_path / "state") == []

    async def test_the_timeout_speaks_of_the_tokens_that_there_are(self, tmp_path: Path) -> None:
        body = talk("", padding=8_000)
        silent = anyio.Event()
        async with backend(good(len(body) // 2), [lambda _: silent.wait()]) as only:
            clocks = {"first_byte_stream_s": 0.05, "first_byte_per_100k_tokens_s": 0.0}  # a plain answer has its time
            async with proxy_before(tmp_path, timeouts=clocks, only=only) as proxy, raw_client(proxy.url) as client:
                assert (await client.ask(post(CHAT, body))).status == 200
                got = await client.ask(post(CHAT, body[:-1] + b',"stream":true}'))
        assert got.status == 504
        assert b"of about 4,0" in got.body or b"of about 4,1" in got.body


class TestTheStateFile:
    def test_rows_replace_older_ones_of_the_same_model(self, tmp_path: Path) -> None:
        with closing(open_state_file(tmp_path)) as file:
            file.write([], None, [ROW, ROW._replace(model="n")])
            file.write([], None, [ROW._replace(requests=8)])
        assert read_ratios(tmp_path) == [ROW._replace(model="n"), ROW._replace(requests=8)]

    def test_the_newest_are_kept(self, tmp_path: Path) -> None:
        rows = [ROW._replace(model=f"m{number}") for number in range(MOST_MODELS + 5)]
        with closing(open_state_file(tmp_path)) as file:
            file.write([], None, rows)
            file.write([], None, rows[:1])
        kept = read_ratios(tmp_path)
        assert len(kept) == MOST_MODELS
        assert kept[-2:] == [rows[-1], rows[0]]

    def test_a_file_of_an_older_version_gets_the_table(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
            for statement in MIGRATIONS[0]:
                connection.execute(statement)
            connection.execute("PRAGMA user_version = 1")
        with closing(open_state_file(tmp_path)) as file:
            assert file.ratios == []
            file.write([], None, [ROW])
        with closing(open_state_file(tmp_path)) as file:
            assert file.ratios == [ROW]

    def test_without_a_file(self, tmp_path: Path) -> None:
        assert read_ratios(tmp_path / "nowhere") == []
        assert learned_ratio(None, "m") == learned_ratio(tmp_path / "nowhere", "m") == RatioRow("m")

    def test_a_file_that_cannot_be_read_says_nothing(self, tmp_path: Path) -> None:
        (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
        assert learned_ratio(tmp_path, "m") == RatioRow("m")

    def test_a_name_that_is_no_utf8(self, tmp_path: Path) -> None:
        with closing(open_state_file(tmp_path)) as file:
            file.write([], None, [ROW._replace(model="\ud800")])
        assert read_ratios(tmp_path) == [ROW._replace(model="?")]

    @pytest.mark.anyio
    async def test_the_store_keeps_the_latest(self, tmp_path: Path) -> None:
        async with Store(tmp_path, write_every_s=1_000.0) as store:
            assert store.load_ratios() == []
            store.save_ratios([ROW])
            store.save_ratios([ROW._replace(requests=9)])
        async with Store(tmp_path, write_every_s=1_000.0) as store:
            assert store.load_ratios() == [ROW._replace(requests=9)]


def test_what_a_line_says() -> None:
    assert ratio_line(RatioRow("m")) == "4 bytes of a request a token, assumed: no request has taught better"
    assert ratio_line(ROW._replace(requests=1)) == (
        "3.50 bytes of a request a token, learned from 1 request; its upstream counts 1.250 tokens for one of ours, in "
        "2 requests"
    )


@pytest.mark.anyio
class TestThePromptCache:
    @pytest.mark.parametrize("padding", [8_000, LONG_BYTES], ids=["stored", "long"])
    async def test_a_miss_is_named_in_the_log(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, padding: int
    ) -> None:
        caplog.set_level(logging.WARNING, LOGGER)
        bodies = [
            talk("12:00", padding=padding),
            talk("12:00", "Hello", "More", padding=padding),
            talk("12:01", "Hello", "More", "Yes", "Even more", padding=padding),
        ]
        async with backend(good(5_000, 4_000), good(5_100, 4_900), good(5_200)) as only:
            await ask(tmp_path, "", only, *bodies)
        (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
        assert line.startswith("prompt cache missed: 0 of 5200 tokens found (upstream only, model 'm', request qp-")
        assert line.endswith("message 0 (system) changed since the last request of this conversation")

    async def test_switched_off_nobody_looks(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, LOGGER)
        async with backend(good(5_000, 4_000), good(5_000)) as only:
            await ask(tmp_path, "cache_watch = false\n", only, talk("12:00"), talk("12:01"))
        assert caplog.messages == []

    async def test_shares_by_account_and_model(self, tmp_path: Path) -> None:
        async with backend(good(5_000, 4_000), good(5_000)) as only:
            async with proxy_before(tmp_path, only=only) as proxy, raw_client(proxy.url) as client:
                for _ in range(2):
                    await client.ask(post(CHAT, talk("")))
                ((key, share),) = proxy.app.afterwards.shares.rows().items()
        assert key == CacheKey("only", "no-key", "m")
        assert (share.requests, share.prompt_tokens, share.cached_tokens) == (2, 10_000, 4_000)


class TestTheWatch:
    def prompt(self, body: bytes, cached_tokens: int = 0) -> Prompt:
        usage = Usage(5_000, cached_tokens=cached_tokens)
        return Prompt("qp-1", CacheKey("u", "a", "m"), [body[:10], memoryview(body)[10:]], len(body), usage, 1.0)

    def test_it_wants_what_may_be_cached_alone(self) -> None:
        watch, key = PromptWatch(), CacheKey("u", "a", "m")
        assert not watch.wants(key, Usage(5_000), 10)
        assert watch.wants(key, Usage(5_000, cached_tokens=1), 10)
        assert watch.wants(key, Usage(5_000), 10)
        assert not watch.wants(key, Usage(1_000), 10)
        assert not watch.wants(key, Usage(5_000), 100_000_000)
        assert not watch.wants(key._replace(model="n"), Usage(5_000), 10)

    def test_what_waits_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prompt_watch, "MOST_WAITING", 2)
        watch = PromptWatch()
        with watch._changed:  # the thread stands still
            for number in range(5):
                watch.note(self.prompt(b"%d" % number))
            assert [bytes(prompt.pieces[0]) for prompt in watch._waiting] == [b"3", b"4"]
            assert watch._waiting_bytes == 2
        watch.close()

    def test_one_that_is_longer_than_all_that_may_wait_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prompt_watch, "MOST_WAITING_BYTES", 1)
        watch = PromptWatch()
        watch.note(self.prompt(talk("12:00"), cached_tokens=100))
        assert watch.flush(PATIENCE_S)
        watch.close(PATIENCE_S)
        assert watch._thread is not None
        assert not watch._thread.is_alive()

    def test_after_the_end_nothing_begins(self) -> None:
        watch = PromptWatch()
        watch.close()
        watch.note(self.prompt(b"{}"))
        assert watch._thread is None


@pytest.mark.anyio
async def test_cache_markers_go_up(tmp_path: Path) -> None:
    body = talk("You are a coder.")
    async with backend(good(10)) as only:
        toml = f'[upstreams.marked]\nurl = "{only.url}"\ncache_markers = true\n'
        async with proxy_before(tmp_path, toml, only=only) as proxy, raw_client(proxy.url) as client:
            await client.ask(post(CHAT, body))
            await client.ask(post("/u/marked" + CHAT, body))
    assert only.bodies[0] == body
    assert only.bodies[1].count(b',"cache_control":{"type":"ephemeral"}}]') == 2


@pytest.mark.anyio
async def test_the_administrator_sees_what_was_learned(tmp_path: Path) -> None:
    refused = b'{"error": {"message": "Range of max_tokens should be [1, 8192]"}}'
    async with backend(good(1_000, 250), answer(400, [JSON], refused)) as only:
        async with proxy_before(tmp_path, only=only) as proxy, raw_client(proxy.url) as client:
            body = talk("")
            for _ in range(2):
                await client.ask(post(CHAT, body))
            got = await client.ask(request_head("GET", "/v1/debug/prompts"))
    ratio = round(len(body) / 1_000, 3)
    counted = {"requests": 1, "prompt_tokens": 1_000, "cached_tokens": 250, "cached_share": 0.25}
    assert orjson.loads(bytes(got.body)) == {
        "ratios": [{"model": "m", "bytes_per_token": ratio, "requests": 1, "tokens_per_count": 0.0, "counts": 0}],
        "limits": [{"upstream": "only", "model": "m", "window": None, "output": 8_192}],
        "cache": [{"upstream": "only", "account": "n…y", "model": "m", **counted}],
    }


@pytest.mark.anyio
class TestCounting:
    async def test_our_count_is_compared_with_the_upstreams(self, tmp_path: Path) -> None:
        """And from then on corrects estimates for that model."""
        content = "one two three " * 200
        prompt = {"model": "qwen3.7-max", "messages": [{"role": "user", "content": content}]}
        body = orjson.dumps(prompt)
        async with backend(good(900)) as only:
            async with proxy_before(tmp_path, "count_tokens = true\n", only=only) as proxy:
                async with raw_client(proxy.url) as client:
                    before = orjson.loads(bytes((await client.ask(post("/v1/tokenize", body))).body))
                    assert (await client.ask(post(CHAT, body))).status == 200
                    with anyio.fail_after(PATIENCE_S):
                        while proxy.app.ratios.tokens_per_count("qwen3.7-max") is None:
                            await anyio.sleep(0.005)
                    after = orjson.loads(bytes((await client.ask(post("/v1/tokenize", body))).body))
        assert not before["exact"]
        assert 600 <= before["count"] < 900
        assert after == {**before, "count": 900}

    async def test_off_nothing_is_counted(self, tmp_path: Path) -> None:
        async with backend(good(1_000)) as only:
            async with proxy_before(tmp_path, only=only) as proxy, raw_client(proxy.url) as client:
                await client.ask(post(CHAT, talk("")))
                assert proxy.app.token_counter._thread is None

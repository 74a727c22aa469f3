"""What a server counts and knows of its accounts, while it runs and after it has ended, one way or another."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import httpcore
import pytest

from qproxy.core.account import Standing
from qproxy.edge.state_file import FILE_NAME, read_account_states, read_counts
from qproxy.edge.store import day_of
from qproxy.simulator import Options, running
from tests.support.account_stage import (
    MODEL,
    account_stage,
    chat_body,
    key_settings,
    log_in,
    login_path,
    login_settings,
    make_older,
    until_noticed,
)
from tests.support.live_simulator import live_simulator
from tests.support.shell import TIMEOUT_S, Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qproxy.config import Settings
    from qproxy.core.counts import CountRow
    from qproxy.simulator import Simulator

ONE, TWO = "sk-one", "sk-two"
PROMPT_TOKENS, COMPLETION_TOKENS = 12, 4
UNWRITABLE = "cannot be written"


@pytest.fixture
async def simulator(anyio_backend: object) -> AsyncIterator[Simulator]:
    async with running(Options(tokens=COMPLETION_TOKENS)) as simulator:
        yield simulator


def keeping(simulator: Simulator, folder: Path, **flags: object) -> Settings:
    return key_settings(simulator, ONE, TWO, state_dir=str(folder / "state"), **flags)


def counts(folder: Path) -> dict[tuple[str, str], CountRow]:
    """Of today, by account and model."""
    return {(row.account, row.model): row for row in read_counts(folder / "state", day_of(time.time()))}


@pytest.mark.anyio
class TestCounts:
    async def test_by_account_and_model(self, simulator: Simulator, tmp_path: Path) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            usages = [(await stage.chat()).json()["usage"] for _ in range(2)]
            await stage.chat("qwen3-max")
            await stage.stream("qwen3-max")
            await stage.chat("sim-404-model")
            await stage.chat(x_qwen_account="key-2")
            await stage.chat(x_qwen_account="nobody")
            assert (await stage.client.get("/health")).status == 200
        found = counts(tmp_path)
        assert set(found) == {("key-1", MODEL), ("key-1", "qwen3-max"), ("key-1", "sim-404-model"), ("key-2", MODEL)}
        row = found["key-1", MODEL]
        assert (row.upstream, row.requests, row.errors) == ("default", 2, 0)
        assert row.prompt_tokens == 2 * usages[0]["prompt_tokens"]
        assert row.completion_tokens == 2 * COMPLETION_TOKENS
        assert row.total_tokens == 2 * usages[0]["total_tokens"]
        assert found["key-1", "sim-404-model"][4:6] == (1, 1)
        assert found["key-2", MODEL].requests == 1

    async def test_the_usage_of_a_stream(self, simulator: Simulator, tmp_path: Path) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            body = chat_body(stream=True, stream_options={"include_usage": True})
            answered = await stage.client.post("/v1/chat/completions", body)
            stated = answered.events()[-1]["usage"]
            assert (await stage.lines())[-1]["tokens"] == f"{stated['prompt_tokens']}+{stated['completion_tokens']}"
        row = counts(tmp_path)["key-1", MODEL]
        assert (row.prompt_tokens, row.completion_tokens) == (stated["prompt_tokens"], stated["completion_tokens"])

    async def test_a_request_of_two_attempts_counts_where_it_was_answered(
        self, simulator: Simulator, tmp_path: Path
    ) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            simulator.account(ONE).answer_next("429-rate")
            await stage.chat()
        assert [(row.account, row.requests, row.errors) for row in counts(tmp_path).values()] == [("key-2", 1, 0)]

    async def test_one_that_no_account_took_is_no_request_of_theirs(self, simulator: Simulator, tmp_path: Path) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            for key in (ONE, TWO):
                simulator.account(key).close("429-hour")
            for _ in range(3):
                assert (await stage.chat()).status == 429
        assert [(row.account, row.requests, row.errors) for row in counts(tmp_path).values()] == [("key-2", 1, 1)]

    async def test_an_answer_that_breaks_off_is_an_error(self, simulator: Simulator, tmp_path: Path) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            simulator.account(ONE).answer_next("cut")
            with pytest.raises(httpcore.RemoteProtocolError):
                await stage.stream()
        assert counts(tmp_path)["key-1", MODEL][4:6] == (1, 1)

    async def test_a_restart_goes_on(self, simulator: Simulator, tmp_path: Path) -> None:
        for expected in (1, 2, 3):
            async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
                await stage.chat()
            assert counts(tmp_path)["key-1", MODEL].requests == expected

    async def test_they_are_there_while_it_runs(self, simulator: Simulator, tmp_path: Path) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            await stage.chat()
            await until_noticed(lambda: ("key-1", MODEL) in counts(tmp_path))

    async def test_days_begin_when_a_setting_says(self, simulator: Simulator, tmp_path: Path) -> None:
        settings = keeping(simulator, tmp_path, day_starts_at="00:00+08:00")
        async with account_stage(simulator, settings, tmp_path) as stage:
            await stage.chat()
        today = day_of(time.time(), settings.day_offset_s)
        assert settings.day_offset_s == 16 * 3600
        assert [row.day for row in read_counts(tmp_path / "state", today)] == [today]


@pytest.mark.anyio
class TestHealth:
    async def test_cool_downs_outlive_a_restart(self, simulator: Simulator, tmp_path: Path) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            simulator.account(ONE).answer_next("429-hour")
            assert (await stage.chat()).status == 200
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            assert stage.view("key-1").standing is Standing.COOLING
            assert 3500 < stage.view("key-1").cooling[0].remaining_s <= 3600
            assert (await stage.chat()).status == 200
            assert stage.bearers() == [ONE, TWO, TWO]

    async def test_they_are_there_while_it_runs(self, simulator: Simulator, tmp_path: Path) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            simulator.account(ONE).answer_next("429-hour")
            await stage.chat()
            await until_noticed(lambda: bool(read_account_states(tmp_path / "state")))
            assert [(row.account_id, row.standing) for row in read_account_states(tmp_path / "state")] == [
                ("key-1", "COOLING")
            ]

    async def test_a_key_that_was_refused_gets_a_chance_at_each_start(
        self, simulator: Simulator, tmp_path: Path
    ) -> None:
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            simulator.account(ONE).answer_next("401")
            await stage.chat()
            assert stage.view("key-1").standing is Standing.CLOSED
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            assert stage.view("key-1").standing is Standing.READY

    async def test_a_login_that_is_closed_stays_so_until_there_is_a_new_one(
        self, simulator: Simulator, tmp_path: Path
    ) -> None:
        """A restart makes neither a token call nor a request that is refused."""
        home = tmp_path / ".qwen"
        login = log_in(simulator, home)
        make_older(login_path(home), 60)
        simulator.oauth.revoke("default")
        settings = login_settings(simulator, home, state_dir=str(tmp_path / "state"))
        async with account_stage(simulator, settings, tmp_path) as stage:
            assert (await stage.chat()).status == 503
            assert stage.bearers() == [login.access_token]
        async with account_stage(simulator, settings, tmp_path) as stage:
            stage.proxy.app.accounts.tend()
            assert (await stage.chat()).status == 503
            assert (len(stage.bearers()), stage.token_posts) == (1, 1)
            log_in(simulator, home)
            await until_noticed(lambda: stage.view("default").standing is Standing.READY)
            assert (await stage.chat()).status == 200


@pytest.mark.anyio
class TestWithoutAFile:
    async def test_no_folder_is_set(self, simulator: Simulator, tmp_path: Path) -> None:
        settings = replace(keeping(simulator, tmp_path), state_dir=None)
        async with account_stage(simulator, settings, tmp_path) as stage:
            assert (await stage.chat()).status == 200
        assert not (tmp_path / "state").exists()

    async def test_a_folder_that_cannot_be_made(
        self, simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One warning, and service goes on, cool-downs and all."""
        (tmp_path / "state").write_text("a file")
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            simulator.account(ONE).answer_next("429-hour")
            for _ in range(3):
                assert (await stage.chat()).status == 200
            assert stage.bearers() == [ONE, TWO, TWO, TWO]
        warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert [UNWRITABLE in text for text in warned] == [True]

    async def test_a_damaged_file(self, simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / FILE_NAME).write_bytes(b"no database" * 1000)
        async with account_stage(simulator, keeping(simulator, tmp_path), tmp_path) as stage:
            assert (await stage.chat()).status == 200
        assert counts(tmp_path)["key-1", MODEL].requests == 1
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def ask(url: str) -> int:
    """One chat request by a client that blocks; its status."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(chat_body()).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as exc:
        return exc.code


def wait_until_written(folder: Path, requests: int) -> None:
    """So many requests, and that the first key cools down."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while sum(row.requests for row in counts(folder).values()) < requests or not read_account_states(folder / "state"):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_kill_leaves_a_file_that_the_next_server_goes_on_with(tmp_path: Path) -> None:
    with live_simulator() as sim:
        (tmp_path / "qproxy.toml").write_text(
            f'upstream = "mine"\nrotation = "fill_first"\n[upstreams.mine]\nurl = "{sim.url}/v1"\n'
            f'keys = ["{ONE}", "{TWO}"]\n'
        )
        shell = Shell(tmp_path, {"QPROXY_HOME": str(tmp_path / "state")})
        for run in range(3):
            with shell.serving() as (url, process):
                if run == 0:
                    sim.portal.call(sim.simulator.account(ONE).answer_next, "429-hour")
                for _ in range(5):
                    assert ask(url) == 200
                wait_until_written(tmp_path, 5 * (run + 1))
                ask(url)  # what the last second brought may be missing
                process.send_signal(signal.SIGKILL)
                process.wait(TIMEOUT_S)
            with closing(sqlite3.connect(tmp_path / "state" / FILE_NAME)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        used = {request.head.bearer for request in sim.simulator.requests}
        assert used == {ONE, TWO}
        assert sum(request.head.bearer == ONE for request in sim.simulator.requests) == 1, "its cool-down was kept"
        found = json.loads(shell.run("auth", "counts", "--json").stdout)["counts"]
        assert [row["account"] for row in found] == ["key-2"]
        assert 15 <= found[0]["requests"] <= 18

"""A defect of our own costs one request: it is answered or cut, it is logged, and nobody else notices."""

from __future__ import annotations

import logging

import orjson
import pytest

from qproxy.edge import delivery
from tests.hostile.conftest import guarded, recording
from tests.support.leaks import nothing_left
from tests.support.raw_client import End, post, raw_client, request_head

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
CANARY = "prompt-never-shown"
STREAM = post(CHAT, orjson.dumps({"model": "stall", "stream": True, "messages": [{"role": "user", "content": CANARY}]}))
PLAIN = post(CHAT, orjson.dumps({"model": "m", "messages": [{"role": "user", "content": CANARY}]}))
LIVE = request_head("GET", "/livez")


def broken(*_: object, **__: object) -> None:
    """Stands for a line with a mistake in it."""
    raise ZeroDivisionError("division by zero")


def assert_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where it was, without the values."""
    (text,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "ZeroDivisionError" in text
    assert "in broken" in text
    assert CANARY not in text


@pytest.mark.parametrize("place", ["before the upstream is asked", "when it has answered"])
async def test_before_the_answer_has_begun(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """P12."""
    async with nothing_left(), recording() as recorder, guarded(recorder.url) as proxy:
        async with raw_client(proxy.url) as other, raw_client(proxy.url) as client:
            await other.send(STREAM)
            got = await other.begin()
            await other.until(got, b"data: ")
            with monkeypatch.context() as patch:
                if place == "before the upstream is asked":
                    patch.setattr(proxy.app.services.models, "resolve", broken)
                else:
                    patch.setattr(delivery, "judge", broken)
                failed = await client.ask(PLAIN)
            assert (failed.status, failed.error_code, failed.end) == (500, "internal_error", End.WHOLE)
            assert failed.header(b"connection") == b"close"
            assert b"ZeroDivision" not in failed.body
            assert await client.closed() == b""
            assert_logged_once(caplog)
            async with raw_client(proxy.url) as next_one:
                assert (await next_one.ask(PLAIN)).status == 200
            assert got.end is End.OPEN

"""One form up, one short answer down, and every way in which that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import anyio
import pytest

from qproxy.core.token_answer import TokenReply
from qproxy.errors import UpstreamError
from tests.support.certificates import client_context, server_context
from tests.support.leaks import nothing_left
from tests.support.login_server import token_endpoint
from tests.support.scripted_upstream import (
    answer,
    chunk,
    close,
    expect_head,
    expect_request,
    head,
    reset,
    scripted_upstream,
    send,
    stream_head,
)

if TYPE_CHECKING:
    from tests.support.scripted_upstream import Step

pytestmark = pytest.mark.anyio

DATE = (b"Date", b"Sat, 21 Nov 2026 10:00:00 GMT")


async def test_the_form_goes_up_and_the_answer_comes_down() -> None:
    script = [expect_request(), send(answer(400, [DATE], b'{"error": "slow_down"}'))]
    async with nothing_left(), scripted_upstream(script) as server, token_endpoint(server.url + "/a/token") as endpoint:
        reply = await endpoint.post({"grant_type": "refresh_token", "refresh_token": "a b&c=ü"})
        request, _, body = server.connections[0].received.partition(b"\r\n\r\n")
    assert reply == TokenReply(400, 1795255200.0, b'{"error": "slow_down"}')
    assert request.startswith(b"POST /a/token HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/x-www-form-urlencoded\r\n" in request
    assert b"\r\nUser-Agent: qproxy/test\r\n" in request
    assert dict(parse_qsl(body.decode())) == {"grant_type": "refresh_token", "refresh_token": "a b&c=ü"}


async def test_a_token_is_not_shown() -> None:
    script = [expect_request(), send(answer(200, body=b'{"access_token": "hush"}'))]
    async with scripted_upstream(script) as server, token_endpoint(server.url) as endpoint:
        assert "hush" not in repr(await endpoint.post({}))


async def test_every_post_has_a_connection_of_its_own() -> None:
    script = [expect_request(), send(answer(200, body=b"{}"))]
    async with nothing_left(), scripted_upstream(script) as server, token_endpoint(server.url) as endpoint:
        for _ in range(3):
            await endpoint.post({})
        assert len(server.connections) == 3


@pytest.mark.parametrize(
    ("raw", "date_s"),
    [
        (answer(200, body=b"{}"), None),
        (answer(200, [(b"date", b"yesterday")], b"{}"), None),
        (answer(200, [(b"date", b"Sat, 21 Nov 99999 10:00:00 GMT")], b"{}"), None),
        (stream_head(DATE) + chunk(b"{}") + chunk(b""), 1795255200.0),
        (head(200, [DATE]) + b"{}", 1795255200.0),
    ],
)
async def test_dates_and_framings(raw: bytes, date_s: float | None) -> None:
    script = [expect_request(), send(raw), close()]
    async with scripted_upstream(script) as server, token_endpoint(server.url) as endpoint:
        assert await endpoint.post({}) == TokenReply(200, date_s, b"{}")


async def test_a_redirect_is_not_followed() -> None:
    script = [expect_request(), send(answer(307, [(b"location", b"/elsewhere")]))]
    async with scripted_upstream(script) as server, token_endpoint(server.url) as endpoint:
        assert (await endpoint.post({"refresh_token": "hush"})).status == 307
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([expect_request(), close()], "upstream_closed"),
        ([expect_head(), reset()], "upstream_closed"),
        ([expect_request(), send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"), close()], "upstream_closed"),
        ([expect_request(), send(b"SSH-2.0-OpenSSH\r\n\r\n")], "upstream_protocol_error"),
        ([expect_request(), send(answer(200, body=b" " * 70_000))], "upstream_protocol_error"),
        ([expect_request(), send(head(200)), send(b" " * 70_000)], "upstream_protocol_error"),
    ],
)
async def test_answers_that_are_none(script: list[Step], code: str) -> None:
    async with nothing_left(), scripted_upstream(script) as server, token_endpoint(server.url) as endpoint:
        with pytest.raises(UpstreamError) as caught:
            await endpoint.post({"refresh_token": "hush"})
        assert len(server.connections) == 1
    assert caught.value.code == code
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("script", [[expect_request()], [expect_request(), send(head(200)), send(b"{")]])
async def test_an_answer_that_does_not_come_is_awaited_so_long_and_no_longer(script: list[Step]) -> None:
    async with (
        nothing_left(),
        scripted_upstream(script) as server,
        token_endpoint(server.url, answer_s=0.1) as endpoint,
    ):
        with pytest.raises(UpstreamError, match=r"did not answer within 0\.1 s") as caught:
            await endpoint.post({})
    assert caught.value.code == "first_byte_timeout"


async def test_a_caller_that_gives_up_leaves_nothing() -> None:
    async with nothing_left(), scripted_upstream([expect_request()]) as server, token_endpoint(server.url) as endpoint:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(endpoint.post, {})
            await server.connected()
            tasks.cancel_scope.cancel()


async def test_nobody_there() -> None:
    async with token_endpoint("http://127.0.0.1:1/token") as endpoint:
        with pytest.raises(UpstreamError, match="cannot be reached") as caught:
            await endpoint.post({})
    assert caught.value.code == "upstream_connect_failed"


async def test_a_name_that_nobody_knows() -> None:
    async with token_endpoint("https://login.invalid/token") as endpoint:
        with pytest.raises(UpstreamError, match="cannot be resolved") as caught:
            await endpoint.post({})
    assert caught.value.code == "upstream_dns_failed"


async def test_tls_is_used_and_its_certificate_checked() -> None:
    script = [expect_request(), send(answer(200, body=b"{}"))]
    async with scripted_upstream(script, ssl_context=server_context("127.0.0.1")) as server:
        async with token_endpoint(server.url) as endpoint:
            assert (await endpoint.post({})).body == b"{}"
        async with token_endpoint(server.url, context=client_context(trusting=False)) as endpoint:
            with pytest.raises(UpstreamError, match="no trusted TLS connection") as caught:
                await endpoint.post({})
    assert caught.value.code == "upstream_tls_failed"


@pytest.mark.parametrize("url", ["http://chat.qwen.ai/token", "http+unix:///run/login.sock", "http://[::2]/token"])
async def test_plain_http_leads_to_this_machine_only(url: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with token_endpoint(url):
            pass
    assert caught.group_contains(ValueError, match="must be reached by https")

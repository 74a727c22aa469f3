"""How long a body may be depends on where it goes, and is judged by the head before anything is waited for."""

from __future__ import annotations

import pytest

from qproxy.core.route import LOCAL_BODY_BYTES
from tests.support.held_upstream import PATH, asking, held_upstream, limited
from tests.support.raw_client import chunks, post, raw_client, request_head

pytestmark = pytest.mark.anyio

JSON_TYPE = b"Content-Type: application/json"
FILES = "/v1/files"


def body_of(size: int, name: str = "a") -> bytes:
    return (b'{"model":"%b","x":"' % name.encode()).ljust(size - 2, b"y") + b'"}'


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [(PATH, 1000, 200), (PATH, 1001, 413), (FILES, 2000, 200), (FILES, 2001, 413)],
)
async def test_uploads_have_a_limit_of_their_own(path: str, size: int, status: int) -> None:
    async with held_upstream() as upstream, limited(upstream.url, body_bytes=1000, upload_bytes=2000) as proxy:
        upstream.answer_all()
        async with raw_client(proxy.url) as client:
            assert (await client.ask(post(path, body_of(size)))).status == status


async def test_also_one_that_grows_beyond_it() -> None:
    async with held_upstream() as upstream, limited(upstream.url, body_bytes=1000, upload_bytes=2000) as proxy:
        async with raw_client(proxy.url) as client:
            head = request_head("POST", FILES, b"Transfer-Encoding: chunked")
            answer = await client.ask(head + b"".join(chunks([bytes(500)] * 5)))
            assert (answer.status, answer.error_code) == (413, "body_too_large")
        assert upstream.asked == []


async def test_what_is_answered_here_takes_little() -> None:
    async with held_upstream() as upstream, limited(upstream.url) as proxy, raw_client(proxy.url) as client:
        for size, status in ((LOCAL_BODY_BYTES, 200), (LOCAL_BODY_BYTES + 1, 413)):
            head = request_head("GET", "/livez", b"Content-Length: %d" % size)
            assert (await client.ask(head + (bytes(size) if status == 200 else b""))).status == status


async def test_one_that_is_too_long_waits_for_no_place() -> None:
    async with held_upstream() as upstream, limited(upstream.url, max_exchanges=1, body_bytes=1000) as proxy:
        async with asking(proxy, "a"), raw_client(proxy.url) as client:
            await upstream.until_asked("a")
            answer = await client.ask(request_head("POST", PATH, JSON_TYPE, b"Content-Length: 1001"))
            assert (answer.status, answer.error_code) == (413, "body_too_large")

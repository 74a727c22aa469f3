"""The contract of every row of the endpoint table."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from qproxy.core.route import BodyRule, Endpoint, ForwardEndpoint, LocalEndpoint, RouteTable
from qproxy.core.sse import TailWatch
from qproxy.endpoints import ENDPOINTS, FORWARD_ENDPOINTS, LOCAL_ENDPOINTS
from qproxy.endpoints.chat import CHAT_COMPLETIONS
from qproxy.endpoints.completions import COMPLETIONS
from qproxy.endpoints.embeddings import EMBEDDINGS
from qproxy.endpoints.responses import RESPONSES

TABLE = RouteTable(ENDPOINTS)
SERVED = {b"GET", b"POST", b"DELETE"}

every_row = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
every_forward_row = pytest.mark.parametrize("endpoint", FORWARD_ENDPOINTS, ids=lambda endpoint: endpoint.name)


def example_path(endpoint: Endpoint) -> bytes:
    return endpoint.path.replace(b"*", b"some-id")


def test_names_and_paths_occur_once() -> None:
    assert set(Counter(endpoint.name for endpoint in ENDPOINTS).values()) == {1}
    assert set(Counter(endpoint.path for endpoint in ENDPOINTS).values()) == {1}


@every_row
def test_a_row_is_well_formed(endpoint: Endpoint) -> None:
    assert re.fullmatch(r"[a-z_]+", endpoint.name)
    assert re.fullmatch(rb"/(?:[a-z0-9_]+(?:/[a-z0-9_]+)*(?:/\*)?)?", endpoint.path)
    assert endpoint.methods
    assert set(endpoint.methods) <= SERVED
    assert len(set(endpoint.methods)) == len(endpoint.methods)


@every_row
def test_a_row_is_reached_by_each_of_its_methods(endpoint: Endpoint) -> None:
    for method in endpoint.methods:
        assert TABLE.match(method, example_path(endpoint)).endpoint is endpoint


@every_row
def test_head_is_served_where_get_is(endpoint: Endpoint) -> None:
    allow = TABLE.allow(example_path(endpoint)).split(b", ")
    assert (b"HEAD" in allow) == (b"GET" in allow)
    assert b"OPTIONS" in allow


@every_forward_row
def test_a_forwarded_row_needs_a_key_and_lies_below_v1(endpoint: ForwardEndpoint) -> None:
    assert endpoint.needs_key
    assert endpoint.path.startswith(b"/v1/")
    tail = b"some-id" if endpoint.path.endswith(b"/*") else b""
    assert b"/v1" + endpoint.upstream_path(tail) == example_path(endpoint)


@every_forward_row
def test_a_body_is_examined_only_where_one_is_sent(endpoint: ForwardEndpoint) -> None:
    if endpoint.body is BodyRule.JSON:
        assert endpoint.methods == (b"POST",)
    if endpoint.body is BodyRule.NONE:
        assert b"POST" not in endpoint.methods


@pytest.mark.parametrize("endpoint", LOCAL_ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_what_is_below_v1_needs_a_key(endpoint: LocalEndpoint) -> None:
    for_admins = endpoint.path.startswith((b"/auth/", b"/v1/debug/"))
    assert endpoint.needs_admin == for_admins
    assert endpoint.needs_key == (endpoint.path.startswith(b"/v1") and not for_admins)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b"/v1/chat/completions"),
        (b"POST", b"/v1/completions"),
        (b"POST", b"/v1/embeddings"),
        (b"POST", b"/v1/responses"),
        (b"GET", b"/v1/models"),
        (b"GET", b"/v1/models/qwen3-coder-plus"),
        (b"GET", b"/health"),
        (b"GET", b"/livez"),
        (b"GET", b"/readyz"),
        (b"GET", b"/"),
        (b"POST", b"/v1/rerank"),
        (b"POST", b"/v1/reranks"),
        (b"POST", b"/v1/files"),
        (b"GET", b"/v1/files/file-1/content"),
        (b"DELETE", b"/v1/files/file-1"),
        (b"POST", b"/v1/batches"),
        (b"POST", b"/v1/batches/batch-1/cancel"),
        (b"POST", b"/v1/audio/speech"),
        (b"POST", b"/v1/audio/transcriptions"),
        (b"POST", b"/v1/images/generations"),
        (b"POST", b"/v1/images/edits"),
    ],
)
def test_what_clients_call_is_there(method: bytes, path: bytes) -> None:
    TABLE.match(method, path)


def is_complete(endpoint: ForwardEndpoint, *pieces: bytes) -> bool:
    watch = TailWatch(in_chunks=False)
    for piece in pieces:
        watch.see(piece)
    return watch.is_complete(endpoint.end_markers)


CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"finish_reason\\":\\"stop"},"finish_reason":null}]}\n\n'


@pytest.mark.parametrize("endpoint", [CHAT_COMPLETIONS, COMPLETIONS], ids=lambda endpoint: endpoint.name)
def test_a_stream_of_chunks_is_complete_with_a_finish_reason_or_done(endpoint: ForwardEndpoint) -> None:
    assert not is_complete(endpoint, CHUNK, CHUNK)
    assert is_complete(endpoint, CHUNK, b"data: [DONE]\n\n")
    assert is_complete(endpoint, CHUNK, b'data: {"choices":[{"delta":{},"finish_reason": "length"}]}\n\n')


RESPONSE_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"response.completed"}\n\n'
)


@pytest.mark.parametrize("state", [b"response.completed", b"response.incomplete", b"response.failed", b"error"])
def test_a_response_is_complete_with_a_last_event(state: bytes) -> None:
    begun = b'event: response.created\ndata: {"type":"response.created","response":{"usage":null}}\n\n'
    assert not is_complete(RESPONSES, begun, RESPONSE_DELTA, RESPONSE_DELTA)
    assert is_complete(RESPONSES, begun, RESPONSE_DELTA, b"event: " + state + b"\ndata: {}\n\n")
    assert is_complete(RESPONSES, begun, RESPONSE_DELTA, b'data: {"type": "' + state + b'"}\n\n')


def test_a_response_is_complete_where_its_last_event_is_longer_than_the_watched_tail() -> None:
    output = b'{"type":"message","content":[{"type":"output_text","text":"' + b"long " * 20_000 + b'"}]}'
    last = b'{"type":"response.completed","response":{"output":[' + output + b'],"usage":{"input_tokens":1}}}'
    assert is_complete(RESPONSES, RESPONSE_DELTA, b"event: response.completed\ndata: " + last + b"\n\n")


def test_other_rows_are_not_checked() -> None:
    assert is_complete(EMBEDDINGS, b"anything")

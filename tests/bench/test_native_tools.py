"""The mock upstream and the load client speak correct HTTP, and the client sees what is wrong with an answer."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.bodies import chat_body
from bench.tools import CHAT_PATH, LoadPlan, ToolError, run_load
from tests.bench.bench_field import Field

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ask(port: int, method: str, path: str, body: bytes | Iterator[bytes] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def exchange(port: int, pieces: list[bytes]) -> bytes:
    """Sends pieces as they are and returns everything up to the end."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        for piece in pieces:
            sock.sendall(piece)
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer


@contextmanager
def scripted(answer: list[bytes]) -> Iterator[int]:
    """A server that reads one request head per connection, sends these pieces and closes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                taken = b""
                while b'"stream":true}' not in taken:
                    part = sock.recv(65536)
                    if not part:
                        break
                    taken += part
                for piece in answer:
                    sock.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def event(sequence: int) -> bytes:
    return b'data: {"content":"~%08d@%016d~"}\n\n' % (sequence, 1)


def chunked(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def test_the_mock_answers_a_plain_request_with_valid_json_and_the_number_of_body_bytes(field: Field) -> None:
    body = chat_body(300_000)
    status, content = ask(field.mock.port, "POST", CHAT_PATH, body)
    answer = json.loads(content)
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == len(body)
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_mock_streams_valid_events_in_order_with_a_finish_reason_and_done(field: Field) -> None:
    field.mock.profile(chunks=4)
    _, content = ask(field.mock.port, "POST", CHAT_PATH, chat_body(1024, stream=True))
    *events, last = content.decode().strip().split("\n\n")
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in parsed]
    assert [text[1:9] for text in texts] == ["00000000", "00000001", "00000002", "00000003", ""]
    assert parsed[-1]["choices"][0]["finish_reason"] == "stop"
    assert last == "data: [DONE]"


def test_the_mock_lists_models_and_counts(field: Field) -> None:
    _, content = ask(field.mock.port, "GET", "/v1/models")
    assert json.loads(content)["data"][0]["id"] == "qwen3-coder-plus"
    assert field.mock.stats().requests == 1


@FEW
@given(body=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(1, 400), max_size=6))
def test_the_mock_takes_a_chunked_body_at_every_split(field: Field, body: bytes, cuts: list[int]) -> None:
    half = len(body) // 2
    parts = [part for part in (body[:half], body[half:]) if part]
    head = b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    request = head + b"".join(chunked(part) for part in parts) + END
    at = sorted({0, len(request), *(cut for cut in cuts if cut < len(request))})
    answer = exchange(field.mock.port, [request[start:stop] for start, stop in pairwise(at)])
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["usage"]["prompt_tokens"] == len(body)


def test_the_mock_answers_pipelined_requests_one_by_one(field: Field) -> None:
    first = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
    last = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nconnection: close\r\n\r\n{ }"
    answer = exchange(field.mock.port, [first + first + last])
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.endswith(b'"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}}')


def test_the_mock_closes_on_a_broken_chunk_size(field: Field) -> None:
    request = b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    assert exchange(field.mock.port, [request]) == b""


def test_rps_counts_answers_and_reads_the_clock_of_the_other_process(field: Field) -> None:
    result = field.load("rps", stream=False, connections=8, seconds=1.0, warmup=0.05)
    assert result.requests > 0
    assert result.errors == 0
    assert result.latency_ms is not None
    assert result.latency_ms.count == result.requests
    assert 0 < result.cpu_s["mock"] <= result.seconds * 1.5
    assert field.mock.stats().requests >= result.requests


def test_latency_pairs_every_request_with_a_direct_one(field: Field) -> None:
    result = field.load("latency", stream=False, size_bytes=300_000, count=5, seconds=20)
    assert result.latency_ms is not None
    assert result.direct_ms is not None
    assert (result.latency_ms.count, result.requests, result.errors) == (5, 5, 0)
    assert result.direct_ms.count in (5, 6)


@pytest.mark.parametrize("pace", [0, 500])
def test_streams_are_complete_with_every_event_in_order(field: Field, pace: int) -> None:
    field.mock.profile(chunks=20, pace=pace)
    result = field.load("streams", stream=True, connections=6, repeat=3, chunks=20, ramp=0.05, timeout=20)
    assert (result.complete, result.events, result.disordered, result.errors) == (18, 360, 0, 0)
    assert result.first_ms is not None
    assert result.first_ms.count == 18
    assert result.gap_ms is not None
    assert result.gap_ms.count == 360 - 18


def test_hold_keeps_every_stream_open_beside_small_requests(field: Field) -> None:
    field.mock.profile(chunks=10_000, pace=20)
    result = field.load("hold", stream=True, connections=30, chunks=10_000, count=10, seconds=20, timeout=20)
    assert (result.open_streams, result.requests, result.disordered, result.errors) == (30, 10, 0, 0)


def test_hold_ends_with_every_event_that_was_sent(field: Field) -> None:
    field.mock.profile(chunks=10_000, pace=20)
    run = field.start(
        "hold", stream=True, connections=30, chunks=10_000, count=20, seconds=20, timeout=20, drain=20
    )  # fmt: skip
    run.wait_for("measured")
    field.mock.finish()
    result = run.result()
    assert (result.open_streams, result.complete, result.disordered, result.errors) == (30, 30, 0, 0)
    assert result.events == field.mock.stats().events > 30


def test_hold_does_not_wait_for_streams_that_do_not_end(field: Field) -> None:
    field.mock.profile(chunks=10_000, pace=20)
    result = field.load(
        "hold", stream=True, connections=3, chunks=10_000, count=2, seconds=20, timeout=20, drain=0.1
    )  # fmt: skip
    assert (result.open_streams, result.complete, result.errors) == (3, 0, 0)


@pytest.mark.parametrize("burst", [1, 7, 32])
def test_events_may_come_many_at_once(field: Field, burst: int) -> None:
    field.mock.profile(chunks=100, burst=burst)
    result = field.load("streams", stream=True, connections=3, chunks=100, timeout=20)
    assert (result.complete, result.events, result.disordered, result.errors) == (3, 300, 0, 0)


def test_a_paced_body_takes_its_time_and_the_mock_says_when_its_last_byte_came(field: Field) -> None:
    size_bytes, rate = 400_000, 4_000_000
    result = field.load("latency", stream=False, size_bytes=size_bytes, count=2, seconds=20, rate=rate)
    assert result.latency_ms is not None
    assert result.last_byte_ms is not None
    assert result.direct_last_byte_ms is not None
    assert (result.requests, result.errors, result.last_byte_ms.count) == (2, 0, 2)
    assert result.latency_ms.p50 > (size_bytes / rate - 0.01) * 1e3  # all but the last piece
    assert 0 <= result.last_byte_ms.p50 < result.latency_ms.p50


def test_latency_waits_for_one_answer_from_someone_slow(field: Field) -> None:
    result = field.load("latency", stream=False, size_bytes=200_000, rate=2_000_000, seconds=0.01, timeout=20)
    assert (result.requests, result.errors) == (1, 0)


def test_the_last_byte_is_that_of_the_upstream_and_not_of_a_proxy_that_stores(field: Field) -> None:
    """The answer names a time 70 ms after the client's last byte, as of an upstream behind a slow proxy."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listening.accept()
        with sock:
            while True:
                taken = b""
                while b'"temperature":0.2}' not in taken:
                    part = sock.recv(65536)
                    if not part:
                        return
                    taken += part
                body = b'{"content":"~00000000@%016d~"}' % (time.monotonic_ns() // 1000 + 70_000)
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    thread = threading.Thread(target=serve)
    thread.start()
    result = field.load(
        "latency", stream=False, port=listening.getsockname()[1], count=2, seconds=20, rate=10_000_000
    )  # fmt: skip
    thread.join()
    listening.close()
    assert result.last_byte_ms is not None
    assert result.last_byte_ms.p50 >= 70


def test_churn_leaves_in_every_way_and_leaves_nothing_behind(field: Field) -> None:
    field.mock.profile(chunks=10)
    result = field.load("churn", stream=True, connections=10, chunks=10, seconds=1.0)
    assert result.errors == 0
    assert result.complete > 0
    assert result.left > 0
    while field.mock.stats().active_streams:
        time.sleep(0.01)


@FEW
@given(cuts=st.lists(st.integers(1, 900), max_size=8), count=st.integers(1, 6))
def test_the_client_finds_every_event_at_every_split(field: Field, cuts: list[int], count: int) -> None:
    answer = HEAD + b"".join(chunked(event(n)) for n in range(count)) + chunked(DONE) + END
    at = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    with scripted([answer[start:stop] for start, stop in pairwise(at)]) as port:
        result = field.load("streams", stream=True, port=port, chunks=count, timeout=10)
    assert (result.complete, result.events, result.disordered, result.errors) == (1, count, 0, 0)


def test_the_client_finds_events_in_whatever_chunks_a_proxy_makes_of_them(field: Field) -> None:
    payload = b"".join(event(n) for n in range(5)) + DONE
    parts = [payload[n : n + 7] for n in range(0, len(payload), 7)]
    with scripted([HEAD, *(chunked(part) for part in parts), END]) as port:
        result = field.load("streams", stream=True, port=port, chunks=5, timeout=10)
    assert (result.complete, result.events, result.disordered) == (1, 5, 0)


@pytest.mark.parametrize(
    ("payloads", "disordered"),
    [
        ([event(0), event(2), DONE], 1),  # one lost
        ([event(0), event(2), event(1), DONE], 2),  # two swapped
        ([event(0), event(0), event(1), DONE], 1),  # one twice
    ],
)
def test_the_client_sees_loss_and_reordering(field: Field, payloads: list[bytes], disordered: int) -> None:
    with scripted([HEAD, *(chunked(payload) for payload in payloads), END]) as port:
        result = field.load("streams", stream=True, port=port, chunks=2, timeout=10)
    assert result.disordered == disordered


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([HEAD, chunked(event(0)), END], "incomplete stream"),  # no [DONE]
        ([HEAD, chunked(event(0)), chunked(DONE)], "cut off"),
        ([HEAD, b"zz\r\n"], "bad framing"),
        ([HEAD, chunked(event(0)), chunked(DONE), END, b"more"], "bytes behind the answer"),
        ([b"SSH-2.0-x\r\n\r\n"], "bad head"),
        ([], "closed without an answer"),
        ([b'HTTP/1.1 503 No\r\ncontent-length: 14\r\n\r\n{"error":"no"}'], "refused (status 503"),
    ],
)
def test_the_client_says_what_is_wrong(field: Field, answer: list[bytes], error: str) -> None:
    with scripted([b"".join(answer)]) as port:
        result = field.load("streams", stream=True, port=port, chunks=1, timeout=10)
    assert (result.complete, result.errors) == (0, 1)
    assert result.first_error.startswith(error)


def test_the_client_takes_an_answer_that_ends_with_the_connection(field: Field) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    with scripted([head + event(0) + DONE]) as port:
        result = field.load("streams", stream=True, port=port, chunks=1, timeout=10)
    assert (result.complete, result.errors) == (1, 0)


def test_the_client_gives_up_where_nobody_listens(field: Field) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    result = field.load("rps", stream=False, port=port, connections=2, seconds=20)
    assert result.requests == 0
    assert result.errors > 1000


def test_a_wrong_option_is_an_error_of_the_tool(field: Field) -> None:
    plan = LoadPlan("rps", field.target(), field.body(stream=False), options={"colour": 1})
    with pytest.raises(ToolError, match="--colour"):
        run_load(plan, frozenset({0}), field.tools)

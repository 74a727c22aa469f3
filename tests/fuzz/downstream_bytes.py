"""What a client sends: one meaning however it is split, and the one that h11 gives it."""

from __future__ import annotations

from qproxy.core.known_heads import KnownHeads
from tests.fuzz.splits import splits
from tests.support.request_reader import LIMITS, H11Request, ReadRequest, read_by_h11, read_requests

BROKEN_HEADS = frozenset({"bad_header", "bad_request_line", "headers_too_large", "target_too_long"})
"""Which of these a head is refused for depends on how much of it has come, where it is wrong in more than one way."""


def one_input(data: bytes) -> None:
    heads = KnownHeads(LIMITS)
    whole = read_requests([data], heads)
    for reads in splits(data):
        _compare_refusals(whole.refusal, (split := read_requests(reads)).refusal)
        assert split.facts == whole.facts
    again = read_requests([data], heads)  # whose heads are known by now
    assert (again.facts, again.refusal) == (whole.facts, whole.refusal)
    for request in whole.requests:
        theirs = read_by_h11(data[request.start :])
        assert theirs is not None, "h11 refuses the head"
        _compare_heads(request, theirs)
        _compare_bodies(request, theirs, is_refused=whole.refusal == "bad_chunk" and request is whole.requests[-1])


def _compare_refusals(first: str, second: str) -> None:
    assert first == second or {first, second} <= BROKEN_HEADS


def _compare_heads(ours: ReadRequest, theirs: H11Request) -> None:
    head = ours.head
    assert head.method == theirs.method
    assert theirs.version == (b"1.0" if head.http_10 else b"1.1")
    path, _, query = theirs.target.partition(b"?")
    if path.startswith(b"/"):
        assert (head.path, head.query) == (path, query)
        assert head.authority == theirs.value(b"host")
    elif head.method != b"CONNECT":
        assert head.authority is not None
        assert path.lower() in _absolute_forms(head.authority.lower(), head.path.lower())
        assert head.query == query
    codings, lengths = theirs.values(b"transfer-encoding"), theirs.values(b"content-length")
    assert codings == ([b"chunked"] if head.chunked else [])
    assert [int(length) for length in lengths] == ([head.content_length] if lengths else [])
    assert not (codings and lengths)
    raw_fields = iter(theirs.raw_fields)
    assert all(field in raw_fields for field in head.passed), "what passes is not what came, in its order"
    assert (head.authorization, head.x_api_key) == (theirs.value(b"authorization"), theirs.value(b"x-api-key"))


def _absolute_forms(authority: bytes, path: bytes) -> list[bytes]:
    rests = (path, path.removesuffix(b"/"))
    return [scheme + authority + rest for scheme in (b"http://", b"https://") for rest in rests]


def _compare_bodies(ours: ReadRequest, theirs: H11Request, *, is_refused: bool) -> None:
    if is_refused:
        assert theirs.body.startswith(ours.body)
        return
    assert not theirs.is_broken
    assert (ours.body, ours.is_whole) == (theirs.body, theirs.is_whole)
    if theirs.is_last and not ours.head.http_10:  # h11 keeps no HTTP/1.0 connection
        assert not ours.head.keep_alive

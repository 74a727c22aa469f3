"""Every harness on its corpus and on a bounded number of inputs made from it, without atheris; and each can fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qproxy.core import jsonscan
from qproxy.core.known_heads import KnownHeads
from tests.fuzz.harnesses import MOST_BYTES, NAMES, corpus, harness, inputs

if TYPE_CHECKING:
    from qproxy.core.http1 import RequestHead

CORPUS_BYTES = 300_000
ODD = (b"", b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"0", b"1", b"a", b'"', b"\\", b"{", b"}", b"\xff")


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """An input of the corpus with some places changed, or the beginning of one and the end of another."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        behind = at + draw(st.sampled_from([0, 0, 1, 1, 2, 7]))
        inside = draw(st.one_of(st.sampled_from(ODD), st.binary(max_size=3), st.just(data[at : at + 40])))
        data = data[:at] + inside + data[behind:]
    if draw(st.integers(0, 3)) == 0:
        other = draw(st.sampled_from(seeds))
        data = data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]
    return data[:MOST_BYTES]


def test_every_harness_has_its_corpus_and_is_in_the_table() -> None:
    files = Path(__file__).parent.glob("*.py")
    assert {path.stem for path in files if "\ndef one_input(" in path.read_text(encoding="utf-8")} == set(NAMES)
    assert {path.name for path in corpus("").iterdir()} == set(NAMES)
    assert sum(len(data) for name in NAMES for data in inputs(name).values()) < CORPUS_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus(name: str) -> None:
    one_input = harness(name)
    for data in inputs(name).values():
        one_input(data)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_like_the_corpus(name: str) -> None:
    one_input = harness(name)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(mutated(list(inputs(name).values())))
    def run(data: bytes) -> None:
        one_input(data)

    run()


def remember_all(heads: KnownHeads, rest: bytes, head: RequestHead) -> None:
    heads._heads[rest] = head.with_length(0)


def always(_: object) -> bool:
    return True


DEFECTS: dict[str, tuple[str, str, object]] = {
    "a size with a sign": ("chunked_bodies", "framing._SIZE_LINE", re.compile(rb"(\+?[0-9A-Fa-f]{1,16})[ \t]*")),
    "a length hides another one": ("downstream_bytes", "known_heads.KnownHeads._remember", remember_all),
    "both lengths": ("downstream_bytes", "http1._check_request_framing", lambda _lowered, _head: None),
    "a length with a sign": ("upstream_bytes", "http1._PLAIN_FRAMING", re.compile(rb"")),
    "a line that looks like a size": ("event_streams", "sse._unframed", lambda tail: tail),
    "a number without end": ("spliced_bodies", "splice._decoded", jsonscan.loads),
    "an object that is not empty": ("spliced_bodies", "jsonscan.is_empty_object", lambda _text, _at: True),
    "a file that cannot be saved": ("token_files", "oauth.can_be_written", always),
    "a token for anybody": ("token_files", "oauth._host_matches", lambda host, _: host == "canary7.example"),
    "a description in a reason": ("token_answers", "token_answer._PLAIN_CODE", re.compile(".*")),
    "an error that cannot be told": ("error_answers", "local.can_be_written", always),
}


@pytest.mark.parametrize(("name", "where", "defect"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_found_by_the_corpus(
    monkeypatch: pytest.MonkeyPatch, name: str, where: str, defect: object
) -> None:
    monkeypatch.setattr(f"qproxy.core.{where}", defect)
    with pytest.raises((AssertionError, ValueError, TypeError)):
        test_the_corpus(name)

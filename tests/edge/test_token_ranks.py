"""Qwen's tokenizer as it comes with the package, and what serves without it."""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from qproxy.core.tokens import Unencodable
from qproxy.core.tokens.cutting import Tally, TallyState
from qproxy.edge import token_ranks
from qproxy.edge.token_ranks import (
    RANKS,
    SHA256,
    RanksUnusable,
    default_ranks,
    encoding_of,
    load_vocabulary,
    read_ranks,
)
from tests.support.vocabulary import counted, ids_of_rendered, qwen

DATA = Path(str(default_ranks())).parent
REVERSE = (
    'Write a function to reverse each string in a list.\nYour code should pass this test:\nassert rev(["ab"]) == ["ba"]'
)
CORPUS = json.loads((Path(__file__).parent / "token_vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", CORPUS["texts"], ids=range(len(CORPUS["texts"])))
def test_another_implementation_counts_the_same(row: dict[str, Any]) -> None:
    """`token_vectors.json` says which, and how the rows were made."""
    ids: list[bytes] = []
    tally = Tally(qwen(), TallyState(), ids)
    tally.text(str(row["text"]))
    tally.flush()
    assert orjson.loads(b"[%b]" % b",".join(ids)) == row["ids"]
    assert tally.state().tokens == len(row["ids"])


@pytest.mark.parametrize(
    ("question", "ids"),
    [
        ("hello world", [14990, 1879]),
        ("What is the capital of France?", [3838, 374, 279, 6722, 315, 9625, 30]),
        (REVERSE,
         [7985, 264, 729, 311, 9931, 1817, 914, 304, 264, 1140, 624, 7771, 2038, 1265, 1494, 419, 1273, 510, 2207, 5772,
          19065, 370, 14013, 621, 4383, 4645, 1341]),
    ],
)  # fmt: skip
def test_prompts_whose_ids_were_published(question: str, ids: list[int]) -> None:
    """As programs print them that take Qwen2.5's `tokenizer.json` and its chat template: vLLM's `prompt_token_ids`, and
    tests of re-implementations."""
    system_ids = [2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13, 1446, 525, 264, 10950, 17847, 13]
    before = [151644, 8948, 198, *system_ids, 151645, 198, 151644, 872, 198]
    expected = [*before, *ids, 151645, 198, 151644, 77091, 198]
    body = orjson.dumps({"messages": [{"role": "user", "content": question}]})
    assert counted(body, "qwen2.5-7b-instruct").tokens == len(expected)
    system = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    assert ids_of_rendered(f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n") == expected


def test_the_file_is_the_published_one() -> None:
    packed = (DATA / "qwen.tiktoken.xz").read_bytes()
    assert len(packed) < 800_000
    assert hashlib.sha256(lzma.decompress(packed)).hexdigest() == SHA256
    sums = (DATA / "qwen.tiktoken.sha256").read_text(encoding="ascii").splitlines()
    assert sums == [f"{SHA256}  qwen.tiktoken", f"{hashlib.sha256(packed).hexdigest()}  qwen.tiktoken.xz"]
    assert len(read_ranks(default_ranks())) == RANKS


def test_special_tokens_are_text_to_it() -> None:
    assert len(qwen().ids("<|im_start|><think>")) > 5
    assert qwen().special_id("<|im_end|>") == 151_645


def test_a_panic_is_contained() -> None:
    """`core/tokens/cutting.py` never hands it so much."""
    with pytest.raises(Unencodable):
        qwen().count(" " * 1_000_000)
    assert qwen().count("two words") == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"", "damaged"),
        (b"no archive", "damaged"),
        (lzma.compress(b"IQ== 0\n"), "wrong check-sum"),
    ],
)
def test_ranks_that_cannot_be_used(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "qwen.tiktoken.xz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RanksUnusable, match=reason):
        read_ranks(file)


def test_an_estimate_serves_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_ranks, "default_ranks", lambda: tmp_path / "gone")
    vocabulary = load_vocabulary()
    assert not vocabulary.is_exact
    assert "reinstall" in vocabulary.obstacle
    assert vocabulary.count("some words here") > 1


def test_an_estimate_serves_without_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(RanksUnusable, match="tiktoken"):
        encoding_of(default_ranks())

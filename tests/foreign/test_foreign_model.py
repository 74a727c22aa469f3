"""The model folder that the foreign server gets: sound without the server."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING

from tests.support.foreign_model import Size, write_model

if TYPE_CHECKING:
    from pathlib import Path

HEADER_LENGTH = struct.Struct("<Q")


def test_the_weights_fill_the_file_without_gaps(tmp_path: Path) -> None:
    write_model(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (length,) = HEADER_LENGTH.unpack_from(content)
    header = json.loads(content[HEADER_LENGTH.size :][:length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header.keys() == Size().shapes().keys()
    end = 0
    for tensor in header.values():
        first, last = tensor["data_offsets"]
        assert (first, last - first) == (end, 4 * math.prod(tensor["shape"]))
        end = last
    assert HEADER_LENGTH.size + length + end == len(content)


def test_every_byte_is_one_token(tmp_path: Path) -> None:
    write_model(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert sorted(tokenizer["model"]["vocab"].values()) == list(range(256))
    assert tokenizer["model"]["vocab"]["Ġ"] == ord(" ")  # as in every byte-level vocabulary
    assert [token["id"] for token in tokenizer["added_tokens"]] == [256, 257, 258]


def test_a_seed_gives_the_same_model_again(tmp_path: Path) -> None:
    written = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_model(tmp_path / folder, seed=seed)
        written.append((tmp_path / folder / "model.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]

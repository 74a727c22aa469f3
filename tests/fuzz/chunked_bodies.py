"""A chunked body, by both chunk walkers and by h11's reader, however it is split."""

from __future__ import annotations

from tests.fuzz.splits import splits
from tests.support.body_readers import check


def one_input(data: bytes) -> None:
    verdict = check(data)
    for reads in splits(data):
        assert check(*reads) == verdict

"""The ways in which one input arrives: whole, byte by byte, and in two at a place that the input itself chooses."""

from __future__ import annotations

import zlib

BYTEWISE_BYTES = 256
"""Longer inputs come in slices of more: some thousand reads of an input would be all that is done in a second."""


def splits(data: bytes) -> list[list[bytes]]:
    """Some ways beside the whole. The same input is always split in the same places."""
    if not data:
        return [[b""]]
    step = 1 + len(data) // BYTEWISE_BYTES
    sliced = [data[at : at + step] for at in range(0, len(data), step)]
    cut = zlib.crc32(data) % len(data)
    return [sliced, [data[:cut], data[cut:]]]

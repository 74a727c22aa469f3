"""What was learned about a model's tokens, in one line for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.core.limits import BYTES_PER_TOKEN
from qproxy.core.token_ratio import RatioRow
from qproxy.edge.state_file import StateUnusable, read_ratios

if TYPE_CHECKING:
    from pathlib import Path


def learned_ratio(state_dir: Path | None, model: str) -> RatioRow:
    """The row of a model, without samples where nothing was learned or nothing can be read."""
    if state_dir is None:
        return RatioRow(model)
    try:
        rows = read_ratios(state_dir)
    except StateUnusable:
        return RatioRow(model)
    return next((row for row in rows if row.model == model), RatioRow(model))


def ratio_line(row: RatioRow) -> str:
    """Which ratios estimates for this model rest on."""
    if row.requests:
        said = f"{row.bytes_per_token:.2f} bytes of a request a token, learned from {_requests(row.requests)}"
    else:
        said = f"{BYTES_PER_TOKEN} bytes of a request a token, assumed: no request has taught better"
    if row.counts:
        said += f"; its upstream counts {row.tokens_per_count:.3f} tokens for one of ours, in {_requests(row.counts)}"
    return said


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"

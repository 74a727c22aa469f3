"""`qproxy tokens`: what a prompt costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import orjson

from qproxy.cli.console import print_line, print_note, printable
from qproxy.cli.options import load_settings, some_settings
from qproxy.cli.token_ratio import learned_ratio, ratio_line
from qproxy.config import ConfigError
from qproxy.config.options import CONFIG, STATE_DIR
from qproxy.core.tokens import Counted, NotCountable, Shape, Vocabulary
from qproxy.core.tokens.body import count_body, model_of
from qproxy.core.tokens.cutting import count_text
from qproxy.core.tokens.template import is_exact_for
from qproxy.edge.learned_counts import corrected
from qproxy.edge.token_ranks import load_vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

DEFAULT_MODEL = "qwen3-coder-plus"


@click.command()
@click.argument("file", type=click.File("rb"), metavar="FILE")
@click.option("--model", metavar="MODEL", help=f"Count for this model. [default: the request's, or {DEFAULT_MODEL}]")
@click.option("--json", "as_json", is_flag=True, help="Print the count as JSON.")
@some_settings(CONFIG, STATE_DIR)
def tokens(file: BinaryIO, model: str | None, *, as_json: bool, **flags: object) -> None:
    """Count the tokens of FILE, or of stdin for -: a text, or the JSON of a chat or completion request."""
    vocabulary = load_vocabulary()
    if vocabulary.obstacle:
        print_note(f"qproxy: tokens are estimated: {vocabulary.obstacle}")
    counted = _corrected(_count(file.read(), model, vocabulary), flags)
    if as_json:
        report = {"tokens": counted.tokens, "exact": counted.is_exact, "model": counted.model}
        print_line(orjson.dumps(report).decode())
    else:
        about = "" if counted.is_exact else "about "
        print_line(f"{about}{counted.tokens} tokens for {printable(counted.model)}")


def _corrected(counted: Counted, flags: Mapping[str, object]) -> Counted:
    """An estimate by what a server has learned of its model, which a line on stderr tells."""
    try:
        row = learned_ratio(load_settings(flags).state_dir, counted.model)
    except ConfigError as exc:
        print_note(f"qproxy: what was learned of the model is not known: {exc}")
        return counted
    if row.requests or row.counts:
        print_note(f"qproxy: {printable(counted.model)}: {ratio_line(row)}")
    return corrected(counted, row.tokens_per_count if row.counts and not counted.is_exact else None)


def _count(data: bytes, model: str | None, vocabulary: Vocabulary) -> Counted:
    """As a request where it is one, else as text."""
    if data.lstrip().startswith(b"{"):
        try:
            return count_body(data, Shape.OPENAI, vocabulary, model=model or model_of(data) or DEFAULT_MODEL)
        except NotCountable:
            pass  # some other JSON
    name = model or DEFAULT_MODEL
    total = count_text(data.decode("utf-8", "replace"), vocabulary)
    return Counted(total.tokens, total.is_exact and is_exact_for(name), name)

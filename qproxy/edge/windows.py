"""Context windows on the way of a request: what is certain to be too long stops here, and what upstreams say about it
reaches clients in clear words and teaches the table.

The check costs nothing but a division: a body's length and the bytes that a token of its model takes. Only where that
is over the window, the body is looked at for images, whose bytes say nothing about their tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qproxy.core.clamp import number_in
from qproxy.core.exchange import Exchange
from qproxy.core.local import LocalAnswer
from qproxy.core.splice import Buffer
from qproxy.core.token_ratio import TokenRatios
from qproxy.core.window_errors import Asked, LimitSaid, limit_answer, limit_said, window_exceeded
from qproxy.core.windows import WindowTable, reads_text_alone
from qproxy.edge.attempts import ERROR_BYTES, ERROR_WAIT_S, Answer
from qproxy.edge.http11 import KnownBody
from qproxy.edge.upstreams import Outgoing
from qproxy.errors import DownstreamError

log = logging.getLogger(__name__)

LIMIT_STATUSES = frozenset({400, 413, 422})
PROMPT_PATHS = frozenset({b"/chat/completions", b"/completions", b"/responses"})  # one prompt, and all of it
IN_BASE64 = b";base64,"


class WindowCheck:
    """Before anything is sent. `refuses`: what is too long is refused, else there is only a line in the log."""

    def __init__(self, table: WindowTable, ratios: TokenRatios, *, refuses: bool) -> None:
        self._table = table
        self._ratios = ratios
        self._refuses = refuses

    async def check(self, outgoing: Outgoing) -> None:
        """Raises DownstreamError `context_length_exceeded`; also where the body does not come that has to be looked
        at for images, which is then kept."""
        if outgoing.model is None or outgoing.path not in PROMPT_PATHS:
            return
        window = self._table.window_of(outgoing.model, outgoing.upstream)
        if window is None or outgoing.body_bytes <= window:  # a token has one byte at least
            return
        tokens = self._ratios.tokens_in(outgoing.model, outgoing.body_bytes)
        if tokens <= window or await _has_images(outgoing):
            return
        how = f"{outgoing.body_bytes} bytes, {self._ratios.bytes_per_token(outgoing.model):.3g} of them a token"
        if self._refuses:
            over = window_exceeded(window, Asked(tokens, is_estimate=True))
            advice = "Send less of the conversation. Nothing was sent to the upstream, since window_check is refuse."
            message = f"{over} This is an estimate: {how}. {advice}"
            raise DownstreamError("context_length_exceeded", message, param="messages")
        log.warning(
            "upstream %s, model %s: about %d tokens, and its window has %d (%s)",
            outgoing.upstream, ascii(outgoing.model), tokens, window, how,
        )  # fmt: skip


class LimitAnswers:
    """Upstreams' errors about limits."""

    def __init__(self, table: WindowTable, ratios: TokenRatios) -> None:
        self._table = table
        self._ratios = ratios

    async def explain(self, answer: Answer, exchange: Exchange) -> LocalAnswer | None:
        """What the client gets in place of an error that is about a limit; None: it is about something else. Raises
        UpstreamError."""
        body, status = answer.hidden, answer.response.status
        if body is not None:
            status = answer.outcome.status if answer.outcome is not None else status
        elif status in LIMIT_STATUSES and not answer.response.head.is_packed:
            body = await answer.response.peek(ERROR_BYTES, ERROR_WAIT_S)
        said = None if body is None else limit_said(body)
        if body is None or said is None:
            return None
        outgoing = answer.outgoing
        if exchange.model and self._table.learn(exchange.model, outgoing.upstream, said.limits):
            what = "max_tokens" if said.field else "window"
            tokens = said.limit_tokens
            log.info("upstream %s, model %s: its %s is %d", outgoing.upstream, ascii(exchange.model), what, tokens)
        return limit_answer(status, body, said, self._asked(said, outgoing, exchange), exchange.request_id)

    def _asked(self, said: LimitSaid, outgoing: Outgoing, exchange: Exchange) -> Asked:
        if said.asked_tokens is not None:
            return Asked(said.asked_tokens)
        if said.field:
            return Asked(number_in(sent_pieces(outgoing), said.field))
        return Asked(self._ratios.tokens_in(exchange.model, outgoing.body_bytes), is_estimate=True)


def sent_pieces(outgoing: Outgoing) -> Sequence[Buffer]:
    """What is here of the body; none where it is not kept."""
    return outgoing.body.pieces if isinstance(outgoing.body, KnownBody) else outgoing.kept


async def _has_images(outgoing: Outgoing) -> bool:
    """Raises DownstreamError where the rest of a body does not come that may have some."""
    if not isinstance(outgoing.body, KnownBody):
        if outgoing.model is not None and reads_text_alone(outgoing.model):
            return False
        if outgoing.whole is None:
            return True
        outgoing.body = await outgoing.whole()
    return any(IN_BASE64 in bytes(piece) for piece in outgoing.body.pieces)

"""The way up: what is sent to which upstream, and whether it is stored first or goes up while it arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qproxy.core.account import Wish
from qproxy.core.admit import check_json_content_type
from qproxy.core.affinity import NO_CONVERSATION, Conversation, conversation_of
from qproxy.core.exchange import Exchange, Phase
from qproxy.core.framing import ChunkRelay, LengthWalker, Walker
from qproxy.core.http1 import RequestHead
from qproxy.core.models import Choice
from qproxy.core.replay import HeldTail, ReplayBuffer, body_too_large
from qproxy.core.route import BodyRule, ForwardEndpoint, Route
from qproxy.core.splice import (
    WINDOW_BYTES,
    BodyFacts,
    Buffer,
    apply,
    examine,
    examine_head,
    refuse_other_model,
    rename_in_tail,
)
from qproxy.edge.edits import model_edits, stored_edits
from qproxy.edge.http11 import KnownBody, LiveBody
from qproxy.edge.services import Services
from qproxy.edge.upstreams import Outgoing

if TYPE_CHECKING:
    from qproxy.edge.connection import Connection


BEGIN_BYTES = 16 * 1024
"""What is looked at before a long body goes on: a model stands in the first bytes, or behind the messages."""

SETTLED_BYTES = 64 * 1024
"""The same where the account depends on the conversation (`decisions.md`, Bodies)."""


async def prepare(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, route: Route
) -> Outgoing:
    """What goes up: the whole body where it may have to be edited, else whatever arrives."""
    endpoint = route.endpoint
    assert isinstance(endpoint, ForwardEndpoint)
    exchange.enter(Phase.RECEIVING)
    pin = route.upstream if route.upstream is not None else head.pinned_upstream
    pinned = pin.decode("latin-1") if pin is not None else None
    if endpoint.body is BodyRule.JSON:
        path = endpoint.upstream_path(route.tail)
        outgoing = await _prepare_json(connection, head, exchange, services, path, pinned)
        outgoing.is_pinned = pinned is not None or head.named_account is not None
        return outgoing
    choice = services.models.resolve(None, pinned)
    body = None
    if head.has_body:
        connection.invite_body()
        body = _opaque_body(connection, head, services)
    return Outgoing(
        choice.upstream,
        None,
        endpoint.upstream_path(route.tail),
        head,
        body,
        wants_identity=False,
        is_plain=True,
        body_bytes=head.content_length or 0,
        wish=_wish(choice, head, NO_CONVERSATION),
    )


def _wish(choice: Choice, head: RequestHead, conversation: Conversation) -> Wish:
    named = head.named_account
    return Wish(choice.model or "", conversation, None if named is None else named.decode("latin-1"))


def _opaque_body(connection: Connection, head: RequestHead, services: Services) -> LiveBody:
    """A body that is passed on and not kept, framed as it came."""
    if head.content_length is not None:
        return _live_body(connection, services, LengthWalker(head.content_length), None)
    limit = connection.body_limit_bytes
    relay = ChunkRelay()

    def check_size(_: bytes) -> None:
        if relay.payload_bytes > limit:
            raise body_too_large(limit)

    return _live_body(connection, services, relay, check_size, chunked=True)


async def _prepare_json(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, path: bytes, pinned: str | None
) -> Outgoing:
    check_json_content_type(head.content_type, head.content_encoding)
    if _may_cut_through(head, services):
        outgoing = await _cut_through(connection, head, exchange, services, path, pinned)
        if outgoing is not None:
            return outgoing
    pieces = await connection.receive_body(head)
    exchange.received = services.runtime.now()
    facts = examine(pieces, inspect_bytes=services.limits.inspect_bytes)
    return _StoredBody(services, head, path, pieces, facts).outgoing(services.models.resolve(facts.model, pinned))


class _StoredBody:
    """A body that is here, and may go to any upstream."""

    __slots__ = ("_facts", "_head", "_path", "_pieces", "_services")

    def __init__(
        self, services: Services, head: RequestHead, path: bytes, pieces: Sequence[bytes], facts: BodyFacts
    ) -> None:
        self._services = services
        self._head = head
        self._path = path
        self._pieces = pieces
        self._facts = facts

    def outgoing(self, choice: Choice) -> Outgoing:
        services, pieces, facts = self._services, self._pieces, self._facts
        edits = stored_edits(services, choice, self._path, pieces, facts)
        body = KnownBody(apply(pieces, facts, edits) if edits else pieces)
        reads = services.accounts.read_conversation(choice.upstream)
        return Outgoing(
            choice.upstream,
            choice.model,
            self._path,
            self._head,
            body,
            wants_identity=facts.stream is not False,
            is_plain=facts.stream is not True,
            body_bytes=body.size,
            wish=_wish(choice, self._head, conversation_of(pieces) if reads else NO_CONVERSATION),
            again=self.again,
        )

    async def again(self, choice: Choice) -> Outgoing:
        return self.outgoing(choice)


def _may_cut_through(head: RequestHead, services: Services) -> bool:
    """Long enough to be worth it, and of a length that the outgoing head can announce."""
    length = head.content_length
    return length is not None and length > services.limits.inspect_bytes and not services.include_usage


async def _cut_through(
    connection: Connection, head: RequestHead, exchange: Exchange, services: Services, path: bytes, pinned: str | None
) -> Outgoing | None:
    """A long body goes up while it arrives, where all that the outgoing head needs is known from its first bytes.

    Either these show the model, or nothing depends on it: then the body's last bytes are held, since a model that
    stands there may still have to lose the name of the upstream (`decisions.md`, Bodies). None: it has to be stored.
    """
    assert head.content_length is not None
    window = min(BEGIN_BYTES, head.content_length)
    begun = await connection.receive_begin(window)
    facts = examine_head(begun[:window])
    choice = services.models.resolve_blind(pinned) if facts is None else services.models.resolve(facts.model, pinned)
    if choice is None:
        return None
    conversation = NO_CONVERSATION
    if services.accounts.read_conversation(choice.upstream):
        conversation = conversation_of([await connection.receive_begin(min(SETTLED_BYTES, head.content_length))])
    replay = _replay_buffer(exchange, services, head.content_length)
    long_body = _LongBody(connection, services, head, path, facts, replay)
    if facts is not None:
        body, size = long_body.with_edits(facts, choice)
    else:

        def new_name(model: str) -> str:
            exchange.model = services.models.resolve(model, pinned).model
            return exchange.model or model

        body, size = long_body.with_late_name(new_name)
    exchange.cut_through = True
    stream = None if facts is None else facts.stream
    return Outgoing(
        choice.upstream,
        choice.model,
        path,
        head,
        body,
        wants_identity=stream is not False,
        is_plain=stream is not True,
        body_bytes=size,
        wish=_wish(choice, head, conversation),
        whole=None if replay is None else long_body.whole,
        kept=long_body.kept,
        again=None if replay is None else long_body.again,
    )


def _replay_buffer(exchange: Exchange, services: Services, length: int) -> ReplayBuffer | None:
    """Where a body is kept that goes up while it arrives; None where it is too long, or too much is kept already: then
    it has one attempt (`decisions.md`, Bodies)."""
    if length > services.limits.replay_bytes or not services.replays.take(length):
        return None
    exchange.kept_bytes = length
    return ReplayBuffer(length)


class _LongBody:
    """A body that goes up while it arrives, and is kept as it came, so that it can be sent again, where there is a
    `replay` to keep it."""

    def __init__(
        self,
        connection: Connection,
        services: Services,
        head: RequestHead,
        path: bytes,
        facts: BodyFacts | None,
        replay: ReplayBuffer | None,
    ) -> None:
        assert head.content_length is not None
        self._connection = connection
        self._services = services
        self._head = head
        self._path = path
        self._facts = facts
        self._length = length = head.content_length
        self._walker = LengthWalker(length)
        self._replay = replay
        self._names: frozenset[str] = frozenset()  # what its model may be called at its end, where that is limited
        self._edited: Callable[[list[bytes]], Sequence[Buffer]]

    @property
    def kept(self) -> Sequence[bytes]:
        """What has come of it, as it came; it grows with the body. Empty where it is not kept."""
        return () if self._replay is None else self._replay.pieces

    def with_edits(self, facts: BodyFacts, choice: Choice) -> tuple[LiveBody, int]:
        """The body, and its length: its first bytes are here, and hold all that is edited. Its last ones are held until
        it is certain that they name no other model."""
        edits = model_edits(choice, facts)
        names = self._names = frozenset(name for name in (facts.model, choice.model) if name is not None)

        def checked(end: bytes) -> bytes:
            refuse_other_model([end], names)
            return end

        came = self._walker.walk(self._connection.stream.take_all())
        if self._replay is not None:
            self._replay.put(came)
        begun = apply([came], facts, edits)
        self._edited = lambda pieces: apply(pieces, facts, edits)
        size = self._length + sum(map(len, begun)) - len(came)
        tail = HeldTail(size, WINDOW_BYTES, checked)
        return self._live([tail.push(piece) for piece in begun], tail), size

    def with_late_name(self, new_name: Callable[[str], str]) -> tuple[LiveBody, int]:
        """The body, and its length, with a model that may still come at its end."""
        length = self._length  # and not the body itself, which keeps `edited`

        def held() -> HeldTail:
            return HeldTail(length, WINDOW_BYTES, lambda end: rename_in_tail(end, new_name))

        def edited(pieces: list[bytes]) -> Sequence[Buffer]:
            tail = held()
            return [*(tail.push(piece) for piece in pieces), tail.finish()]

        self._edited = edited
        return self._live((), held()), length

    async def whole(self) -> KnownBody:
        """The body as it goes up, complete. Raises DownstreamError where the rest of it does not come."""
        return KnownBody(self._edited(await self._pieces()))

    async def again(self, choice: Choice) -> Outgoing:
        """The request for another upstream. Raises DownstreamError as `whole`, or where the body is unfit."""
        pieces = await self._pieces()
        facts = self._facts or examine(pieces, inspect_bytes=self._services.limits.inspect_bytes)
        return _StoredBody(self._services, self._head, self._path, pieces, facts).outgoing(choice)

    async def _pieces(self) -> list[bytes]:
        """All of it, as it came."""
        replay = self._replay
        assert replay is not None
        if not self._walker.done:
            await self._connection.receive_rest(self._walker, replay)
        if self._names:
            refuse_other_model(replay.pieces, self._names)
        return replay.pieces

    def _live(self, first: Sequence[Buffer], tail: HeldTail) -> LiveBody:
        keep = None if self._replay is None else self._replay.put
        return _live_body(self._connection, self._services, self._walker, keep, first, tail)


def _live_body(
    connection: Connection,
    services: Services,
    walker: Walker,
    keep: Callable[[bytes], None] | None,
    first: Sequence[Buffer] = (),
    tail: HeldTail | None = None,
    *,
    chunked: bool = False,
) -> LiveBody:
    connection.body_begun()
    return LiveBody(
        connection.stream,
        walker,
        chunked=chunked,
        keep=keep,
        silence_s=services.timeouts.body_s,
        arrived=connection.body_arrived,
        first=first,
        tail=tail,
    )

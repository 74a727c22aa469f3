"""Which conversation a body belongs to, told from its first bytes, and where conversations went before.

Context caches are per account, so a conversation is cheapest where its earlier self was answered. A conversation grows
at its end: the bytes of `messages` begin with those of the request before, whatever fields follow. So the value is cut
into blocks, each block's hash covers all blocks before it, and two requests share exactly as many hashes as they share
whole blocks.

Blocks of 1 KiB, all of the same size, because
- below 256 tokens, which is about 1 KiB, the upstream caches nothing (`qwen-wire.md` 5.5). Shorter conversations have
  no key and need none, and shorter openings ("You are a helpful assistant.") must not bring strangers together;
- the system prompt of a coding agent is 20 KB that all its users share. Boundaries that grow (8, 16, 32 KiB) would put
  the first own block of a conversation as far behind it again; equal ones put it within the next 1 KiB.

Nothing is parsed. A look-alike of `"messages":` in front of the real one moves the start of the blocks, for all
requests of that conversation alike, and the end of the value is not looked for: blocks of what follows it are never met
again. Both are harmless, since all of this is a hint about where to send a request, never about what is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from qproxy.core.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK_BYTES = KIB
WINDOW_BYTES = 64 * KIB  # where the field is looked for, and how much of its value counts
REMEMBERED_BLOCKS = 65_536  # 1,000 conversations at the full window; about 8 MB when full

_FIELDS = (b'"messages"', b'"input"', b'"prompt"')
_ROLE = b'"role"'
_CANDIDATES = 4  # look-alikes of a name that are tried
_COLON = re.compile(rb"[ \t\n\r]*+:[ \t\n\r]*+")
_COLON_AND_TEXT = re.compile(rb"[ \t\n\r]*+:[ \t\n\r]*+\"")  # in a tool's schema an object follows


class Conversation(NamedTuple):
    """The key of one request's conversation.

    `chain` has one hash for each whole block, each covering everything before it; hashes hold within one process only.
    The first `settled` of them end before the last message begins, so every continuation of the conversation has them.
    """

    chain: tuple[int, ...] = ()
    settled: int = 0


NO_CONVERSATION = Conversation()


def conversation_of(pieces: Sequence[bytes]) -> Conversation:
    """The key of a body from its first pieces; more than 128 KiB of them is not looked at.

    `NO_CONVERSATION` where neither `messages` nor `input` nor `prompt` begins within the first 64 KiB, or where less
    than a block of it is there. The same bytes give the same key, however they are cut into pieces.
    """
    head = _first_bytes(pieces, 2 * WINDOW_BYTES)
    start = _value_start(head)
    if start is None:
        return NO_CONVERSATION
    stop = min(len(head), start + WINDOW_BYTES)
    return Conversation(tuple(_chain(head, start, stop)), _settled_blocks(head, start, stop))


def _first_bytes(pieces: Sequence[bytes], size: int) -> bytes:
    """At least the first `size` bytes, where there are as many; the pieces behind them are not touched."""
    if pieces and len(pieces[0]) >= size:
        return pieces[0]
    taken: list[bytes] = []
    for piece in pieces:
        taken.append(piece[:size])
        size -= len(taken[-1])
        if size == 0:
            break
    return b"".join(taken)


def _value_start(head: bytes) -> int | None:
    """Most bodies have the field within their first block; each search of the whole window costs 24 µs."""
    starts = (_start_of(field, head, stop) for stop in (BLOCK_BYTES, WINDOW_BYTES) for field in _FIELDS)
    return next((start for start in starts if start is not None), None)


def _start_of(field: bytes, head: bytes, stop: int) -> int | None:
    behind = 0
    for _ in range(_CANDIDATES):
        at = head.find(field, behind, stop)
        if at < 0:
            return None
        behind = at + len(field)
        if colon := _COLON.match(head, behind):
            return colon.end()
    return None


def _chain(head: bytes, start: int, stop: int) -> Iterator[int]:
    """`hash` is SipHash with a key of this process: 22 µs for 64 KiB where SHA-256 takes 50 and BLAKE2b 76."""
    previous = 0
    for at in range(start, stop - BLOCK_BYTES + 1, BLOCK_BYTES):
        previous = hash((previous, head[at : at + BLOCK_BYTES]))
        yield previous


def _settled_blocks(head: bytes, start: int, stop: int) -> int:
    at = stop
    for _ in range(_CANDIDATES):
        at = head.rfind(_ROLE, start, at)
        if at < 0:
            return 0
        if _COLON_AND_TEXT.match(head, at + len(_ROLE)):
            return (at - start) // BLOCK_BYTES
    return 0


class Home(NamedTuple):
    """Where a block was sent. `settled`: of the conversation that it was first met in, see `Conversation`."""

    account_id: str
    settled: int


class Known(NamedTuple):
    """What is remembered of a conversation: its first `depth` blocks, and the home of the last of these.

    `home` is None where nothing is. `expired`: the block behind them was known too, and had to make room.
    """

    depth: int
    home: Home | None
    expired: bool


class Homes:
    """The accounts of the latest blocks, `limit` of them at most, the least recently used ones forgotten first.

    Two generations stand in for an exact order of use: what is used goes to the young one; when that has half the
    limit, it becomes the old one, and what the old one still held has expired. A dict that keeps the order of use would
    cost a move for each block of each request. The blocks that expired last are kept to tell why a request missed.
    """

    __slots__ = ("_expired", "_half", "_old", "_young")

    def __init__(self, limit: int = REMEMBERED_BLOCKS) -> None:
        self._half = max(1, limit // 2)
        self._young: dict[int, Home] = {}
        self._old: dict[int, Home] = {}
        self._expired: dict[int, Home] = {}

    def __len__(self) -> int:
        """Blocks held, those in both generations twice; without the expired ones."""
        return len(self._young) + len(self._old)

    def find(self, conversation: Conversation) -> Known:
        """The longest known beginning. A block is never forgotten before those behind it, so the first one decides."""
        chain = conversation.chain
        if not chain or self._home(chain[0]) is None:
            return Known(0, None, bool(chain) and chain[0] in self._expired)
        depth = len(chain)
        while (home := self._home(chain[depth - 1])) is None:
            depth -= 1
        return Known(depth, home, depth < len(chain) and chain[depth] in self._expired)

    def keep(self, conversation: Conversation, account_id: str, moved_from: int) -> None:
        """Remember the conversation's blocks: those from `moved_from` on, and new ones, with this account as home."""
        home = Home(account_id, conversation.settled)
        for index, block in enumerate(conversation.chain):
            known = self._home(block)
            if known is None:
                self._young[block] = home
            elif index < moved_from:
                self._young[block] = known
            else:
                self._young[block] = Home(account_id, min(known.settled, home.settled))
        if len(self._young) >= self._half:
            self._expired, self._old, self._young = self._old, self._young, {}

    def _home(self, block: int) -> Home | None:
        return self._young.get(block) or self._old.get(block)

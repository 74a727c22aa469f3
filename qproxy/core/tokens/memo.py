"""How far growing conversations were counted, so that only what is new has to be.

A client sends the whole conversation with every request, and its bytes begin with those of the request before, up to
the end of the last message. Kept is the state behind that message, under the hash of all bytes before it; nothing of
the text, but for its last word. Hashing goes at about 1 GB/s, and lets other threads run.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from typing import NamedTuple

from qproxy.core.tokens.chat import ChatState
from qproxy.core.tokens.cutting import TallyState
from qproxy.core.tokens.scan import Span

HEAD_BYTES = 1_024  # bodies that share them are looked up together
DIGEST_BYTES = 16
MOST_PLACES = 512
MOST_SYSTEM_TURNS = 128
MOST_TEXT_CHARACTERS = 4 * 1024 * 1024
"""Of the last words together: where a text has no places to cut, they are long."""


class Place(NamedTuple):
    """Behind a message that ends before byte `at`: the state of the count, and the fields before the messages."""

    at: int
    state: ChatState
    fields: dict[str, Span]

    @property
    def characters(self) -> int:
        system = self.state.system
        return len(self.state.turns.rest) + (0 if system is None else len(system.rest))


class _Entry(NamedTuple):
    head: bytes
    place: Place


class Memo:
    """Of one server; for one thread. Bounded: what was not used for longest makes room."""

    def __init__(self, most_places: int = MOST_PLACES, most_characters: int = MOST_TEXT_CHARACTERS) -> None:
        self._most_places = most_places
        self._most_characters = most_characters
        self._characters = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # by the hash of everything before the place
        self._lengths: defaultdict[bytes, dict[int, int]] = defaultdict(dict)  # by head: how many places where
        self._system_turns: OrderedDict[bytes, TallyState] = OrderedDict()

    def __len__(self) -> int:
        """The places that are kept."""
        return len(self._entries)

    @property
    def characters(self) -> int:
        """Of the last words that are kept."""
        return self._characters

    def find(self, body: bytes, salt: bytes) -> Place | None:
        """The last place in `body` up to which it was counted before with the same `salt`."""
        head = _head(body, salt)
        lengths = self._lengths.get(head)
        if lengths is None:
            return None
        found: bytes | None = None
        hasher, view, at = _hasher(salt), memoryview(body), 0
        for length in sorted(lengths):
            if length > len(body):
                break
            hasher.update(view[at:length])
            at = length
            digest = hasher.digest()
            if digest in self._entries:
                found = digest
        if found is None:
            return None
        self._entries.move_to_end(found)
        return self._entries[found].place

    def keep(self, body: bytes, salt: bytes, places: list[Place]) -> None:
        """`places` are in the order in which they stand in `body`."""
        head = _head(body, salt)
        hasher, view, at = _hasher(salt), memoryview(body), 0
        for place in places:
            hasher.update(view[at : place.at])
            at = place.at
            self._put(hasher.digest(), _Entry(head, place))

    def _put(self, digest: bytes, entry: _Entry) -> None:
        self._drop(digest)
        self._entries[digest] = entry
        self._characters += entry.place.characters
        lengths = self._lengths[entry.head]
        lengths[entry.place.at] = lengths.get(entry.place.at, 0) + 1
        while len(self._entries) > self._most_places or self._characters > self._most_characters:
            self._drop(next(iter(self._entries)))

    def _drop(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is None:
            return
        self._characters -= entry.place.characters
        lengths = self._lengths[entry.head]
        lengths[entry.place.at] -= 1
        if not lengths[entry.place.at]:
            del lengths[entry.place.at]
        if not lengths:
            del self._lengths[entry.head]

    # --- system turns with their tools, which clients send behind the messages

    def system_turn(self, key: bytes) -> TallyState | None:
        state = self._system_turns.get(key)
        if state is not None:
            self._system_turns.move_to_end(key)
        return state

    def keep_system_turn(self, key: bytes, state: TallyState) -> None:
        self._system_turns[key] = state
        if len(self._system_turns) > MOST_SYSTEM_TURNS:
            self._system_turns.popitem(last=False)


def key_of(salt: bytes, *parts: bytes | memoryview) -> bytes:
    """A hash of all parts and their lengths."""
    hasher = _hasher(salt)
    for part in parts:
        hasher.update(b"%d:" % len(part))
        hasher.update(part)
    return hasher.digest()


def _head(body: bytes, salt: bytes) -> bytes:
    return key_of(salt, body[:HEAD_BYTES])


def _hasher(salt: bytes) -> hashlib.blake2b:
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    hasher.update(b"%d:" % len(salt))
    hasher.update(salt)
    return hasher

"""Idempotency keys, packed: whatever a group can write, it remembers every key of for a TTL.

A key takes about forty bytes, and what is kept of its results: no list or dictionary has an object for each.
Keys are spread by their digest over shards, in each of which they are byte strings of equal places, so that
most searches end in a short string of tags. They are forgotten in slices of time: a key lasts for the TTL at
least, and at most for one slice longer.

What one session's results may take of a slice is limited. Beyond it they are kept in brief.
"""

import struct
from collections import deque
from hashlib import sha256
from typing import Final, NamedTuple

from msgspec import Struct

from node.raft import kept
from node.raft.types import AlreadyExecuted, Cursor, KeyUse, Ok, Result

KEYS_MAX: Final = 2_097_152
SLICES_OF_TTL: Final = 8
# Of the results of one session in one slice.
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024

_SHARDS: Final = 4096
# Of the digest of a key's name: which shard, and by what it is found and known there.
_TAG_BYTES: Final = 4
_NAME_END: Final = 16
_SHARD_END: Final = 18
# The rest of the name, digest of the commands (shortened), index in the log, bytes that are kept.
_PLACE: Final = struct.Struct(">12s12sQH")
_COMMANDS_BYTES: Final = 12


class Remembered(NamedTuple):
    """A key that was used: by which commands, where, and what is kept of their results."""

    commands: bytes
    at: Cursor
    kept: bytes

    def is_of(self, commands_digest: bytes) -> bool:
        return self.commands == commands_digest[:_COMMANDS_BYTES]

    def outcome(self) -> Ok | AlreadyExecuted:
        return kept.outcome_of(self.kept, self.at)


class _Shard:
    """Keys in the order of their use."""

    __slots__ = ("kept", "places", "tags")

    def __init__(self) -> None:
        self.tags = bytearray()
        self.places = bytearray()
        self.kept = bytearray()

    def place_of(self, name: bytes) -> int | None:
        """Return where the key is whose digest begins with ``name``; None: nowhere."""
        tag, rest = name[:_TAG_BYTES], name[_TAG_BYTES:_NAME_END]
        at = self.tags.find(tag)
        while at >= 0:
            number, beside = divmod(at, _TAG_BYTES)
            if not beside and self.places.startswith(rest, number * _PLACE.size):
                return number
            at = self.tags.find(tag, at + 1)
        return None

    def add(self, name: bytes, commands: bytes, index: int, what: bytes) -> None:
        self.tags += name[:_TAG_BYTES]
        self.places += _PLACE.pack(name[_TAG_BYTES:_NAME_END], commands[:_COMMANDS_BYTES], index, len(what))
        self.kept += what

    def drop_oldest(self, count: int, kept_bytes: int) -> None:
        del self.tags[: count * _TAG_BYTES]
        del self.places[: count * _PLACE.size]
        del self.kept[:kept_bytes]


class _Slice(Struct):
    """What the keys of some stretch of the log's time take.

    Attributes:
        taken: by session: bytes that are kept of its results.
        shards: by shard: how many keys, and how many bytes are kept for them.
    """

    first_ms: int
    last_ms: int
    first_index: int
    count: int = 0
    brief: int = 0
    kept_bytes: int = 0
    taken: dict[bytes, int] = {}
    shards: dict[int, list[int]] = {}

    def note(self, shard_number: int, session: bytes, taken: int, what: bytes) -> None:
        """Count a key of ``session``, which had ``taken`` so much."""
        size = len(what)
        self.count += 1
        self.kept_bytes += size
        self.brief += kept.is_brief(what)
        self.taken[session] = taken + size
        share = self.shards.get(shard_number)
        if share is None:
            self.shards[shard_number] = [1, size]
        else:
            share[0] += 1
            share[1] += size


class KeyTable:
    """The keys of the last TTL, by the time of the entries that used them."""

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._slice_ms = max(1, ttl_ms // SLICES_OF_TTL)
        self._slices: deque[_Slice] = deque()
        self._shards: dict[int, _Shard] = {}
        self._terms: deque[tuple[int, int]] = deque()  # (index, term): of the entries from there on
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        return self._count >= KEYS_MAX

    def use(self) -> KeyUse:
        slices = self._slices
        return KeyUse(self._count, sum(s.kept_bytes for s in slices), sum(s.brief for s in slices))

    def oldest_ms(self) -> int | None:
        """Return until when the oldest keys were used; None if there are none."""
        return self._slices[0].last_ms if self._slices else None

    def expire(self, time_ms: int) -> None:
        """Forget what was used longer ago than the TTL, as far as it is whole slices."""
        while self._slices and self._slices[0].last_ms + self._ttl_ms < time_ms:
            self._forget(self._slices.popleft())

    def _forget(self, oldest: _Slice) -> None:
        self._count -= oldest.count
        for number, (count, kept_bytes) in oldest.shards.items():
            shard = self._shards[number]
            shard.drop_oldest(count, kept_bytes)
            if not shard.tags:
                del self._shards[number]
        first = self._slices[0].first_index if self._slices else None
        while self._terms and (first is None or (len(self._terms) > 1 and self._terms[1][0] <= first)):
            self._terms.popleft()

    def find(self, name: bytes) -> Remembered | None:
        """Return what is remembered of a key."""
        known = sha256(name).digest()
        shard = self._shards.get(_shard_of(known))
        place = None if shard is None else shard.place_of(known)
        return None if shard is None or place is None else self._remembered(shard, place)

    def _remembered(self, shard: _Shard, place: int) -> Remembered:
        start = 0
        for number, (_, commands, index, size) in enumerate(_PLACE.iter_unpack(shard.places)):
            if number == place:
                term = next(term for first, term in reversed(self._terms) if first <= index)
                return Remembered(commands, Cursor(term, index), bytes(shard.kept[start : start + size]))
            start += size
        raise AssertionError("a place beyond the shard")

    def add(
        self,
        name: bytes,
        commands_digest: bytes,
        at: Cursor,
        results: tuple[Result, ...],
        *,
        size: int,
        session: bytes,
        time_ms: int,
    ) -> None:
        """Remember a key that is not known yet, and what the commands of ``session`` came to."""
        current = self._slices[-1] if self._slices else None
        if current is None or time_ms >= current.first_ms + self._slice_ms:
            current = _Slice(time_ms, time_ms, at.index)
            self._slices.append(current)
        current.last_ms = time_ms
        if not self._terms or self._terms[-1][1] != at.term:
            self._terms.append((at.index, at.term))
        known = sha256(name).digest()
        number = _shard_of(known)
        shard = self._shards.get(number)
        if shard is None:
            shard = self._shards[number] = _Shard()
        taken = current.taken.get(session, 0)
        what = kept.keep(results, size, whole=taken < KEPT_BYTES_MAX)
        shard.add(known, commands_digest, at.index, what)
        current.note(number, session, taken, what)
        self._count += 1


def _shard_of(known: bytes) -> int:
    return int.from_bytes(known[_NAME_END:_SHARD_END]) % _SHARDS

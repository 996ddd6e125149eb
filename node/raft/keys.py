"""Idempotency keys, packed: at any rate of writing, a group remembers every key for a TTL.

A key takes about forty bytes and the kept part of its results. No list or dictionary holds an object per key.
The digest of a key selects its shard. In a shard the keys are byte strings with places of equal size, so that
most searches end in a short string of tags. They are forgotten in slices of time: a key lasts for the TTL at
least, and at most for one slice longer.

The bytes that one session's results may take of a slice are limited. Results beyond that limit are kept in
brief.
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
# The limit of the bytes that are kept of one session's results in one slice.
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024

_SHARDS: Final = 1024
# The ends of three parts of the digest of a key's name: a tag that finds the key in its shard, bytes that
# identify it there, and the shard's number.
_TAG_BYTES: Final = 4
_NAME_END: Final = 16
_SHARD_END: Final = 18
# The rest of the name, digest of the commands (shortened), index in the log, bytes that are kept.
_PLACE: Final = struct.Struct(">12s12sQH")
_COMMANDS_BYTES: Final = 12


class Remembered(NamedTuple):
    """A used key: the digest of its commands, their place, and what is kept of their results."""

    commands: bytes
    at: Cursor
    kept: bytes

    def is_of(self, commands_digest: bytes) -> bool:
        return self.commands == commands_digest[:_COMMANDS_BYTES]

    def outcome(self) -> Ok | AlreadyExecuted:
        return kept.outcome_of(self.kept, self.at)


class _Shard:
    """Keys in the order of their use: their tags, and for each its place with what is kept behind it."""

    __slots__ = ("body", "tags")

    def __init__(self) -> None:
        self.tags = bytearray()
        self.body = bytearray()

    def find(self, known: bytes) -> tuple[bytes, int, bytes] | None:
        """Return commands, index and kept results of the key with digest ``known``, None if not here."""
        tag, name = known[:_TAG_BYTES], known[_TAG_BYTES:_NAME_END]
        at = self.tags.find(tag)
        while at >= 0:
            number, beside = divmod(at, _TAG_BYTES)
            if not beside:
                found, commands, index, what = self._at(number)
                if found == name:
                    return commands, index, what
            at = self.tags.find(tag, at + 1)
        return None

    def _at(self, number: int) -> tuple[bytes, bytes, int, bytes]:
        """Return the key at place ``number``. Only a repeated key, or two equal tags, cost this walk."""
        body, start = self.body, 0
        for _ in range(number):
            start += _PLACE.size + _PLACE.unpack_from(body, start)[3]
        name, commands, index, size = _PLACE.unpack_from(body, start)
        start += _PLACE.size
        return name, commands, index, bytes(body[start : start + size])

    def drop_oldest(self, count: int, size: int) -> None:
        del self.tags[: count * _TAG_BYTES]
        del self.body[:size]


class _Slice(Struct):
    """The space that the keys of one slice of the log's time take.

    Attributes:
        taken: by session: bytes kept of its results.
        shards: by shard: how many keys, and how many bytes of its body.
    """

    first_ms: int
    last_ms: int
    first_index: int
    count: int = 0
    brief: int = 0
    kept_bytes: int = 0
    taken: dict[bytes, int] = {}
    shards: dict[int, list[int]] = {}


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
        """Return the time up to which the oldest slice of keys was used; None if no key is remembered."""
        return self._slices[0].last_ms if self._slices else None

    def expire(self, time_ms: int) -> None:
        """Forget the slices in which every key was used longer ago than the TTL."""
        while self._slices and self._slices[0].last_ms + self._ttl_ms < time_ms:
            self._forget(self._slices.popleft())

    def _forget(self, oldest: _Slice) -> None:
        self._count -= oldest.count
        for number, (count, size) in oldest.shards.items():
            shard = self._shards[number]
            shard.drop_oldest(count, size)
            if not shard.tags:
                del self._shards[number]
        first = self._slices[0].first_index if self._slices else None
        while self._terms and (first is None or (len(self._terms) > 1 and self._terms[1][0] <= first)):
            self._terms.popleft()

    def find(self, name: bytes) -> Remembered | None:
        """Return what is remembered of a key."""
        known = sha256(name).digest()
        shard = self._shards.get(_shard_of(known))
        found = None if shard is None else shard.find(known)
        if found is None:
            return None
        commands, index, what = found
        term = next(term for first, term in reversed(self._terms) if first <= index)
        return Remembered(commands, Cursor(term, index), what)

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
        """Remember a key that is not known yet, and the results of the commands of ``session``."""
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
        kept_bytes = len(what)
        shard.tags += known[:_TAG_BYTES]
        shard.body += _PLACE.pack(known[_TAG_BYTES:], commands_digest, at.index, kept_bytes) + what
        share = current.shards.get(number)
        if share is None:
            current.shards[number] = [1, _PLACE.size + kept_bytes]
        else:
            share[0] += 1
            share[1] += _PLACE.size + kept_bytes
        current.taken[session] = taken + kept_bytes
        current.kept_bytes += kept_bytes
        current.brief += kept.is_brief(what)
        current.count += 1
        self._count += 1


def _shard_of(known: bytes) -> int:
    return int.from_bytes(known[_NAME_END:_SHARD_END]) % _SHARDS

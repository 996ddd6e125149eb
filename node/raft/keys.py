"""Idempotency keys, packed: at any rate of writing, a group remembers every key for a TTL.

A key takes about forty bytes and the kept part of its results. No list or dictionary holds an object per key.
The digest of a key selects its shard, which is one string of records in the order of their use. There are so
many shards that this string is short. Keys are forgotten in slices of time: a key lasts for the TTL at least,
and at most for one slice longer. From then on its record counts no more. The space is freed piece by piece
while further keys are added, and at once when no key is left.

The bytes that one session's results may take of a slice are limited. Results beyond that limit are kept in
brief.
"""

import struct
from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final, NamedTuple

from msgspec import Struct

from node.raft.kept import BRIEF, keep, outcome_of
from node.raft.types import AlreadyExecuted, Cursor, KeyUse, Ok, Result

KEYS_MAX: Final = 2_097_152
SLICES_OF_TTL: Final = 8
# The limit of the bytes that are kept of one session's results in one slice.
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024

_SHARDS: Final = 32_768
# How many shards are freed of forgotten keys for each key that is added.
_SWEPT_AT_ONCE: Final = 2
# Of the digest of a key's name: these bytes identify the key in its shard, whose number is behind them.
_NAME_BYTES: Final = 16
_SHARD: Final = struct.Struct(f">{_NAME_BYTES}xH")
# Name, digest of the commands (shortened), index in the log, bytes that are kept, which follow.
_RECORD: Final = struct.Struct(f">{_NAME_BYTES}s12sQH")
_COMMANDS_BYTES: Final = 12
_SHARD_COST: Final = 150  # bytes, of a shard beside its records
_SHARDS_AT_ONCE: Final = 64  # in one value of a frozen table


class Remembered(NamedTuple):
    """A used key: the digest of its commands, their place, and what is kept of their results."""

    commands: bytes
    at: Cursor
    kept: bytes

    def is_of(self, commands_digest: bytes) -> bool:
        return self.commands == commands_digest[:_COMMANDS_BYTES]

    def outcome(self) -> Ok | AlreadyExecuted:
        return outcome_of(self.kept, self.at)


class _Slice(Struct):
    """The keys of one slice of the log's time.

    Attributes:
        first_index: of the entry of its first key.
        before: how many keys were added before it, ever.
        taken: by session: bytes kept of its results.
    """

    first_ms: int
    last_ms: int
    first_index: int
    before: int
    brief: int = 0
    taken: dict[bytes, int] = {}


class FrozenKeys:
    """The keys as they were. Values: everything but the shards, then ``[[shard, records]...]`` repeatedly."""

    def __init__(self, first: list[Any], shards: dict[int, bytearray], frozen: "list[FrozenKeys]") -> None:
        self._first = first
        self._shards = shards
        self._numbers = list(shards)
        self._left = set(shards)
        self._before: dict[int, bytes] = {}
        self._frozen = frozen

    def keep(self, number: int) -> None:
        """Note a shard before it changes."""
        if number in self._left and number not in self._before:
            self._before[number] = bytes(self._shards[number])

    def values(self) -> Iterator[list[Any]]:
        yield self._first
        for start in range(0, len(self._numbers), _SHARDS_AT_ONCE):
            numbers = self._numbers[start : start + _SHARDS_AT_ONCE]
            self._left.difference_update(numbers)
            yield [[number, self._taken(number)] for number in numbers]

    def _taken(self, number: int) -> bytes:
        before = self._before.pop(number, None)
        return bytes(self._shards[number]) if before is None else before

    def release(self) -> None:
        if self in self._frozen:
            self._frozen.remove(self)


class KeyTable:
    """The keys of the last TTL, by the time of the entries that used them."""

    def __init__(self, ttl_ms: int) -> None:
        self._frozen: list[FrozenKeys] = []
        self._ttl_ms = ttl_ms
        self._slice_ms = max(1, ttl_ms // SLICES_OF_TTL)
        self._slices: deque[_Slice] = deque()
        self._shards: dict[int, bytearray] = {}
        self._to_sweep: list[int] = []
        self._terms: deque[tuple[int, int]] = deque()  # (index, term): of the entries from there on
        self._term = -1  # the last one of them
        self._sought = self._known = b""  # the last key that was looked for, and its digest
        self._added = 0  # keys, ever
        self._forgotten = 0
        self._record_bytes = 0  # of all shards

    def __len__(self) -> int:
        return self._added - self._forgotten

    @property
    def is_full(self) -> bool:
        return self._added - self._forgotten >= KEYS_MAX

    def use(self) -> KeyUse:
        slices = self._slices
        return KeyUse(len(self), sum(sum(s.taken.values()) for s in slices), sum(s.brief for s in slices))

    @property
    def memory_bytes(self) -> int:
        """About how much memory the table takes, with what is forgotten and not yet freed."""
        # A string that grows has an eighth more than it needs.
        return self._record_bytes * 9 // 8 + _SHARD_COST * len(self._shards)

    def oldest_ms(self) -> int | None:
        """Return the time up to which the oldest slice of keys was used; None if no key is remembered."""
        return self._slices[0].last_ms if self._slices else None

    def expire(self, time_ms: int) -> None:
        """Forget the slices in which every key was used longer ago than the TTL."""
        slices, count = self._slices, len(self._slices)
        while slices and slices[0].last_ms + self._ttl_ms < time_ms:
            slices.popleft()
        if len(slices) == count:
            return
        if not slices:
            self._forgotten = self._added
            self._shards = {}  # another one: a frozen table goes on with the old one
            self._record_bytes = 0
            self._to_sweep.clear()
            self._terms.clear()
            self._term = -1
            return
        self._forgotten = slices[0].before
        if not self._to_sweep:  # one that is not done goes on: at a slow pace it takes many slices
            self._to_sweep = list(self._shards)
        while len(self._terms) > 1 and self._terms[1][0] <= slices[0].first_index:
            self._terms.popleft()

    def _sweep(self, number: int) -> None:
        """Free the space of what is forgotten of one shard."""
        for frozen in self._frozen:
            frozen.keep(number)
        shard, first, start = self._shards[number], self._slices[0].first_index, 0
        while start < len(shard):
            _, _, index, size = _RECORD.unpack_from(shard, start)
            if index >= first:
                break
            start += _RECORD.size + size
        self._record_bytes -= start
        if start == len(shard):
            del self._shards[number]
        else:
            del shard[:start]

    def find(self, name: bytes) -> Remembered | None:
        """Return what is remembered of a key."""
        self._sought, known = name, sha256(name).digest()
        self._known = known
        shard = self._shards.get(_SHARD.unpack_from(known)[0] % _SHARDS)
        if shard is None:
            return None
        # The newest first: an older one may be forgotten, and its space not be free yet.
        at = shard.rfind(known[:_NAME_BYTES])
        while at >= 0:
            if _is_record(shard, at):
                return self._remembered(shard, at)
            at = shard.rfind(known[:_NAME_BYTES], 0, at + _NAME_BYTES - 1)
        return None

    def _remembered(self, shard: bytearray, at: int) -> Remembered | None:
        _, commands, index, size = _RECORD.unpack_from(shard, at)
        if not self._slices or index < self._slices[0].first_index:
            return None
        at += _RECORD.size
        term = next(term for first, term in reversed(self._terms) if first <= index)
        return Remembered(commands, Cursor(term, index), bytes(shard[at : at + size]))

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
        term, index = at
        slices = self._slices
        if not slices or time_ms >= slices[-1].first_ms + self._slice_ms:
            slices.append(_Slice(time_ms, time_ms, index, self._added))
        current = slices[-1]
        current.last_ms = time_ms
        if term != self._term:
            self._term = term
            self._terms.append((index, term))
        taken = current.taken.get(session, 0)
        what = keep(results, size, whole=taken < KEPT_BYTES_MAX)
        kept_bytes = len(what)
        current.taken[session] = taken + kept_bytes
        if what[0] == BRIEF:
            current.brief += 1
        # It was looked for a moment ago.
        known = self._known if name == self._sought else sha256(name).digest()
        number = _SHARD.unpack_from(known)[0] % _SHARDS
        record = _RECORD.pack(known, commands_digest, index, kept_bytes) + what
        for frozen in self._frozen:
            frozen.keep(number)
        shard = self._shards.get(number)
        if shard is None:
            self._shards[number] = bytearray(record)
        else:
            shard += record
        self._record_bytes += _RECORD.size + kept_bytes
        self._added += 1
        if self._to_sweep:
            for _ in range(min(_SWEPT_AT_ONCE, len(self._to_sweep))):
                self._sweep(self._to_sweep.pop())

    # ---- snapshots ----------------------------------------------------------
    def freeze(self) -> FrozenKeys:
        """Freeze: a shard is copied before it changes, until it has been walked."""
        first = [
            [[one.first_ms, one.last_ms, one.first_index, one.before, one.brief, list(one.taken.items())]
             for one in self._slices],
            [list(term) for term in self._terms],
            list(self._to_sweep), self._added, self._forgotten,
        ]  # fmt: skip
        frozen = FrozenKeys(first, self._shards, self._frozen)
        self._frozen.append(frozen)
        return frozen

    def load(self, value: Any) -> None:
        """Take the next of ``FrozenKeys.values``; this table was empty before the first.

        Raises:
            ValueError, TypeError: it is no such value.
        """
        match value:
            case [[*slices], [*terms], [*to_sweep], int(added), int(forgotten)]:
                for first_ms, last_ms, first_index, before, brief, taken in slices:
                    one = _Slice(first_ms, last_ms, first_index, before, brief, dict(taken))
                    self._slices.append(one)
                self._terms.extend((index, term) for index, term in terms)
                self._term = self._terms[-1][1] if self._terms else -1
                self._to_sweep, self._added, self._forgotten = to_sweep, added, forgotten
            case [*shards]:
                for number, records in shards:
                    self._shards[number] = bytearray(records)
                    self._record_bytes += len(records)
            case _:
                raise ValueError("not a part of a table of keys")


def _is_record(shard: bytearray, place: int) -> bool:
    """Return whether a record begins at ``place``, and not in the middle of another one."""
    start = 0
    while start < place:
        start += _RECORD.size + _RECORD.unpack_from(shard, start)[3]
    return start == place

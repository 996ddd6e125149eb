"""The store of version 3: every revision since the last compaction can be read and watched.

Its history is one list of events, one place for each revision. Who reads the past of a key finds it by
bisection in the key's own events, and who watches walks the list: neither copies a value. The same list is
the undo log, since each event has what the key held before.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import merge
from operator import attrgetter
from typing import Final

from msgspec import Struct

from node.machines.base import CommandError
from node.machines.kv.frozen_older import FrozenStore
from node.machines.kv.leases import LEASE_COST, KeyLease, LeaseTable
from node.machines.kv.older import OlderStore
from node.machines.kv.sorted_keys import SortedKeys
from node.machines.kv.values import KEY_COST, REVISION_START, KeyEvent, Version

EVENT_COST: Final = 160  # what an event takes in memory beside the bytes that it alone keeps
_FIRST: Final = REVISION_START + 1  # the first revision that has events
_revision_of = attrgetter("revision")

Entry = KeyEvent | list[KeyEvent]  # what one revision did: nearly always one event


class _WasLease(Struct, frozen=True, gc=False):
    revision: int
    lease_id: int
    lease: KeyLease | None


class _WasClock(Struct, frozen=True, gc=False):
    revision: int
    clock_ms: int
    ticks: int


class _WasCompacted(Struct, frozen=True, gc=False):
    revision: int
    floor: int
    first: int
    dropped: list[Entry]
    oldest: Entry | None


_Undo = _WasLease | _WasClock | _WasCompacted


class Store:
    """State and its changes; the commands are in ``commands``, the queries in ``ranges`` and ``queries``.

    Attributes:
        revision: the head.
        compact_revision: the floor: the oldest revision that can be read.
        leases: the leases with their clock.
        frozen: frozen states that are still being walked.
    """

    def __init__(self) -> None:
        self.revision = REVISION_START
        self.compact_revision = 0
        self.leases = LeaseTable()
        self.frozen: list[FrozenStore] = []
        self.live: dict[bytes, Version] = {}
        self.keys = SortedKeys()
        self.log: list[Entry] = []  # from revision ``first`` on
        self.first = _FIRST
        self._gone = SortedKeys()  # keys that hold nothing now, and did since the floor
        self._ended: dict[bytes, list[KeyEvent]] = {}  # each key's events that ended a version
        self._live_bytes = 0
        self._past_bytes = 0
        self._events = 0
        self._undo: list[_Undo] = []

    @classmethod
    def of_older(cls, older: OlderStore) -> "Store":
        """Return the store of version 3 with the contents of an older one, whose floor may rise by one."""
        store = cls()
        live, past = older.history()
        floor = older.compact_revision
        written: dict[int, tuple[bytes, Version | None, Version | None]] = {}
        made: Version | None
        # Each revision of the older store changed one key: it made a version, ended one, or both.
        for key, version in live:
            store.load_live(key, version)
            written[version.mod_revision] = (key, version, None)
        for ended in past:
            _, made, _ = written.get(ended.end_revision, (b"", None, None))
            written[ended.end_revision] = (ended.key, made, ended.was)
            _, _, before = written.get(ended.was.mod_revision, (b"", None, None))
            written[ended.was.mod_revision] = (ended.key, ended.was, before)
        store.revision = older.revision
        # What happened at the floor itself is unknown if it was a deletion.
        store.compact_revision = min(floor + 1, older.revision) if floor else 0
        store.first = max(store.compact_revision, _FIRST)
        entries: list[Entry] = []
        for revision in range(store.first, store.revision + 1):
            key, made, before = written[revision]
            readable = revision > store.compact_revision
            entries.append(KeyEvent(key, revision, made, before if readable else None))
        store.load_log(entries)
        return store

    # ---- memory --------------------------------------------------------------------
    @property
    def bytes_used(self) -> int:
        """What counts towards the quota: equal on every member."""
        costs = KEY_COST * len(self.live) + EVENT_COST * self._events + LEASE_COST * len(self.leases.by_id)
        return self._live_bytes + self._past_bytes + costs

    @property
    def bytes_live(self) -> int:
        """The part of ``bytes_used`` that no compaction frees."""
        return self._live_bytes + KEY_COST * len(self.live) + LEASE_COST * len(self.leases.by_id)

    @property
    def memory_bytes(self) -> int:
        return self.bytes_used + sum(one.size for one in self.frozen)

    def require_room(self, grown: int, quota_bytes: int) -> None:
        """Raise if the store would be beyond the quota with ``grown`` bytes more."""
        if self.bytes_used + grown > quota_bytes:
            raise CommandError(
                "store-full", f"the store is limited to {quota_bytes} bytes; delete some keys, then compact"
            )

    # ---- reading --------------------------------------------------------------------
    def held(self, key: bytes) -> Version | None:
        """Return what ``key`` holds now."""
        return self.live.get(key)

    def version_at(self, key: bytes, at: int) -> Version | None:
        """Return what ``key`` held at a revision that can be read."""
        live = self.live.get(key)
        if live is not None and live.mod_revision <= at:
            return live
        ended = self._ended.get(key)
        if ended is None:
            return None
        place = bisect_right(ended, at, key=_revision_of)
        if place == len(ended):
            return None
        before = ended[place].before
        return before if before is not None and before.mod_revision <= at else None

    def known_keys(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """Yield, in order, every key of a range that holds something, or did since the floor."""
        return merge(self.keys.between(start, end), self._gone.between(start, end))

    def keys_at(self, prefix: bytes, after: bytes | None, at: int) -> Iterator[bytes]:
        """Yield, in order, every key with the prefix that may have had a version at ``at``."""
        start = prefix if after is None else max(prefix, after + b"\x00")
        keys = self.keys.from_key(start)
        if at != self.revision:
            keys = merge(keys, self._gone.from_key(start))
        for key in keys:
            if not key.startswith(prefix):
                return
            yield key

    def require_readable(self, at: int) -> None:
        """Raise unless revision ``at`` can be read."""
        if at > self.revision:
            raise CommandError("revision-future", f"the store is at revision {self.revision}")
        if at < self.compact_revision:
            raise CommandError(
                "revision-compacted", f"the oldest readable revision is {self.compact_revision}"
            )

    def events(
        self, first: int, last: int, start: bytes, end: bytes | None
    ) -> Iterator[tuple[int, Sequence[KeyEvent]]]:
        """Yield each revision in ``first..last`` that changed keys of the range, with its events in order.

        Raises:
            CommandError: a revision that is due was compacted; also in the middle of the walk.
        """
        for revision in range(max(first, _FIRST), min(last, self.revision) + 1):
            if revision < self.first:
                raise CommandError("revision-compacted", f"the oldest readable revision is {self.first}")
            entry = self.log[revision - self.first]
            found = [one for one in _events_of(entry) if start <= one.key and (end is None or one.key < end)]
            if found:
                yield revision, found

    def versions_until(self, at: int) -> Iterator[tuple[bytes, Version, int]]:
        """Yield every version that can be read at the floor or later, and was made by ``at``, in any order.

        With each comes the revision that ended it, 0 if none did by ``at``.
        """
        for key, version in self.live.items():
            if version.mod_revision <= at:
                yield key, version, 0
        for key, ended in self._ended.items():
            for event in ended:
                if event.before is not None and event.before.mod_revision <= at:
                    yield key, event.before, event.revision if event.revision <= at else 0

    # ---- changes ---------------------------------------------------------------------
    def write(
        self, key: bytes, value: bytes, before: Version | None, revision: int, lease: int = 0
    ) -> Version:
        """Put ``value`` under ``key``, which holds ``before``. ``revision`` is that of the whole command."""
        if self.frozen:
            for frozen in self.frozen:
                frozen.keep(key, before)
        if before is None:
            after = Version(value, revision, revision, 1, lease)
            self.keys.add(key)
            if key in self._ended:
                self._gone.remove(key)
            self._live_bytes += len(key) + len(value)
            was_lease = 0
        else:
            after = Version(value, before.create_revision, revision, before.version + 1, lease)
            self._live_bytes += len(value) - len(before.value)
            was_lease = before.lease
        self.live[key] = after
        self._record(KeyEvent(key, revision, after, before))
        if lease != was_lease:
            self._attach(key, was_lease, lease)
        return after

    def remove(self, key: bytes, before: Version, revision: int) -> None:
        """Delete ``key``, which holds ``before``."""
        for frozen in self.frozen:
            frozen.keep(key, before)
        del self.live[key]
        self.keys.remove(key)
        self._live_bytes -= len(key) + len(before.value)
        if key not in self._ended:
            self._ended[key] = []
        self._gone.add(key)
        self._record(KeyEvent(key, revision, None, before))
        if before.lease:
            self._attach(key, before.lease, 0)

    def _record(self, event: KeyEvent) -> None:
        self._events += 1
        before = event.before
        if before is not None:
            self._past_bytes += len(event.key) + len(before.value)
            ended = self._ended.get(event.key)
            if ended is None:
                self._ended[event.key] = [event]
            else:
                ended.append(event)
        if event.revision > self.revision:
            self.revision = event.revision
            self.log.append(event)
            return
        last = self.log[-1]
        if isinstance(last, KeyEvent):
            self.log[-1] = [last, event]
        else:
            last.append(event)

    def _attach(self, key: bytes, old: int, new: int) -> None:
        if old:
            self.leases.keys_of[old].discard(key)
        if new:
            self.leases.keys_of[new].add(key)

    def set_lease(self, lease_id: int, lease: KeyLease | None) -> None:
        """Grant, renew or forget a lease; no key belongs to one that is forgotten."""
        self._undo.append(_WasLease(self.revision, lease_id, self.leases.by_id.get(lease_id)))
        self.leases.set(lease_id, lease)

    def end_lease(self, lease_id: int) -> int:
        """Delete the lease with all its keys, at one revision; return how many keys that were."""
        keys = sorted(self.leases.keys_of[lease_id])
        revision = self.revision + 1
        for key in keys:
            self.remove(key, self.live[key], revision)
        self.set_lease(lease_id, None)
        return len(keys)

    def tick(self, clock_ms: int) -> None:
        """Move the lease clock, which never goes back."""
        leases = self.leases
        self._undo.append(_WasClock(self.revision, leases.clock_ms, leases.ticks))
        leases.clock_ms = max(leases.clock_ms, clock_ms)
        leases.ticks += 1

    def compact(self, floor: int) -> None:
        """Forget what can be read only before revision ``floor``, which is above the present floor."""
        count = max(floor - self.first, 0)
        dropped = self.log[:count]
        oldest = self.log[count] if len(self.log) > count and self.first + count == floor else None
        self._undo.append(_WasCompacted(self.revision, self.compact_revision, self.first, dropped, oldest))
        for entry in dropped if oldest is None else [*dropped, oldest]:
            for event in _events_of(entry):
                if event.before is not None:
                    self._past_bytes -= len(event.key) + len(event.before.value)
                    self._forget_until(event.key, floor)
        self._events -= sum(len(_events_of(entry)) for entry in dropped)
        if self.frozen:
            self.log = self.log[count:]
        else:
            del self.log[:count]
        if oldest is not None:
            self.log[0] = _without_before(oldest)
        self.compact_revision = floor
        self.first = max(self.first, floor)

    def _forget_until(self, key: bytes, floor: int) -> None:
        ended = self._ended.get(key)
        if ended is None or ended[0].revision > floor:
            return
        del ended[: bisect_right(ended, floor, key=_revision_of)]
        if not ended:
            del self._ended[key]
            if key not in self.live:
                self._gone.remove(key)

    # ---- undo -------------------------------------------------------------------
    def savepoint(self) -> int:
        """Return a token; changes before it can no longer be undone."""
        if self._undo:
            self._undo.clear()
        return self.revision

    def rollback(self, revision: int) -> None:
        """Return to the newest savepoint."""
        if self.frozen and (self._undo or self.revision > revision):
            self.log = self.log.copy()  # a frozen state may still walk the one that it knows
        while self._undo:
            was = self._undo.pop()
            self._take_back_events(was.revision)
            match was:
                case _WasLease(_, lease_id, lease):
                    self.leases.set(lease_id, lease)
                case _WasClock(_, clock_ms, ticks):
                    self.leases.clock_ms, self.leases.ticks = clock_ms, ticks
                case _WasCompacted():
                    self._take_back_compaction(was)
        self._take_back_events(revision)

    def _take_back_events(self, revision: int) -> None:
        while self.revision > revision:
            for event in reversed(_events_of(self.log.pop())):
                self._take_back(event)
            self.revision -= 1

    def _take_back(self, event: KeyEvent) -> None:
        key, now, before = event.key, event.version, event.before
        for frozen in self.frozen:
            frozen.keep(key, now)
        self._events -= 1
        if now is not None:
            self._live_bytes -= len(key) + len(now.value)
        if before is not None:
            self._live_bytes += len(key) + len(before.value)
            self._past_bytes -= len(key) + len(before.value)
            self.live[key] = before
            ended = self._ended[key]
            ended.pop()
            if not ended:
                del self._ended[key]
            if now is None:
                self._gone.remove(key)
                self.keys.add(key)
        else:
            del self.live[key]
            self.keys.remove(key)
            if key in self._ended:
                self._gone.add(key)
        lease_now, lease_before = 0 if now is None else now.lease, 0 if before is None else before.lease
        if lease_now != lease_before:
            self._attach(key, lease_now, lease_before)

    def _take_back_compaction(self, was: _WasCompacted) -> None:
        if was.oldest is not None:
            self.log[0] = was.oldest
        self.log[:0] = was.dropped
        self.compact_revision, self.first = was.floor, was.first
        self._events += sum(len(_events_of(entry)) for entry in was.dropped)
        again: dict[bytes, list[KeyEvent]] = {}
        for entry in was.dropped if was.oldest is None else [*was.dropped, was.oldest]:
            for event in _events_of(entry):
                if event.before is not None:
                    self._past_bytes += len(event.key) + len(event.before.value)
                    again.setdefault(event.key, []).append(event)
        for key, events in again.items():
            if key not in self._ended and key not in self.live:
                self._gone.add(key)
            self._ended[key] = events + self._ended.get(key, [])

    # ---- restoring -------------------------------------------------------------------
    def load_live(self, key: bytes, version: Version) -> None:
        """Add a key of a store that is being restored; its lease is already there."""
        self.live[key] = version
        self.keys.add(key)
        self._live_bytes += len(key) + len(version.value)
        if version.lease:
            self.leases.keys_of[version.lease].add(key)

    def load_log(self, entries: list[Entry]) -> None:
        """Take the history, oldest first, once every key is loaded."""
        self.log = entries
        for entry in entries:
            for event in _events_of(entry):
                self._events += 1
                if event.before is not None:
                    self._past_bytes += len(event.key) + len(event.before.value)
                    self._ended.setdefault(event.key, []).append(event)
        for key in self._ended:
            if key not in self.live:
                self._gone.add(key)


def _events_of(entry: Entry) -> list[KeyEvent]:
    return [entry] if isinstance(entry, KeyEvent) else entry


def _without_before(entry: Entry) -> Entry:
    """Return what happened at the floor: what the keys held before cannot be read any more."""
    bare = [KeyEvent(one.key, one.revision, one.version, None) for one in _events_of(entry)]
    return bare[0] if isinstance(entry, KeyEvent) else bare

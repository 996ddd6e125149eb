"""The store of version 3 in items, while it goes on.

Items: ``[3, revision, compact_revision, clock_ms, ticks]``; ``["leases", rows]`` by id, each
``[id, ttl_s, expires_ms or null, settles_at]``; ``["live", rows]`` in byte order of the keys; then
``["log", entries]``, the newest revision first. An entry has for each event of the revision, in order,
``[key, deleted, row before or null]``: what the key held afterwards is what the event after it
shows, or the live row. So no value is there twice.
"""

from collections.abc import Iterator
from typing import Any, Final

from node.machines.kv.frozen_older import BYTES_MAX, ROWS_MAX, FrozenStore
from node.machines.kv.leases import KeyLease
from node.machines.kv.store import Entry, Store
from node.machines.kv.values import REVISION_START, KeyEvent, Version, row_of

VERSION: Final = 3


class FrozenThird(FrozenStore):
    """A store as it was; see ``FrozenStore``."""

    def __init__(self, store: Store) -> None:
        leases = store.leases
        head = [VERSION, store.revision, store.compact_revision, leases.clock_ms, leases.ticks]
        super().__init__(head, [], store.live, store.keys, store.frozen)
        self._leases = leases.by_id.copy()
        self._log = store.log  # the store replaces it before it would change what is walked here
        self._log_size = len(store.log)

    def items(self) -> Iterator[Any]:
        yield self._first
        ids = sorted(self._leases)
        for at in range(0, len(ids), ROWS_MAX):
            yield ["leases", [_lease_row(one, self._leases[one]) for one in ids[at : at + ROWS_MAX]]]
        while rows := self.next_rows():
            yield ["live", rows]
        yield from self._history()

    def _history(self) -> Iterator[Any]:
        entries: list[Any] = []
        size = 0
        for place in range(self._log_size - 1, -1, -1):
            entry = self._log[place]
            entries.append([_event_row(one) for one in ([entry] if isinstance(entry, KeyEvent) else entry)])
            size += sum(_size(one) for one in ([entry] if isinstance(entry, KeyEvent) else entry))
            if len(entries) == ROWS_MAX or size >= BYTES_MAX:
                yield ["log", entries]
                entries, size = [], 0
        if entries:
            yield ["log", entries]

    def _row(self, key: bytes, held: Any) -> list[Any]:
        return row_of(key, held)


def _lease_row(lease_id: int, lease: KeyLease) -> list[Any]:
    return [lease_id, lease.ttl_s, lease.expires_ms, lease.settles_at]


def _event_row(event: KeyEvent) -> list[Any]:
    before = event.before
    return [event.key, event.version is None, None if before is None else row_of(event.key, before)[1:]]


def _size(event: KeyEvent) -> int:
    return len(event.key) + (0 if event.before is None else len(event.before.value))


class ThawingThird:
    """Fills a fresh store.

    Attributes:
        store: what has been filled; whole after ``finish``.
    """

    def __init__(self) -> None:
        self.store = Store()
        self._newest_first: list[Entry] = []
        self._now: dict[bytes, Version | None] = {}  # what a key held behind the part that is still to come
        self._revision = 0  # of the next entry

    def begin(self, item: Any) -> None:
        _, revision, floor, clock_ms, ticks = item
        store = self.store
        store.revision, store.compact_revision = _whole(revision), _whole(floor)
        store.leases.clock_ms, store.leases.ticks = _whole(clock_ms), _whole(ticks)
        store.first = max(floor, REVISION_START + 1)
        self._revision = revision

    def take(self, item: Any) -> None:
        match item:
            case ["leases", [*rows]]:
                for lease_id, ttl_s, expires_ms, settles_at in rows:
                    expires = None if expires_ms is None else _whole(expires_ms)
                    self.store.leases.set(
                        _whole(lease_id), KeyLease(_whole(ttl_s), expires, _whole(settles_at))
                    )
            case ["live", [*rows]]:
                for key, *row in rows:
                    self.store.load_live(bytes(key), _version(row))
            case ["log", [*entries]]:
                for entry in entries:
                    self._take_entry(entry)
            case _:
                raise ValueError("not an item of a frozen store")

    def _take_entry(self, rows: Any) -> None:
        events: list[KeyEvent] = []
        for key, deleted, before_row in rows:
            # Within one revision only a deletion may meet a key again, and it then finds nothing to delete.
            now = self._now[key] if key in self._now else self.store.live.get(key)
            if deleted is not (now is None):
                raise ValueError("the history of a frozen store contradicts its keys")
            before = None if before_row is None else _version(before_row)
            events.append(KeyEvent(bytes(key), self._revision, now, before))
            self._now[key] = before
        if not events:
            raise ValueError("a revision of a frozen store has no events")
        self._newest_first.append(events[0] if len(events) == 1 else events)
        self._revision -= 1

    def finish(self) -> Store:
        store = self.store
        if len(self._newest_first) != max(store.revision - store.first + 1, 0):
            raise ValueError("the history of a frozen store is not whole")
        self._newest_first.reverse()
        store.load_log(self._newest_first)
        return store


def _version(row: Any) -> Version:
    value, create_revision, mod_revision, version, lease = row
    return Version(
        bytes(value), _whole(create_revision), _whole(mod_revision), _whole(version), _whole(lease)
    )


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a number of a frozen store is not whole")
    return value

"""A key-value store in items, while it goes on: what a snapshot of the group holds of it.

Items: ``[revision, compact_revision]``, then ``["past", rows]``, then ``["live", rows]`` in byte order.
"""

from collections.abc import Iterator
from heapq import merge
from typing import Any, Final, Protocol

from node.machines.kv.sorted_keys import SortedKeys

# An item has this many rows at most, and ends with the row that reaches this many bytes.
ROWS_MAX: Final = 128
BYTES_MAX: Final = 64 * 1024


class Held(Protocol):
    """What a key holds."""

    @property
    def value(self) -> bytes: ...
    @property
    def create_revision(self) -> int: ...
    @property
    def mod_revision(self) -> int: ...
    @property
    def version(self) -> int: ...


class FrozenStore:
    """A store as it was.

    Args:
        first: the revisions.
        past: rows of the versions that ended.
        live: what every key holds, in the store's own dictionary.
        keys: the store's own keys, in order.
        frozen: where the store keeps what has to be informed of changes.

    Attributes:
        size: in bytes, of what changed keys held.
    """

    def __init__(
        self,
        first: list[int],
        past: list[list[Any]],
        live: dict[bytes, Any],
        keys: SortedKeys,
        frozen: "list[FrozenStore]",
    ) -> None:
        self._first = first
        self._past = past
        self._live = live
        self._keys = keys
        self._frozen = frozen
        self.size = 0
        self._from = b""  # every key before this one has been walked
        self._before: dict[bytes, Held | None] = {}  # what changed keys held
        self._existed = SortedKeys()  # those of them that held something

    def keep(self, key: bytes, held: Held | None) -> None:
        """Note what ``key`` holds, before it changes."""
        if key < self._from or key in self._before:
            return
        self._before[key] = held
        if held is not None:
            self._existed.add(key)
            self.size += len(key) + len(held.value)

    def items(self) -> Iterator[Any]:
        yield self._first
        for at in range(0, len(self._past), ROWS_MAX):
            yield ["past", self._past[at : at + ROWS_MAX]]
        while rows := self.next_rows():
            yield ["live", rows]

    def next_rows(self) -> list[list[Any]]:
        rows: list[list[Any]] = []
        size = 0
        last = b""
        for key in merge(self._keys.from_key(self._from), self._existed.from_key(self._from)):
            if key == last:
                continue
            last = key
            held: Held | None = self._before[key] if key in self._before else self._live[key]
            if held is None:
                continue  # it came later
            rows.append(self._row(key, held))
            size += len(key) + len(held.value)
            if len(rows) == ROWS_MAX or size >= BYTES_MAX:
                break
        if rows:
            self._from = last + b"\x00"  # the next key in byte order
        return rows

    def _row(self, key: bytes, held: Held) -> list[Any]:
        return [key, held.value, held.create_revision, held.mod_revision, held.version]

    def release(self) -> None:
        if self in self._frozen:
            self._frozen.remove(self)


class Restorable(Protocol):
    """A store of versions 1 and 2, as far as it is restored here."""

    def load(self, revision: int, compact_revision: int) -> None: ...
    def load_live(self, row: Any) -> None: ...
    def load_past(self, row: Any) -> None: ...


class ThawingOlder:
    """Fills a fresh store."""

    def __init__(self, fresh: Restorable) -> None:
        self._fresh = fresh
        self._begun = False

    def take(self, item: Any) -> None:
        try:
            match item:
                case [int(revision), int(compact_revision)] if not self._begun:
                    self._fresh.load(revision, compact_revision)
                    self._begun = True
                case ["past", [*rows]] if self._begun:
                    for row in rows:
                        self._fresh.load_past(row)
                case ["live", [*rows]] if self._begun:
                    for row in rows:
                        self._fresh.load_live(row)
                case _:
                    raise ValueError("not an item of a frozen store")
        except TypeError as exc:
            raise ValueError("not an item of a frozen store") from exc

    def finish(self) -> None:
        if not self._begun:
            raise ValueError("a frozen store has at least one item")

"""The state of all collections at one moment, and its canonical form: equal states give equal rows.

Each collection is a row ``[name, kind, version, length, capacity, next_sequence]`` and then one row for each
item: ``[key, value]`` of a map, a cell or a once, ``[element]`` of a set, ``[value]`` of a vec, and ``[key,
value, priority, sequence]`` of a queue. Names and keys ascend in byte order, a vec's values go by position.
"""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from node.machines.collections.sequence import PersistentSequence
from node.machines.collections.sorted_map import SortedMap
from node.machines.collections.state import Body, Collection, Queue

ITEM_ROWS: Final = 128  # of one item in a snapshot of a group
KINDS: Final = ("map", "vec", "set", "cell", "once", "queue")
Row = list[Any]
SLICE_BYTES_MAX: Final = 64 * 1024  # a slice ends with the row that reaches this many bytes


class Frozen(Struct, frozen=True, gc=False):
    """All collections, by name. Nothing changes it, so it can be read while the machine goes on.

    ``size``: what they count towards the store's limit, in bytes.
    """

    collections: SortedMap[Collection]
    size: int

    def items(self) -> Iterator[list[Row]]:
        """Yield the canonical rows in lists of ``ITEM_ROWS``, as a snapshot of a group takes them."""
        return self.slices(ITEM_ROWS)

    def release(self) -> None:
        """Do nothing: the machine never changes this state."""

    def slices(self, rows_max: int) -> Iterator[list[Row]]:
        """Yield the canonical rows in lists of at most ``rows_max``."""
        rows = self._rows()
        taken: list[Row] = []
        size = 0
        for row in rows:
            taken.append(row)
            size += sum(len(part) for part in row if type(part) is bytes)
            if len(taken) == rows_max or size >= SLICE_BYTES_MAX:
                yield taken
                taken, size = [], 0
        if taken:
            yield taken

    def _rows(self) -> Iterator[Row]:
        for name, collection in self.collections.items():
            body = collection.body
            bounds = (body.capacity, body.next_sequence) if isinstance(body, Queue) else (0, 0)
            yield [name, collection.kind, collection.version, len(body), *bounds]
            yield from _item_rows(collection.kind, body)


def _item_rows(kind: str, body: Body) -> Iterator[Row]:
    match body:
        case PersistentSequence():
            for value in body.values():
                yield [value]
        case Queue():
            for key, entry in body.entries.items():
                yield [key, entry.value, entry.priority, entry.sequence]
        case SortedMap():
            for key, value in body.items():
                yield [key] if kind == "set" else [key, value]

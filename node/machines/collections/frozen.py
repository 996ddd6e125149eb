"""The state of all collections at one moment, and its canonical form: equal states give equal rows.

Each collection is a row ``[name, kind, version, length, capacity, next_sequence]`` and then one row for each
item: ``[key, value]`` of a map, a cell or a once, ``[element]`` of a set, ``[value]`` of a vec, and ``[key,
value, priority, sequence]`` of a queue. Names and keys ascend in byte order, a vec's values go by position.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from msgspec import Struct

from node.machines.collections.queues import cost as queue_cost
from node.machines.collections.queues import rank
from node.machines.collections.sequence import PersistentSequence
from node.machines.collections.sorted_map import SortedMap
from node.machines.collections.state import ITEM_COST, Body, Collection, Queue, QueueEntry

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


class ThawingRows:
    """Collects the rows of a frozen state, and hands all of them to ``restore`` in the end."""

    def __init__(self, restore: Callable[[list[Row]], None]) -> None:
        self._restore = restore
        self._rows: list[Row] = []

    def take(self, item: Any) -> None:
        if not isinstance(item, list):
            raise ValueError("not the rows of collections")  # noqa: TRY004 - foreign data
        self._rows += item

    def finish(self) -> None:
        self._restore(self._rows)


def thaw(rows: Sequence[Any]) -> Frozen:
    """Return the state with these rows.

    Raises:
        ValueError: they are not the canonical rows of any state.
    """
    names: list[bytes] = []
    found: list[Collection] = []
    left = iter(rows)
    try:
        for name, kind, version, length, capacity, next_sequence in left:
            items = list(islice(left, _number(length)))
            if len(items) != length:
                raise ValueError("a collection's items are missing")
            if capacity or next_sequence:
                _require(kind == "queue", "only a queue has a capacity and a next sequence")
            body, size = _body(kind, items, _number(capacity), _number(next_sequence))
            _require(len(body) == length, "two items are one")
            names.append(_bytes(name))
            found.append(Collection(kind, _number(version), size, body))
    except TypeError as exc:
        raise ValueError("not the rows of collections") from exc
    return Frozen(SortedMap.from_sorted(names, found), sum(one.size for one in found))


def _body(kind: str, items: list[Row], capacity: int, next_sequence: int) -> tuple[Body, int]:
    """Return the body with these items, and what it counts towards the store's limit."""
    match kind:
        case "map" | "cell" | "once":
            keys, values = [_bytes(key) for key, _ in items], [_bytes(value) for _, value in items]
            _require(kind == "map" or not any(keys), "a cell or a once has one item, without a key")
            size = sum(map(len, keys)) + sum(map(len, values)) + ITEM_COST * len(items)
            return SortedMap.from_sorted(keys, values), size
        case "set":
            keys = [_bytes(element) for (element,) in items]
            size = sum(map(len, keys)) + ITEM_COST * len(items)
            return SortedMap.from_sorted(keys, [b""] * len(keys)), size
        case "vec":
            values = [_bytes(value) for (value,) in items]
            return PersistentSequence.of(values), sum(map(len, values)) + ITEM_COST * len(values)
        case "queue":
            return _queue(items, capacity, next_sequence)
        case _:
            raise ValueError("a kind of collection that this machine does not know")


def _queue(items: list[Row], capacity: int, next_sequence: int) -> tuple[Queue, int]:
    keys, entries, order, size = [], [], {}, 0
    for key, value, priority, sequence in items:
        _require(type(priority) is int, "a priority is a whole number")
        _require(_number(sequence) < next_sequence, "an entry comes from the future")
        keys.append(_bytes(key))
        entries.append(QueueEntry(priority, sequence, _bytes(value)))
        order[rank(priority, sequence)] = key
        size += queue_cost(key, value)
    _require(not capacity or len(keys) <= capacity, "a queue holds more than its capacity")
    _require(len({entry.sequence for entry in entries}) == len(entries), "two entries came at once")
    ranks = sorted(order)
    by_rank = SortedMap.from_sorted(ranks, [order[one] for one in ranks])
    return Queue(SortedMap.from_sorted(keys, entries), by_rank, next_sequence, capacity), size


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("a count, an index or a version is a whole number from 0")
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ValueError("a name, a key or a value is bytes")
    return value

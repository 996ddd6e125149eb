"""The rows of a frozen state on their way back: each is put where it belongs when it comes.

So no step is long, however large the state is: a tree's leaves are filled one after the other, and the
branches above them, one for some dozens of leaves, are made when a collection is complete.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from node.machines.collections.frozen import Frozen, Row
from node.machines.collections.queues import cost as queue_cost
from node.machines.collections.queues import rank
from node.machines.collections.sequence import SequenceBuilder
from node.machines.collections.sorted_map import SortedMap, SortedMapBuilder
from node.machines.collections.state import ITEM_COST, Body, Collection, Queue, QueueEntry


class _Filling(ABC):
    """A body that is being filled.

    Attributes:
        size: what it counts towards the store's limit, in bytes.
        filled: how many rows it has.
    """

    def __init__(self) -> None:
        self.size = 0
        self.filled = 0

    def add(self, row: Row) -> None:
        self.size += self._add(row)
        self.filled += 1

    @abstractmethod
    def _add(self, row: Row) -> int:
        """Add a row; return what it counts."""

    @abstractmethod
    def finish(self) -> Body:
        """Return the body; nothing more can be added."""


class _FillingMap(_Filling):
    """A map, or a cell or a once, which have at most one item, under the empty key."""

    def __init__(self, *, keyed: bool) -> None:
        super().__init__()
        self._builder: SortedMapBuilder[bytes] = SortedMapBuilder()
        self._keyed = keyed

    def _add(self, row: Row) -> int:
        key, value = map(_bytes, row)
        _require(self._keyed or not key, "a cell or a once has one item, without a key")
        self._builder.add(key, value)
        return len(key) + len(value) + ITEM_COST

    def finish(self) -> Body:
        return self._builder.finish()


class _FillingSet(_Filling):
    def __init__(self) -> None:
        super().__init__()
        self._builder: SortedMapBuilder[bytes] = SortedMapBuilder()

    def _add(self, row: Row) -> int:
        (element,) = map(_bytes, row)
        self._builder.add(element, b"")
        return len(element) + ITEM_COST

    def finish(self) -> Body:
        return self._builder.finish()


class _FillingVec(_Filling):
    def __init__(self) -> None:
        super().__init__()
        self._builder = SequenceBuilder()

    def _add(self, row: Row) -> int:
        (value,) = map(_bytes, row)
        self._builder.add(value)
        return len(value) + ITEM_COST

    def finish(self) -> Body:
        return self._builder.finish()


class _FillingQueue(_Filling):
    """Its rows go by key. So the order of service is kept as it grows: to sort it in the end takes long."""

    def __init__(self, length: int, capacity: int, next_sequence: int) -> None:
        super().__init__()
        _require(not capacity or length <= capacity, "a queue holds more than its capacity")
        self._entries: SortedMapBuilder[QueueEntry] = SortedMapBuilder()
        self._order: SortedMap[bytes] = SortedMap.empty()
        self._sequences: set[int] = set()
        self._capacity, self._next_sequence = capacity, next_sequence

    def _add(self, row: Row) -> int:
        key, value, priority, sequence = row
        _require(type(priority) is int, "a priority is a whole number")
        _require(_number(sequence) < self._next_sequence, "an entry comes from the future")
        _require(sequence not in self._sequences, "two entries came at once")
        self._sequences.add(sequence)
        self._entries.add(_bytes(key), QueueEntry(priority, sequence, _bytes(value)))
        self._order = self._order.set(rank(priority, sequence), key)
        return queue_cost(key, value)

    def finish(self) -> Body:
        return Queue(self._entries.finish(), self._order, self._next_sequence, self._capacity)


class ThawingRows:
    """Takes the rows of a frozen state, and hands the whole state to ``accept`` in the end."""

    def __init__(self, accept: Callable[[Frozen], None]) -> None:
        self._accept = accept
        self._collections: SortedMapBuilder[Collection] = SortedMapBuilder()
        self._size = 0
        self._head: tuple[bytes, str, int, int] | None = None  # name, kind, version, length
        self._filling: _Filling | None = None

    def take(self, item: Any) -> None:
        if not isinstance(item, list):
            raise ValueError("not the rows of collections")  # noqa: TRY004 - foreign data
        try:
            for row in item:
                self._take_row(row)
        except (TypeError, OverflowError) as exc:
            raise ValueError("not the rows of collections") from exc

    def _take_row(self, row: Row) -> None:
        head, filling = self._head, self._filling
        if head is not None and filling is not None:
            if filling.filled < head[3]:
                filling.add(row)
                return
            self._end_collection(head, filling)
        name, kind, version, length, capacity, next_sequence = row
        if capacity or next_sequence:
            _require(kind == "queue", "only a queue has a capacity and a next sequence")
        self._head = (_bytes(name), kind, _number(version), _number(length))
        self._filling = _filling_of(kind, length, _number(capacity), _number(next_sequence))

    def _end_collection(self, head: tuple[bytes, str, int, int], filling: _Filling) -> None:
        name, kind, version, length = head
        _require(filling.filled == length, "a collection's items are missing")
        self._collections.add(name, Collection(kind, version, filling.size, filling.finish()))
        self._size += filling.size

    def finish(self) -> None:
        if self._head is not None and self._filling is not None:
            self._end_collection(self._head, self._filling)
        self._accept(Frozen(self._collections.finish(), self._size))


_WITHOUT_BOUNDS: Final[dict[str, Callable[[], _Filling]]] = {
    "map": lambda: _FillingMap(keyed=True),
    "cell": lambda: _FillingMap(keyed=False),
    "once": lambda: _FillingMap(keyed=False),
    "set": _FillingSet,
    "vec": _FillingVec,
}


def _filling_of(kind: str, length: int, capacity: int, next_sequence: int) -> _Filling:
    if kind == "queue":
        return _FillingQueue(length, capacity, next_sequence)
    make = _WITHOUT_BOUNDS.get(kind)
    if make is None:
        raise ValueError("a kind of collection that this machine does not know")
    return make()


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
